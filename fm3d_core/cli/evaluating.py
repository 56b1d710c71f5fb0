"""What ``fm3d evaluate`` and ``fm3d compare`` share: unseen cases, segmented by adapters, compared with the truth."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fm3d_core.cli.options import choose_cases
from fm3d_core.errors import CaseError, SettingsError
from fm3d_core.files import atomic_file
from fm3d_core.progress import Progress, ProgressCallback, StageClock

if TYPE_CHECKING:
    from rich.console import Console

    from fm3d_core.adaptation import AdapterCard
    from fm3d_core.evaluation import MeanInterval, StructureScores
    from fm3d_core.inference import Predictor
    from fm3d_core.volumes import Annotation, Case, Volume

Labels = npt.NDArray[np.uint8]
MEASURES = {"dice": "Dice", "hd95": "HD95 mm", "surface_dice": "surface Dice"}
LARGEST_TOLERANCE = 100.0  # mm


@dataclass(frozen=True)
class LabelledFolder:
    """Cases whose truth is known.

    Attributes:
        path: the folder.
        cases: those chosen.
        values: structure name -> voxel value in the label files.
        annotations: case name -> what of it was annotated.
    """

    path: Path
    cases: list[Case]
    values: Mapping[str, int]
    annotations: Mapping[str, Annotation]

    @classmethod
    def read(cls, path: Path, names: Sequence[str], structures: Sequence[str]) -> LabelledFolder:
        """Find the cases.

        Raises:
            FM3DError: no cases, unknown names, or no label of one of the structures.
        """
        from fm3d_core.volumes import find_cases, read_annotations, read_label_names

        every = find_cases(path, labelled=True)
        annotations = read_annotations(path, every)
        cases = choose_cases(every, names, path)
        values = {name: value for value, name in read_label_names(path, cases).items()}
        if missing := [name for name in structures if name not in values]:
            raise SettingsError(
                f"has no label {', '.join(missing)}", path=path, remedy=f"Its labels: {', '.join(values)}"
            )
        return cls(path, cases, values, annotations)


@dataclass(frozen=True)
class EvaluatedCase:
    """The figures of one case.

    Attributes:
        name: of the case.
        image_sha256, label_sha256: of its files.
        scores: one entry per adapter, structure -> figures.
    """

    name: str
    image_sha256: str
    label_sha256: str
    scores: tuple[Mapping[str, StructureScores], ...]


@dataclass(frozen=True)
class Evaluated:
    """All figures, and the names of the cases that an adapter has learned from."""

    cases: list[EvaluatedCase]
    left_out: list[str]


Watcher = Callable[["Case", "Volume", Labels, list[Labels], EvaluatedCase], None]


def evaluate_adapters(
    folder: LabelledFolder,
    predictors: Sequence[Predictor],
    structures: Sequence[str],
    tolerance: float,
    *,
    progress: ProgressCallback,
    watcher: Watcher | None = None,
) -> Evaluated:
    """Segment every case that no adapter has learned from, with each adapter, and compare.

    A case is left out if its image file is one of the training, or if its voxels are, whatever the file is called.

    Args:
        structures: which are compared, all of them known to all adapters.
        tolerance: of the surface Dice, mm.
        watcher: receives each case with its image, truth, segmentations (values i + 1 for ``structures[i]``), figures.

    Raises:
        FM3DError: a case that cannot be used, or every case was learned.
    """
    from fm3d_core.adaptation.cases import sha256_of_image, sha256_of_voxels
    from fm3d_core.evaluation.truth import read_truth
    from fm3d_core.volumes import read_volume

    cards = [predictor.card for predictor in predictors]
    learned_files = {used.image_sha256 for card in cards for used in card.cases}
    learned_voxels = {used.voxels_sha256 for card in cards for used in card.cases}
    clock = StageClock("checking which cases were learned", len(folder.cases), progress)
    hashes = {}
    for done, case in enumerate(folder.cases):
        clock.report(done)
        hashes[case.name] = sha256_of_image(case.image)
    unseen = [case for case in folder.cases if hashes[case.name] not in learned_files]

    evaluated = []
    clock = StageClock("segmenting and comparing", len(unseen), progress)
    for done, case in enumerate(unseen):
        clock.report(done)
        volume = read_volume(case.image)
        if sha256_of_voxels(volume) in learned_voxels:
            continue
        assert case.label is not None  # find_cases(labelled=True)
        truth = read_truth(case.label, volume, folder.values, structures, folder.annotations[case.name])
        segmentations = []
        for number, predictor in enumerate(predictors):
            show = _part_of(clock, done, (number, len(predictors)))
            segmentation = _in_order(predictor.segment(volume, progress=show), predictor.card, structures)
            segmentations.append(truth.comparable(segmentation))
        scores = _scores(segmentations, truth.labels, structures, volume.spacing, tolerance)
        result = EvaluatedCase(case.name, hashes[case.name], sha256_of_image(case.label), scores)
        evaluated.append(result)
        if watcher is not None:
            watcher(case, volume, truth.labels, segmentations, result)
    clock.report(len(unseen))
    if not evaluated:
        raise CaseError("all cases were used in training", path=folder.path, remedy="Add cases it has not seen")
    kept = {case.name for case in evaluated}
    return Evaluated(evaluated, [case.name for case in folder.cases if case.name not in kept])


def check_tolerance(tolerance: float) -> None:
    """Refuse a tolerance that means nothing.

    Raises:
        SettingsError: negative, above 100 mm or not a number.
    """
    if not 0 <= tolerance <= LARGEST_TOLERANCE:
        raise SettingsError(f"tolerance is {tolerance}", remedy=f"Choose mm between 0 and {LARGEST_TOLERANCE:g}")


def check_absent(path: Path) -> None:
    """Refuse to overwrite.

    Raises:
        SettingsError: the file is there.
    """
    if path.exists():
        raise SettingsError("exists already", path=path, remedy="Choose another name with --out")


def write_results(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON, all or nothing, never over another file.

    Raises:
        SettingsError: the file is there.
        StorageError: disk full, no permission.
    """
    check_absent(path)
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False), encoding="utf-8")


def measured(cases: Sequence[EvaluatedCase], adapter: int, structure: str, measure: str) -> list[float]:
    """One figure of every case, NaN where there is none."""
    return [float(getattr(case.scores[adapter][structure], measure)) for case in cases]


def missing_distances(cases: Sequence[EvaluatedCase], adapter: int, structure: str) -> int:
    """In how many cases a structure is in the truth or in the segmentation only, and so has no HD95."""
    return sum(case.scores[adapter][structure].distance_missing for case in cases)


def plain_scores(scores: Mapping[str, StructureScores]) -> dict[str, dict[str, Any]]:
    """Figures as JSON can hold them: what could not be measured is null, and ``found_in`` says why."""
    return {
        name: {**{measure: plain(getattr(figures, measure)) for measure in MEASURES}, "found_in": figures.found_in}
        for name, figures in scores.items()
    }


def plain_interval(interval: MeanInterval) -> dict[str, Any]:
    """A mean with its interval as JSON can hold it."""
    ends = {name: plain(getattr(interval, name)) for name in ("mean", "low", "high")}
    return {**ends, "count": interval.count, **({"note": interval.note} if interval.note else {})}


def plain(value: float) -> float | None:
    """A figure with five decimals; null for NaN."""
    return None if np.isnan(value) else round(float(value), 5)


def say_left_out(evaluated: Evaluated, why: str, console: Console) -> None:
    """Say how many cases do not count."""
    if count := len(evaluated.left_out):
        console.print(f"{count} case{'s are' if count > 1 else ' is'} left out: {why}")


def decimals_of(measure: str) -> int:
    """How many decimals a figure is shown with: mm have fewer."""
    return 2 if measure == "hd95" else 3


def _in_order(segmentation: Labels, card: AdapterCard, structures: Sequence[str]) -> Labels:
    """An adapter's own label values as those of ``structures``; what is not compared becomes background."""
    table = np.zeros(256, np.uint8)
    for index, name in enumerate(structures, start=1):
        table[card.task.values[name]] = index
    return table[segmentation]


def _scores(
    segmentations: Sequence[Labels],
    truth: Labels,
    structures: Sequence[str],
    spacing: tuple[float, float, float],
    tolerance: float,
) -> tuple[Mapping[str, StructureScores], ...]:
    from fm3d_core.evaluation import scores_per_label

    return tuple(scores_per_label(one, truth, structures, spacing, tolerance) for one in segmentations)


def _part_of(clock: StageClock, done: int, part: tuple[int, int]) -> ProgressCallback:
    """The progress of one segmentation as a part of all cases."""
    number, count = part

    def show(event: Progress) -> None:
        within = event.step / event.total if event.total else 0.0
        clock.report(done, fraction=(done + (number + within) / count) / clock.total)

    return show
