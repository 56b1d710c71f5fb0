"""What ``fm3d predict --quality`` writes beside each segmentation, and the table at the end."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fm3d_core.errors import CaseError
from fm3d_core.files import atomic_file

if TYPE_CHECKING:
    from rich.table import Table

    from fm3d_core.inference import CaseQuality, Predictor, References, Refinement
    from fm3d_core.progress import ProgressCallback

SUFFIX = "_quality.json"
MOST_REFERENCES = 10  # labelled volumes; more make the check slower and hardly better


def write_quality(folder: Path, name: str, quality: CaseQuality) -> None:
    """``NAME_quality.json`` beside a segmentation, and ``quality.csv`` of all that are in the folder, worst first.

    Raises:
        StorageError: disk full, no permission.
    """
    with atomic_file(folder / f"{name}{SUFFIX}") as temporary:
        temporary.write_text(json.dumps(quality.to_dict(), indent=1, ensure_ascii=False), encoding="utf-8")
    rows: list[list[Any]] = []
    for path in folder.glob(f"*{SUFFIX}"):
        data = json.loads(path.read_text(encoding="utf-8"))
        case = path.name.removesuffix(SUFFIX)
        rows.append([case, data["value"], data["low"], data["high"], "; ".join(data["reasons"])])
    rows.sort(key=lambda row: float(row[1]))
    with atomic_file(folder / "quality.csv") as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["case", "expected_dice", "low", "high", "reasons"])
        writer.writerows(rows)


def quality_table(found: Mapping[str, CaseQuality]) -> Table:
    """Case, expected Dice and reasons, worst first."""
    from rich.table import Table

    table = Table("case", "expected Dice", "what speaks against it", title="Look at the first ones first")
    for name, quality in sorted(found.items(), key=lambda item: item[1].value):
        table.add_row(name, str(quality), "\n".join(quality.reasons))
    return table


def refinement_in_words(refined: Refinement) -> str:
    """What a refinement changed, in one line."""
    if not refined.steps:
        return "Not refined: all sizes are within 30 % of those in the labelled volumes"
    sizes = "; ".join(
        f"{name} {refined.before[name]:.3g} -> {refined.after[name]:.3g} ml (labelled volumes: {wanted:.3g} ml)"
        for name, wanted in refined.wanted.items()
    )
    return f"Refined in {refined.steps} steps, {refined.changed} voxels changed: {sizes}"


def read_references(folder: Path, predictor: Predictor, progress: ProgressCallback) -> References | None:
    """The labelled volumes of a folder for the reverse check: those the adapter has learned from, else the first ones.

    Raises:
        FM3DError: no labelled cases, or no label of one of the structures.
    """
    from fm3d_core.adaptation import LabeledCase
    from fm3d_core.cli.evaluating import LabelledFolder
    from fm3d_core.inference import references_of

    labelled = LabelledFolder.read(folder, (), predictor.card.task.labels)
    learned = {case.name for case in predictor.card.cases}
    chosen = [case for case in labelled.cases if case.name in learned] or labelled.cases
    cases = [
        LabeledCase(case.name, case.image, case.label, labelled.values, labelled.annotations[case.name])
        for case in chosen[:MOST_REFERENCES]
        if case.label is not None
    ]
    if not cases:
        raise CaseError("holds no labelled case", path=folder, remedy="Give a folder with images/ and labels/")
    return references_of(predictor, cases, progress=progress)
