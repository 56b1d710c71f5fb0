"""FSEFT's k-shot protocol (Silva-Rodriguez et al. 2025; its code at 032f403): random draws that can be repeated.

For fold 1, 2, 3, ... the generator is seeded with fold - 1, k + 1 of the listed volumes are drawn, at most 30, and the
last one drawn is left out (FSEFT keeps it for an optional validation).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from fm3d_core.adaptation.settings import FinetuneSettings
from fm3d_core.errors import CaseError

MOST = 30  # volumes drawn
CROPS, EPOCHS = 6, 199  # of a step, and of a run: an epoch is one step for each labelled volume
# learning rates with the decoder frozen; with a decoder that trains, and for all other methods, TRAINING_RATE
RATES = {
    "linear_probe": 1e-2,
    "bias": 1e-2,
    "affine_ln": 1e-2,
    "adaptformer": 1e-2,
    "compacter": 1e-2,
    "lora": 1e-3,
}
TRAINING_RATE = 1e-4
T = TypeVar("T")


def draw_support(candidates: Sequence[T], shots: int, fold: int) -> list[T]:
    """The volumes of one fold.

    Args:
        candidates: in the order of their list, on which the draw depends.
        shots: k; of 30 and more, 29 are drawn.
        fold: 1, 2, 3, ...

    Raises:
        CaseError: fewer candidates than are drawn.
    """
    count = min(shots + 1, MOST)
    if shots < 1 or len(candidates) < count:
        raise CaseError(
            f"{len(candidates)} cases are too few to draw {shots} and one more",
            remedy="Choose a smaller --shots, of at least 1, or list more cases",
        )
    return random.Random(fold - 1).sample(list(candidates), count)[:-1]


def number_of_folds(shots: int, seeds: int) -> int:
    """As many as are asked for, but one of 30 volumes and more, as FSEFT has it."""
    return 1 if shots >= MOST else seeds


def fseft_settings(given: FinetuneSettings, shots: int) -> FinetuneSettings:
    """FSEFT's crops per step, and its steps and learning rate where none are given. Schedule and loss stay FM3D's."""
    trains = {"finetuned", "new"} & {given.decoder, given.bottleneck}
    rate = TRAINING_RATE if trains else RATES.get(given.method, TRAINING_RATE)
    return replace(
        given,
        batch_size=CROPS,
        steps=given.steps or EPOCHS * min(shots, MOST - 1),
        learning_rate=given.learning_rate or rate,
    )
