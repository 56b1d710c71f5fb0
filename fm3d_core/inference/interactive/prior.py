"""What a trained network says before any click: clicks then correct it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from fm3d_core.inference.prediction import Prediction


def probability_of(prediction: Prediction, value: int) -> npt.NDArray[np.float32]:
    """The probability (X, Y, Z) of one structure on the volume's RAS grid, 0 outside of what the network saw.

    Args:
        prediction: of the volume.
        value: the structure's voxel value, as in ``card.task.values``.
    """
    return prediction.prepared.restore_map(prediction.scores.softmax(0)[value])
