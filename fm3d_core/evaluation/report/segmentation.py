"""The sections of a report about segmentations."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from fm3d_core.evaluation.dice import mean_dice
from fm3d_core.evaluation.intervals import MeanInterval, mean_with_interval
from fm3d_core.evaluation.report.contours import ContourCase, draw_contours
from fm3d_core.evaluation.report.page import PicturePart, Section, TablePart
from fm3d_core.evaluation.report.plots import plot_cases
from fm3d_core.evaluation.scores import StructureScores

CaseScores = Mapping[str, StructureScores]
_DECIMALS = {"dice": 3, "hd95": 2, "surface_dice": 3}


def segmentation_sections(
    structures: Sequence[str], scores: Mapping[str, CaseScores], worst: Sequence[ContourCase], tolerance: float
) -> list[Section]:
    """Means with intervals, plots, the worst cases as pictures, and the figures of all cases.

    Args:
        structures: in order.
        scores: case -> structure -> figures.
        worst: the cases to draw, worst first.
        tolerance: mm of the surface Dice.
    """
    heads = {"dice": "Dice", "hd95": "HD95 mm", "surface_dice": f"surface Dice, {tolerance:g} mm"}
    values = {
        measure: {name: [float(getattr(case[name], measure)) for case in scores.values()] for name in structures}
        for measure in heads
    }
    means = {
        measure: {name: mean_with_interval(figures) for name, figures in each.items()}
        for measure, each in values.items()
    }
    table = TablePart(
        ["structure", *heads.values()],
        [[name, *(shown(means[measure][name], _DECIMALS[measure]) for measure in heads)] for name in structures],
        f"mean of {len(scores)} cases with its 95 % bootstrap interval",
    )
    plots = [PicturePart(plot_cases(values[measure], means[measure], head)) for measure, head in heads.items()]
    pictures = [
        PicturePart(draw_contours(case, structures), caption_of(case.name, scores[case.name])) for case in worst
    ]
    return [
        Section("Figures", [table]),
        Section("All cases", plots),
        Section("The worst cases, in the planes where truth and prediction differ most", pictures),
        Section("Figures of each case", [_all(structures, scores, heads)]),
    ]


def caption_of(name: str, scores: CaseScores) -> str:
    """A case's name, its mean Dice and that of each structure."""
    each = ", ".join(f"{structure} {figures.dice:.2f}" for structure, figures in scores.items() if figures.counted)
    mean = mean_dice({structure: figures.dice for structure, figures in scores.items()})
    return f"{name}: mean Dice {mean:.3f} ({each})" if each else f"{name}: nothing to measure"


def shown(interval: MeanInterval, decimals: int) -> str:
    """A figure with its interval, or why there is none."""
    if math.isnan(interval.mean):
        return f"- ({interval.note})"
    if math.isnan(interval.low):
        return f"{interval.mean:.{decimals}f} ({interval.note})"
    return f"{interval.mean:.{decimals}f} [{interval.low:.{decimals}f}, {interval.high:.{decimals}f}]"


def _all(structures: Sequence[str], scores: Mapping[str, CaseScores], heads: Mapping[str, str]) -> TablePart:
    rows = [
        [name if number == 0 else "", structure, *(_cell(case[structure], measure) for measure in heads)]
        for name, case in scores.items()
        for number, structure in enumerate(structures)
    ]
    return TablePart(["case", "structure", *heads.values()], rows)


def _cell(figures: StructureScores, measure: str) -> str:
    value = float(getattr(figures, measure))
    if not math.isnan(value):
        return f"{value:.{_DECIMALS[measure]}f}"
    return "missing" if figures.distance_missing else "absent"
