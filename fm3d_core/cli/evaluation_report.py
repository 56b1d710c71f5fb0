"""The report of ``fm3d evaluate``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fm3d_core.errors import SettingsError

if TYPE_CHECKING:
    from fm3d_core.cli.evaluate_regions import Masks
    from fm3d_core.cli.evaluating import Evaluated, EvaluatedCase, Labels
    from fm3d_core.evaluation.report.contours import ContourCase
    from fm3d_core.evaluation.report.page import Section
    from fm3d_core.volumes import Volume

MOST_PICTURES = 1000


class WorstCases:
    """The planes of the worst cases seen so far, by mean Dice; those of the others are not kept.

    Args:
        count: how many.
        structures: in order.

    Raises:
        SettingsError: an impossible number.
    """

    def __init__(self, count: int, structures: Sequence[str]) -> None:
        if not 0 <= count <= MOST_PICTURES:
            raise SettingsError(f"worst is {count}", remedy=f"Choose a number from 0 to {MOST_PICTURES}")
        self.count, self.structures = count, tuple(structures)
        self._kept: list[tuple[float, ContourCase]] = []

    def look(self, volume: Volume, truth: Masks, found: Masks, result: EvaluatedCase) -> None:
        """Keep a case if it is one of the worst; one without anything to measure is none."""
        from fm3d_core.evaluation.dice import mean_dice
        from fm3d_core.evaluation.report.contours import contour_case

        dice = mean_dice({name: figures.dice for name, figures in result.scores[0].items()})
        full = len(self._kept) >= self.count
        if self.count == 0 or np.isnan(dice) or (full and dice >= self._kept[-1][0]):
            return
        case = contour_case(result.name, volume.array, volume.spacing, truth, found)
        self._kept = sorted([*self._kept, (dice, case)], key=lambda kept: kept[0])[: self.count]

    def masks(self, labels: Labels) -> Masks:
        """A label map with values 1 + place as a mask of each structure."""
        return {name: labels == value for value, name in enumerate(self.structures, start=1)}

    @property
    def cases(self) -> list[ContourCase]:
        """Worst first."""
        return [case for _, case in self._kept]


def write_segmentation_report(
    path: Path, evaluated: Evaluated, worst: WorstCases, tolerance: float, content: Mapping[str, Any]
) -> None:
    """The report of segmentations.

    Args:
        path: ends in .html.
        evaluated: all figures; of the first adapter are shown.
        worst: to draw.
        tolerance: mm of the surface Dice.
        content: of results.json; what the run was and what it was made of is shown.

    Raises:
        StorageError: disk full, no permission.
    """
    from fm3d_core.evaluation.report.page import write_report
    from fm3d_core.evaluation.report.segmentation import segmentation_sections

    scores = {case.name: case.scores[0] for case in evaluated.cases}
    sections = segmentation_sections(worst.structures, scores, worst.cases, tolerance)
    write_report(path, f"Segmentation of {', '.join(worst.structures)}", [*sections, origin_section(content)])


def origin_section(content: Mapping[str, Any]) -> Section:
    """By what the figures came about: configuration, versions, adapter, and the hashes of the data."""
    from fm3d_core.evaluation.report.page import Section, TablePart, TextPart

    adapter = dict(content.get("adapter") or {})
    card = adapter.pop("card", {})
    about = {**adapter, **{name: card[name] for name in ("method", "backbone", "created") if name in card}}
    hashes = [[name, *(str(case.get(key, "")) for key in _HASHES)] for name, case in content["cases"].items()]
    known = [index for index, _ in enumerate(_HASHES, start=1) if any(row[index] for row in hashes)]
    head = ["case", *(_HASHES[index - 1].replace("_", " ") for index in known)]
    return Section(
        "How this came about",
        [
            TextPart(
                json.dumps({"run": content["run"], "adapter": about}, indent=2, ensure_ascii=False), verbatim=True
            ),
            TablePart(head, [[row[0], *(row[index] for index in known)] for row in hashes]),
        ],
    )


_HASHES = ("image_sha256", "label_sha256")
