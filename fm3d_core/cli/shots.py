"""Several random draws of k labelled volumes for ``fm3d finetune``: FSEFT's k-shot protocol, with a table."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fm3d_core.cli.shots_table import figures_of, summary_of, table_of
from fm3d_core.errors import CaseError, SettingsError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from fm3d_core.adaptation import Adapter, AdapterStore, FinetuneSettings
    from fm3d_core.progress import ProgressCallback
    from fm3d_core.tasks import SegmentationTask
    from fm3d_core.volumes import Annotation, Case


@dataclass(frozen=True)
class DrawsOption:
    """Random draws instead of the first cases, as FSEFT's protocol has them, and a table of what they are worth.

    Attributes:
        seeds: draw --shots cases so many times; each draw gives a version, none of which becomes active, and Dice is
            measured on the cases that no draw has taken.
        split: draw from this list, a text file with a line "image label" per case, relative to DATA.
        test_split: measure on this list.
        fseft: FSEFT's crops per step, steps and learning rates; schedule and loss stay FM3D's.
        results: JSON file for all figures.
    """

    seeds: int | None = None
    split: Path | None = None
    test_split: Path | None = None
    fseft: bool = False
    results: Path | None = None

    @property
    def wanted(self) -> bool:
        """Whether there is anything to draw."""
        return self.seeds is not None or self.split is not None

    def check(self, shots: int | None, cases: Sequence[str]) -> None:
        """Refuse what does not go together.

        Raises:
            SettingsError: one of these options without the ones it needs.
        """
        if not self.wanted:
            lonely = [
                f"--{name.replace('_', '-')}" for name in ("test_split", "fseft", "results") if getattr(self, name)
            ]
            if lonely:
                raise SettingsError(f"{lonely[0]} goes with --seeds or --split", remedy="Give --shots and --seeds too")
            return
        if shots is None or cases:
            raise SettingsError("draws need --shots, and no --cases", remedy="For example: --shots 5 --seeds 3")
        if self.seeds is not None and not 1 <= self.seeds <= 1000:
            raise SettingsError(f"seeds is {self.seeds}", remedy="Choose a number from 1 to 1000")
        if self.results is not None:
            from fm3d_core.cli.evaluating import check_absent

            check_absent(self.results)


@dataclass(frozen=True)
class Drawn:
    """The cases of a protocol.

    Attributes:
        data: their folder.
        folds: the cases to learn from, of each draw.
        test: those to measure on, none of which a draw has taken from the same list.
        values: structure name -> voxel value.
        annotations: case name -> what of it was annotated.
    """

    data: Path
    folds: tuple[tuple[Case, ...], ...]
    test: tuple[Case, ...]
    values: Mapping[str, int]
    annotations: Mapping[str, Annotation]

    def task(self, labels: Sequence[str], given: SegmentationTask | None) -> SegmentationTask:
        """The task given, or one of the structures of these names, by default all.

        Raises:
            SettingsError: a structure that the labels do not have.
        """
        from fm3d_core.tasks import SegmentationTask

        every = tuple(name for name in self.values if name.lower() != "background")
        task = given or SegmentationTask(tuple(labels) or every)
        if unknown := [name for name in task.labels if name not in self.values]:
            raise SettingsError(
                f"unknown label {', '.join(unknown)}", path=self.data, remedy=f"Its labels: {', '.join(every)}"
            )
        return task


def draw(data: Path, option: DrawsOption, shots: int, labels: Sequence[str]) -> Drawn:
    """Find the cases and draw.

    Args:
        data: folder of the cases, or what the lists are relative to.
        labels: the structures asked for; one name is enough for masks of one structure without labels.json.

    Raises:
        FM3DError: too few cases, or none left to measure on.
    """
    from fm3d_core.adaptation.fseft_protocol import draw_support, number_of_folds
    from fm3d_core.volumes import find_cases, read_annotations, read_label_names
    from fm3d_core.volumes.split_files import read_split

    candidates = read_split(option.split, data) if option.split else find_cases(data, labelled=True)
    folds = [draw_support(candidates, shots, fold) for fold in range(1, number_of_folds(shots, option.seeds or 1) + 1)]
    taken = {case.name for fold in folds for case in fold}
    if option.test_split:
        test = read_split(option.test_split, data)
        if both := sorted(taken & {case.name for case in test}):
            raise CaseError(
                f"names {both[0]}, which is learned from",
                path=option.test_split,
                remedy="Take it off one of the lists",
            )
    else:
        test = [case for case in candidates if case.name not in taken]
    if not test:
        raise CaseError(
            "no case is left to measure on", path=data, remedy="Give fewer --shots or --seeds, or --test-split"
        )
    names = read_label_names(data, [*candidates, *test])
    if names == {1: "structure 1"} and len(labels) == 1:
        names = {1: labels[0]}
    annotations = read_annotations(data, [*candidates, *test])
    return Drawn(
        data, tuple(map(tuple, folds)), tuple(test), {name: value for value, name in names.items()}, annotations
    )


def run_draws(
    drawn: Drawn,
    task: SegmentationTask,
    settings: FinetuneSettings,
    store: AdapterStore,
    console: Console,
) -> list[dict[str, Any]]:
    """Train on every draw, keep what comes out, measure it; the figures of each draw.

    Raises:
        FM3DError: a mistake in cases, settings or weights.
    """
    from fm3d_core.cli.console import progress_bar
    from fm3d_core.cli.evaluating import LabelledFolder, evaluate_adapters
    from fm3d_core.evaluation import TOLERANCE
    from fm3d_core.inference import Predictor

    folder = LabelledFolder(drawn.data, list(drawn.test), drawn.values, drawn.annotations)
    rows: list[dict[str, Any]] = []
    for number, cases in enumerate(drawn.folds, start=1):
        names = [case.name for case in cases]
        said = f"Draw {number} of {len(drawn.folds)}"
        console.print(f"{said}: learning {', '.join(task.labels)} from {', '.join(names)}", soft_wrap=True)
        with progress_bar(console) as show:
            adapter = _learned(cases, drawn, task, replace(settings, seed=settings.seed + number - 1), show)
            adapter = replace(adapter, card=replace(adapter.card, notes=(said, *adapter.card.notes)))
            version = store.save(adapter, activate=False).version
            predictor = Predictor(adapter, settings.device)
            evaluated = evaluate_adapters(folder, [predictor], task.labels, TOLERANCE, progress=show)
        rows.append({"draw": number, "version": version, "cases": names, **figures_of(evaluated, task.labels)})
    return rows


def _learned(
    cases: Sequence[Case],
    drawn: Drawn,
    task: SegmentationTask,
    settings: FinetuneSettings,
    progress: ProgressCallback,
) -> Adapter:
    """The best version of a training that knows of no other draw: it has a store of its own."""
    from fm3d_core.adaptation import AdapterStore, LabeledCase
    from fm3d_core.teaching import teach

    labelled = [
        LabeledCase(case.name, case.image, case.label, drawn.values, drawn.annotations[case.name])
        for case in cases
        if case.label is not None
    ]
    with tempfile.TemporaryDirectory() as folder:
        store = AdapterStore(folder)
        teach(labelled, task, settings, store, progress=progress)
        return store.load()


def tell(drawn: Drawn, rows: Sequence[dict[str, Any]], structures: Sequence[str], results: Path | None) -> Table:
    """The table of the draws; writes the figures to ``results``.

    Raises:
        SettingsError: the file is there.
        StorageError: it cannot be written.
    """
    from fm3d_core.cli.evaluating import write_results

    if results is not None:
        test = [case.name for case in drawn.test]
        write_results(results, {"draws": list(rows), "mean": summary_of(rows), "test": test})
    return table_of(rows, structures, len(drawn.test))
