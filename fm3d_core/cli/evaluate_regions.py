"""``fm3d evaluate`` of regions that overlap: each is compared by itself, with the union of its label values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from fm3d_core.cli.evaluating import Evaluated, EvaluatedCase
from fm3d_core.cli.options import choose_cases
from fm3d_core.errors import CaseError
from fm3d_core.progress import ProgressCallback, StageClock

if TYPE_CHECKING:
    from fm3d_core.inference import Predictor
    from fm3d_core.tasks import RegionsTask
    from fm3d_core.volumes import Volume

Masks = Mapping[str, npt.NDArray[np.bool_]]
RegionsWatcher = Callable[["Volume", Masks, Masks, EvaluatedCase], None]


def evaluate_regions(
    data: Path,
    names: Sequence[str],
    predictor: Predictor,
    task: RegionsTask,
    tolerance: float,
    *,
    progress: ProgressCallback,
    watcher: RegionsWatcher,
) -> Evaluated:
    """Segment every case that the adapter has not learned from, and compare.

    Args:
        data: folder of labelled cases; images of several channels are 4D files.
        names: of the cases; none: all.
        predictor: of the adapter.
        task: of the adapter.
        tolerance: mm of the surface Dice.
        progress: receives the stage "segmenting and comparing".
        watcher: receives each image with its true and found masks and the figures.

    Raises:
        FM3DError: a case that cannot be used, or every case was learned.
    """
    from fm3d_core.adaptation.cases import sha256_of_image, sha256_of_voxels
    from fm3d_core.evaluation import scores_of_masks
    from fm3d_core.volumes import check_label, find_cases, read_channels, read_label

    cases = choose_cases(find_cases(data, labelled=True), names, data)
    used = predictor.card.cases
    learned = {sha256 for case in used for sha256 in (case.image_sha256, case.voxels_sha256) if sha256}
    evaluated, left_out = [], []
    clock = StageClock("segmenting and comparing", len(cases), progress)
    for done, case in enumerate(cases):
        clock.report(done)
        assert case.label is not None  # find_cases(labelled=True)
        volume = read_channels((case.image,), task.channels)
        image_sha256 = sha256_of_image(case.image)
        if learned & {image_sha256, sha256_of_voxels(volume)}:
            left_out.append(case.name)
            continue
        label = read_label(case.label)
        check_label(label, volume, allow_empty=True)
        truth = {name: np.isin(label.array, values) for name, values in task.regions}
        found = dict(zip(task.labels, predictor.segment_regions(volume), strict=True))
        scores = {name: scores_of_masks(found[name], truth[name], volume.spacing, tolerance) for name in task.labels}
        result = EvaluatedCase(case.name, image_sha256, sha256_of_image(case.label), (scores,))
        evaluated.append(result)
        watcher(volume, truth, found, result)
    clock.report(len(cases))
    if not evaluated:
        raise CaseError("all cases were used in training", path=data, remedy="Add cases it has not seen")
    return Evaluated(evaluated, left_out)
