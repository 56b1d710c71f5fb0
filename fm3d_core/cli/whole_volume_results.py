"""What is written about answers for whole volumes: results.json, predictions, and the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fm3d_core.cli.evaluating import check_absent, plain, plain_interval, write_results
from fm3d_core.cli.evaluation_report import origin_section
from fm3d_core.errors import FM3DError

if TYPE_CHECKING:
    from rich.table import Table

    from fm3d_core.evaluation.intervals import MeanInterval
    from fm3d_core.evaluation.predictions import Predictions
    from fm3d_core.evaluation.report.page import Section
    from fm3d_core.volumes import ListedCase

Numbers = npt.NDArray[np.float64]
FILES = ("results.json", "report.html", "predictions.json", "predictions.csv")


def check_folder(out: Path) -> None:
    """Refuse to write over results.

    Raises:
        SettingsError: one of the files is there.
    """
    for name in FILES:
        check_absent(out / name)


def figures_table(figures: Mapping[str, MeanInterval], title: str) -> Table:
    """Figures with their intervals."""
    from rich.table import Table

    from fm3d_core.evaluation.report.segmentation import shown
    from fm3d_core.evaluation.volume_figures import NAMES

    table = Table("figure", "value", title=title)
    for name, interval in figures.items():
        table.add_row(NAMES.get(name, name), shown(interval, 3).replace("[", r"\["))
    return table


def write_whole_volume_results(
    out: Path,
    title: str,
    predictions: Predictions,
    targets: Numbers,
    figures: Mapping[str, MeanInterval],
    cases: Sequence[ListedCase],
    content: Mapping[str, Any],
    *,
    worst: int,
    sections: Sequence[Section] = (),
) -> None:
    """Write all of :data:`FILES` into a folder.

    Args:
        out: the folder.
        title: of the report.
        predictions: of the n cases.
        targets: (n, T).
        figures: over the cases.
        cases: in the order of the predictions, whose images are drawn.
        content: of results.json, besides the figures and the cases; with ``run``.
        worst: how many cases are drawn.
        sections: of the report, after its own.

    Raises:
        SettingsError: a file is there.
        StorageError: disk full, no permission.
    """
    from fm3d_core.evaluation.predictions import write_csv, write_json
    from fm3d_core.evaluation.report.page import write_report
    from fm3d_core.evaluation.report.whole_volume import whole_volume_sections, worst_first
    from fm3d_core.evaluation.volume_figures import errors_of_cases, figures_per_class

    task, activated = predictions.task, predictions.activated
    errors = errors_of_cases(task, activated, targets)
    per_case = {
        name: {
            **({"image_sha256": predictions.hashes[name]} if name in predictions.hashes else {}),
            "answer": answer,
            "truth": target,
            "error": plain(error),
        }
        for (name, answer), target, error in zip(
            predictions.answers().items(), targets.tolist(), errors.tolist(), strict=True
        )
    }
    by_class = figures_per_class(task, activated, targets)
    results = {
        **content,
        "task": task.to_dict(),
        "figures": {name: plain_interval(interval) for name, interval in figures.items()},
        "per_class": {label: {name: plain(value) for name, value in each.items()} for label, each in by_class.items()},
        "cases": per_case,
    }
    write_results(out / "results.json", results)
    write_json(out / "predictions.json", predictions)
    write_csv(out / "predictions.csv", predictions)
    order = worst_first(task, activated, targets)[:worst]
    pictures = pictures_of([cases[index] for index in order])
    own = whole_volume_sections(task, predictions.names, activated, targets, figures, pictures)
    write_report(out / "report.html", title, [*own, *sections, origin_section(results)])


def pictures_of(cases: Sequence[ListedCase]) -> dict[str, bytes]:
    """Case -> its first channel in three planes; an image that is not there any more has none."""
    from fm3d_core.evaluation.planes import PlanesPanel, middle_of, planes_png
    from fm3d_core.volumes import read_channels

    found = {}
    for case in cases:
        try:
            volume = read_channels(case.images[:1])
        except FM3DError:
            continue
        low, high = np.percentile(volume.array, (1, 99))
        position = middle_of(volume.array > low + 0.1 * (high - low))
        found[case.name] = planes_png(volume.array, volume.spacing, [PlanesPanel("")], position)
    return found
