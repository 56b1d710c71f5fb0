"""The truth of a case as far as it was annotated: what nobody has looked at counts neither for nor against."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fm3d_core.volumes import COMPLETE, IGNORED, Annotation, Volume, check_label, map_label, read_label

Labels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Truth:
    """A label map to compare with.

    Attributes:
        labels: (X, Y, Z) with 0 for background and for what is not known, i + 1 for the i-th structure.
        known: (X, Y, Z), which voxels were annotated.
        annotated: (structures + 1,), which label values were looked for.
    """

    labels: Labels
    known: npt.NDArray[np.bool_]
    annotated: npt.NDArray[np.bool_]

    def comparable(self, segmentation: Labels) -> Labels:
        """A segmentation, as background where it cannot be judged."""
        return np.where(self.known & self.annotated[segmentation], segmentation, 0).astype(np.uint8)


def read_truth(
    path: Path,
    volume: Volume,
    values: Mapping[str, int],
    structures: Sequence[str],
    annotation: Annotation = COMPLETE,
) -> Truth:
    """Read a label file for comparison.

    Args:
        path: the label file.
        volume: its image.
        values: structure name -> voxel value in the file.
        structures: those to compare, in order.
        annotation: what of it was annotated.

    Raises:
        FM3DError: the file cannot be read, does not fit the image, or contradicts the annotation.
    """
    label = read_label(path, names=annotation.names_of(values))
    check_label(label, volume, allow_empty=True)
    mapped = map_label(label, values, structures, annotation)[0].array
    known = mapped != IGNORED
    looked_for = annotation.structures
    annotated = np.array([True, *(looked_for is None or name in looked_for for name in structures)])
    return Truth(np.where(known, mapped, 0).astype(np.uint8), known, annotated)
