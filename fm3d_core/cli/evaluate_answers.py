"""``fm3d evaluate`` of answers about whole volumes: from files of predictions, or by an adapter, against a list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from fm3d_core.cli.answers_comparison import comparison_of, comparison_section, comparison_table
from fm3d_core.cli.run_record import run_record
from fm3d_core.cli.task_options import with_targets
from fm3d_core.cli.whole_volume_results import check_folder, figures_table, write_whole_volume_results
from fm3d_core.errors import CaseError, FM3DError, SettingsError

if TYPE_CHECKING:
    from rich.console import Console

    from fm3d_core.evaluation.predictions import Predictions
    from fm3d_core.tasks import WholeVolumeTask
    from fm3d_core.volumes import DataList, ListedCase

Numbers = npt.NDArray[np.float64]
Split = Literal["test", "validation", "training"]


@dataclass(frozen=True)
class Judged:
    """Answers whose truth is known.

    Attributes:
        predictions: of the n cases.
        targets: (n, T).
        cases: of the list, in the same order.
        left_out: cases of the list without truth or answer, with the reason.
    """

    predictions: Predictions
    targets: Numbers
    cases: list[ListedCase]
    left_out: list[str]


def cases_of(listed: DataList, split: Split) -> Sequence[ListedCase]:
    """The cases of one split.

    Raises:
        CaseError: there are none.
    """
    cases: Sequence[ListedCase] = getattr(listed, split)
    if not cases:
        there = [name for name in ("training", "validation", "test") if getattr(listed, name)]
        raise CaseError(f"has no {split} cases", path=listed.path, remedy=f"Say --split {' or '.join(there)}")
    return cases


def judge(predictions: Predictions, cases: Sequence[ListedCase]) -> Judged:
    """Bring answers and truth together by the cases' names.

    Raises:
        CaseError: no case has both.
    """
    from dataclasses import replace

    known, targets, left_out = with_targets(predictions.task, cases)
    places = {name: place for place, name in enumerate(predictions.names)}
    both = [index for index, case in enumerate(known) if case.name in places]
    left_out += [f"{case.name}: no answer" for case in known if case.name not in places]
    if not both:
        raise CaseError(
            "no case of the list has an answer",
            remedy=f"Cases are matched by name: the list has {cases[0].name}, the answers {predictions.names[0]}"
            if predictions.names
            else "The file of predictions is empty",
        )
    chosen = [known[index] for index in both]
    kept = replace(
        predictions,
        names=tuple(case.name for case in chosen),
        activated=predictions.activated[[places[case.name] for case in chosen]],
    )
    return Judged(kept, np.array([targets[index] for index in both], np.float64), chosen, left_out)


def evaluate_predictions(
    command: Any,
    listed: DataList,
    files: Sequence[Path],
    against: Sequence[Path],
    task: Path | None,
    console: Console,
) -> None:
    """Judge files of predictions, and compare them with others if there are any.

    Args:
        command: its options, of which ``split``, ``out`` and ``worst`` are used; they are written with the results.
        listed: the truth.
        files: of one training each, of the same question; of the first all figures are shown.
        against: of other trainings.
        task: what was asked, for CSV files.
        console: where to say it.

    Raises:
        FM3DError: a file, the list or the options cannot be used.
    """
    from fm3d_core.evaluation.predictions import read_predictions
    from fm3d_core.files import sha256_of

    asked = _asked(task)
    cases = cases_of(listed, command.split)
    judged = [judge(read_predictions(path, asked), cases) for path in files]
    others = [judge(read_predictions(path, asked), cases) for path in against]
    judged, others = _on_the_same(judged, others)
    hashes = {str(path): sha256_of(path) for path in (listed.path, *files, *against)}
    show_and_write(command, judged, others, {"files_sha256": hashes}, console)


def evaluate_adapter(command: Any, listed: DataList, console: Console) -> None:
    """Ask an adapter about the cases of a list that it has not learned from, and judge its answers.

    Args:
        command: its options, of which ``adapter``, ``device``, ``split``, ``out`` and ``worst`` are used.
        listed: the truth.
        console: where to say it.

    Raises:
        FM3DError: the adapter is about voxels, or the list cannot be used.
    """
    from fm3d_core.adaptation.cases import sha256_of_image, sha256_of_voxels
    from fm3d_core.cli.console import progress_bar
    from fm3d_core.cli.options import identity_of
    from fm3d_core.evaluation.predictions import Predictions
    from fm3d_core.evaluation.probing.features import sha256_of_images
    from fm3d_core.inference import ImagePredictor
    from fm3d_core.progress import StageClock
    from fm3d_core.volumes import read_channels

    adapter = command.adapter.load()
    if not adapter.card.task.whole_volume:
        raise SettingsError(
            f"a list is for answers about whole volumes, the adapter's task is {adapter.card.task.kind}",
            remedy="Give a folder with images/ and labels/, or files of answers with --predictions",
        )
    predictor = ImagePredictor(adapter, command.device)
    cases = cases_of(listed, command.split)
    learned = {sha256 for used in adapter.card.cases for sha256 in (used.image_sha256, used.voxels_sha256) if sha256}
    rows, hashes, left_out = {}, {}, []
    with progress_bar(console) as show:
        clock = StageClock("answering", len(cases), show)
        for done, case in enumerate(cases):
            clock.report(done)
            try:
                volume = read_channels(case.images, predictor.task.channels)
                if learned & {sha256_of_image(case.images[0]), sha256_of_voxels(volume)}:
                    left_out.append(f"{case.name}: the adapter has learned from it")
                    continue
                rows[case.name] = predictor.activated(volume)
                hashes[case.name] = sha256_of_images(case.images)
            except FM3DError as error:
                left_out.append(f"{case.name}: {error.problem}")
        clock.report(len(cases))
    if not rows:
        raise CaseError("no case could be answered", path=listed.path, remedy=f"The first: {left_out[0]}")
    activated = np.array(list(rows.values()), np.float64)
    judged = judge(
        Predictions(predictor.task, tuple(rows), activated, hashes), [one for one in cases if one.name in rows]
    )
    judged.left_out[:0] = left_out
    show_and_write(command, [judged], [], {"adapter": identity_of(command.adapter)}, console)


def show_and_write(
    command: Any, judged: Sequence[Judged], others: Sequence[Judged], content: Mapping[str, Any], console: Console
) -> None:
    """Figures of the first, the spread of several, the comparison with others; with ``command.out`` the files too."""
    from fm3d_core.evaluation.volume_figures import figures_with_intervals

    first = judged[0]
    if command.out is not None:
        _require_folder(command.out)
        check_folder(command.out)
    for line in first.left_out:
        console.print(f"Left out: {line}", soft_wrap=True)
    figures = figures_with_intervals(first.predictions.task, first.predictions.activated, first.targets)
    console.print(figures_table(figures, f"{len(first.cases)} {command.split} cases"))
    rows = comparison_of(judged, others)
    sections = []
    if rows:
        console.print(comparison_table(rows, len(judged), len(others)))
        sections.append(comparison_section(rows, len(judged), len(others)))
    if command.out is None:
        return
    results = {"run": run_record(command), **content, "left_out": first.left_out, "comparison": rows}
    task = first.predictions.task
    write_whole_volume_results(
        command.out,
        f"{task.kind.capitalize()}: {', '.join(task.labels)}",
        first.predictions,
        first.targets,
        figures,
        first.cases,
        results,
        worst=command.worst,
        sections=sections,
    )
    console.print(f"{command.out}: results.json, report.html, predictions.json, predictions.csv", soft_wrap=True)


def _asked(task: Path | None) -> WholeVolumeTask | None:
    from fm3d_core.tasks import WholeVolumeTask, read_task

    if task is None:
        return None
    found = read_task(task)
    if not isinstance(found, WholeVolumeTask):
        raise SettingsError(f"asks about voxels ({found.kind})", path=task, remedy="Give a task about whole volumes")
    return found


def _require_folder(out: Path) -> None:
    if out.suffix == ".json":
        raise SettingsError(f"out is {out}", remedy="Name a folder for answers about whole volumes")


def _on_the_same(judged: Sequence[Judged], others: Sequence[Judged]) -> tuple[list[Judged], list[Judged]]:
    """All of the same question, on the cases that all have answers for."""
    from dataclasses import replace

    each = [*judged, *others]
    task = each[0].predictions.task
    if any((one.predictions.task.kind, one.predictions.task.labels) != (task.kind, task.labels) for one in each):
        raise SettingsError("the files answer different questions", remedy="Give predictions of one task")
    common = set.intersection(*(set(one.predictions.names) for one in each))
    if not common:
        raise CaseError("no case has an answer in all files", remedy="Give predictions of the same cases")
    found = []
    for one in each:
        rows = [index for index, name in enumerate(one.predictions.names) if name in common]
        names = [one.predictions.names[index] for index in rows]
        missing = [f"{name}: no answer in another file" for name in one.predictions.names if name not in common]
        kept = replace(one.predictions, names=tuple(names), activated=one.predictions.activated[rows])
        found.append(Judged(kept, one.targets[rows], [one.cases[index] for index in rows], [*one.left_out, *missing]))
    return found[: len(judged)], found[len(judged) :]
