"""``fm3d evaluate``: how well an adapter segments volumes whose labels are known."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import tyro

from fm3d_core.cli.options import AdapterOption, choose_cases
from fm3d_core.errors import CaseError, SettingsError
from fm3d_core.files import atomic_file, sha256_of

if TYPE_CHECKING:
    from rich.console import Console

    from fm3d_core.adaptation import AdapterCard
    from fm3d_core.evaluation import ComparisonRow
    from fm3d_core.inference import Predictor
    from fm3d_core.volumes import Annotation, Case


@dataclass(frozen=True)
class Evaluate:
    """Segment labelled volumes and compare with their labels: Dice per structure, on each image's own grid.

    Volumes the adapter has learned from are left out, and said so. Where labels are partial (annotation.json), Dice is
    over the annotated voxels, and of the annotated structures of each volume.

    Attributes:
        data: folder of labelled cases: images/, labels/ and labels.json ({"1": "name"}) or dataset.json.
        cases: names of the cases; default: all.
        out: folder for results.json, and comparison.png of the first cases.
        pictures: how many cases are drawn.
        device: auto, cpu or cuda.
        adapter: which adapter is used.
    """

    data: tyro.conf.Positional[Path]
    cases: tuple[str, ...] = ()
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    pictures: int = 4
    device: str = "auto"
    adapter: Annotated[AdapterOption, tyro.conf.arg(name="")] = field(default_factory=AdapterOption)

    def run(self) -> None:
        """Segment, compare, print the table, write the results."""
        from rich.console import Console

        from fm3d_core.inference import Predictor
        from fm3d_core.volumes import find_cases, read_annotations, read_label_names

        console = Console()
        if self.out is not None and (self.out / "results.json").exists():
            raise SettingsError("exists already", path=self.out / "results.json", remedy="Choose another folder")
        adapter = self.adapter.load()
        every = find_cases(self.data, labelled=True)
        annotations = read_annotations(self.data, every)
        found = choose_cases(every, self.cases, self.data)
        found = self._without_learned(found, adapter.card, console)
        values = {name: value for value, name in read_label_names(self.data, found).items()}
        if missing := [name for name in adapter.card.task.labels if name not in values]:
            raise SettingsError(
                f"has no label {', '.join(missing)}", path=self.data, remedy=f"Its labels: {', '.join(values)}"
            )
        predictor = Predictor(adapter, self.device)
        rows = []
        for number, case in enumerate(found, start=1):
            with console.status(f"Segmenting {case.name} ({number} of {len(found)})"):
                rows.append(_compare(case, predictor, values, annotations[case.name]))
        self._show(rows, adapter.card, console)

    def _without_learned(self, cases: list[Case], card: AdapterCard, console: Console) -> list[Case]:
        learned = {case.image_sha256 for case in card.cases}
        kept = [case for case in cases if case.image.is_dir() or sha256_of(case.image) not in learned]
        if len(kept) < len(cases):
            console.print(f"{len(cases) - len(kept)} cases are left out: the adapter has learned from them")
        if not kept:
            raise CaseError("all cases were used in training", path=self.data, remedy="Add cases it has not seen")
        return kept

    def _show(self, rows: list[ComparisonRow], card: AdapterCard, console: Console) -> None:
        from rich.table import Table

        labels = card.task.labels
        table = Table("case", *(name for name in labels), title="Dice")
        scores = np.array([[row.dice[name] for name in labels] for row in rows])
        for row, values in zip(rows, scores, strict=True):
            table.add_row(row.name, *(_figure(value) for value in values))
        table.add_section()
        means = [float(np.nanmean(column)) if not np.isnan(column).all() else float("nan") for column in scores.T]
        table.add_row(f"mean of {len(rows)}", *(_figure(value) for value in means))
        console.print(table)
        if self.out is not None:
            self._write(rows, dict(zip(labels, means, strict=True)), card)
            console.print(f"{self.out / 'results.json'}", soft_wrap=True)

    def _write(self, rows: list[ComparisonRow], means: dict[str, float], card: AdapterCard) -> None:
        from fm3d_core.evaluation import draw_comparison

        assert self.out is not None
        if self.pictures > 0:
            draw_comparison(self.out / "comparison.png", rows[: self.pictures], card.task.labels)
        content = {
            "mean_dice": _plain(means),
            "dice": {row.name: _plain(row.dice) for row in rows},
            "adapter": card.to_dict(),
        }
        with atomic_file(self.out / "results.json") as temporary:
            temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False), encoding="utf-8")


def _compare(case: Case, predictor: Predictor, values: dict[str, int], annotation: Annotation) -> ComparisonRow:
    from fm3d_core.evaluation import ComparisonRow, dice_per_label
    from fm3d_core.volumes import IGNORED, check_label, map_label, read_label, read_volume

    assert case.label is not None  # find_cases(labelled=True)
    labels = predictor.card.task.labels
    volume = read_volume(case.image)
    label = read_label(case.label, names=annotation.names_of(values))
    check_label(label, volume, allow_empty=True)
    truth = map_label(label, values, labels, annotation)[0].array
    known = truth != IGNORED
    truth = np.where(known, truth, 0)
    prediction = predictor.segment(volume)
    dice = dice_per_label(np.where(known, prediction, 0), truth, labels)
    if annotation.structures is not None:
        dice = {name: value if name in annotation.structures else float("nan") for name, value in dice.items()}
    return ComparisonRow(case.name, volume.array, truth, prediction, volume.spacing, dice)


def _figure(value: float) -> str:
    return "absent" if np.isnan(value) else f"{value:.3f}"


def _plain(scores: Mapping[str, float]) -> dict[str, float | None]:
    """Scores as JSON can hold them: what could not be measured is null."""
    return {name: None if np.isnan(value) else round(float(value), 5) for name, value in scores.items()}
