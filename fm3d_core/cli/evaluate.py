"""``fm3d evaluate``: how well an adapter does on volumes whose labels or answers are known."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import tyro

from fm3d_core.cli.evaluate_answers import Split
from fm3d_core.cli.evaluating import (
    MEASURES,
    Evaluated,
    EvaluatedCase,
    LabelledFolder,
    check_absent,
    check_tolerance,
    decimals_of,
    evaluate_adapters,
    measured,
    missing_distances,
    plain_interval,
    plain_scores,
    say_left_out,
    write_results,
)
from fm3d_core.cli.evaluation_report import WorstCases, write_segmentation_report
from fm3d_core.cli.options import AdapterOption, identity_of
from fm3d_core.cli.run_record import run_record
from fm3d_core.errors import SettingsError

if TYPE_CHECKING:
    from rich.console import Console

    from fm3d_core.cli.evaluate_regions import Masks
    from fm3d_core.cli.evaluating import Labels
    from fm3d_core.evaluation import ComparisonRow, MeanInterval, StructureScores
    from fm3d_core.volumes import Case, Volume


@dataclass(frozen=True)
class Evaluate:
    """Segment labelled volumes and compare with their labels, on each image's own grid: Dice, HD95, surface Dice.

    Per structure the mean over the cases with its 95 % bootstrap interval. Volumes the adapter has learned from are
    left out, and said so. A structure in neither label nor segmentation is not counted; in one only it has Dice 0 and
    surface Dice 0, and its HD95 is missing and counted as such. Regions that overlap are compared one by one. Where
    labels are partial (annotation.json), figures are over the annotated voxels and structures.

    Of answers about whole volumes: fm3d evaluate cases.csv --predictions predictions.json, or with an adapter. AUC,
    F1, balanced accuracy, mAP, MAE, C-index and calibration with 95 % bootstrap intervals over the cases. Several files
    are runs of one training, with mean and deviation; --against compares with others: one file with one by paired
    bootstrap and Wilcoxon's test, several with several by Welch's t test.

    Attributes:
        data: folder of labelled cases: images/, labels/ and labels.json ({"1": "name"}) or dataset.json; or, for
            answers about whole volumes, a list of cases, JSON or CSV.
        cases: names of the cases; default: all.
        out: FILE.json for all figures, with FILE.html, a report of plots, intervals and the worst cases, and FILE.png
            of the first cases; or a folder for results.json, report.html and comparison.png.
        pictures: how many cases are drawn in the PNG file.
        worst: how many of the worst cases are drawn in the report.
        tolerance: mm by which surfaces may differ in the surface Dice.
        predictions: files of answers (fm3d predict, fm3d probe); CSV files need --task.
        against: files of answers to compare with.
        task: YAML file of what was asked, for CSV files.
        split: which cases of a list.
        root: where the list's relative paths begin; default: the list's folder.
        device: auto, cpu or cuda.
        adapter: which adapter is used.
    """

    data: tyro.conf.Positional[Path]
    cases: tuple[str, ...] = ()
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    pictures: int = 4
    worst: int = 6
    tolerance: float = 2.0
    predictions: tuple[Path, ...] = ()
    against: tuple[Path, ...] = ()
    task: Path | None = None
    split: Split = "test"
    root: Path | None = None
    device: str = "auto"
    adapter: Annotated[AdapterOption, tyro.conf.arg(name="")] = field(default_factory=AdapterOption)

    def run(self) -> None:
        """Segment, compare, print the tables, write the results."""
        from rich.console import Console

        from fm3d_core.cli.console import progress_bar
        from fm3d_core.cli.evaluate_regions import evaluate_regions
        from fm3d_core.evaluation import ComparisonRow
        from fm3d_core.inference import Predictor
        from fm3d_core.tasks import RegionsTask

        console = Console()
        check_tolerance(self.tolerance)
        if self.data.is_file():
            self._evaluate_list(console)
            return
        if self.predictions or self.against:
            raise SettingsError("--predictions go with a list of cases", remedy="Give a JSON or CSV list, not a folder")
        for path in self._files():
            check_absent(path)
        adapter = self.adapter.load()
        task = adapter.card.task
        if task.whole_volume:
            raise SettingsError(
                f"the adapter answers about whole volumes ({task.kind})", remedy="Give a list of cases, JSON or CSV"
            )
        structures = task.labels
        rows: list[ComparisonRow] = []
        worst = WorstCases(self.worst if self.out is not None else 0, structures)

        def keep_regions(volume: Volume, truth: Masks, found: Masks, result: EvaluatedCase) -> None:
            worst.look(volume, truth, found, result)

        def keep(case: Case, volume: Volume, truth: Labels, found: list[Labels], result: EvaluatedCase) -> None:
            worst.look(volume, worst.masks(truth), worst.masks(found[0]), result)
            if self.out is not None and len(rows) < self.pictures:  # the others would fill the memory
                dice = {name: figures.dice for name, figures in result.scores[0].items()}
                rows.append(ComparisonRow(case.name, volume.array, truth, found[0], volume.spacing, dice))

        with console.status("Loading the adapter"):
            predictor = Predictor(adapter, self.device)
        with progress_bar(console) as show:
            if isinstance(task, RegionsTask):
                evaluated = evaluate_regions(
                    self.data, self.cases, predictor, task, self.tolerance, progress=show, watcher=keep_regions
                )
            else:
                folder = LabelledFolder.read(self.data, self.cases, structures)
                evaluated = evaluate_adapters(
                    folder, [predictor], structures, self.tolerance, progress=show, watcher=keep
                )
        say_left_out(evaluated, "the adapter has learned from them", console)
        means = {name: _means(evaluated, name) for name in structures}
        self._show(evaluated, means, console)
        self._write(evaluated, means, rows, worst, console)

    def _evaluate_list(self, console: Console) -> None:
        from fm3d_core.cli.evaluate_answers import evaluate_adapter, evaluate_predictions
        from fm3d_core.volumes import read_data_list

        listed = read_data_list(self.data, root=self.root)
        if self.predictions:
            evaluate_predictions(self, listed, self.predictions, self.against, self.task, console)
        elif self.against:
            raise SettingsError("--against goes with --predictions", remedy="Give files of fm3d predict")
        else:
            evaluate_adapter(self, listed, console)

    def _show(self, evaluated: Evaluated, means: dict[str, dict[str, MeanInterval]], console: Console) -> None:
        from rich.table import Table

        heads = ["Dice", "HD95 mm", f"surface Dice, {self.tolerance:g} mm"]
        table = Table("case", "structure", *heads)
        for case in evaluated.cases:
            for number, (structure, figures) in enumerate(case.scores[0].items()):
                table.add_row("" if number else case.name, structure, *_figures(figures))
            table.add_section()
        console.print(table)
        table = Table("structure", *heads, title=f"mean of {len(evaluated.cases)}, with 95 % bootstrap interval")
        for structure, by_measure in means.items():
            cells = [_interval(interval, decimals_of(measure)) for measure, interval in by_measure.items()]
            if missing := missing_distances(evaluated.cases, 0, structure):
                cells[1] += f"\n{missing} missing"
            table.add_row(structure, *cells)
        console.print(table)
        for note in dict.fromkeys(one.note for by_measure in means.values() for one in by_measure.values() if one.note):
            console.print(f"*: {note}")

    def _write(
        self,
        evaluated: Evaluated,
        means: dict[str, dict[str, MeanInterval]],
        rows: list[ComparisonRow],
        worst: WorstCases,
        console: Console,
    ) -> None:
        from fm3d_core.evaluation import draw_comparison

        if self.out is None:
            return
        results, picture, report = self._files()
        content: dict[str, Any] = {
            "run": run_record(self),
            "tolerance_mm": self.tolerance,
            "means": {
                name: {
                    **{measure: plain_interval(interval) for measure, interval in by_measure.items()},
                    "hd95_missing": missing_distances(evaluated.cases, 0, name),
                }
                for name, by_measure in means.items()
            },
            "cases": {
                case.name: {
                    "image_sha256": case.image_sha256,
                    "label_sha256": case.label_sha256,
                    "structures": plain_scores(case.scores[0]),
                }
                for case in evaluated.cases
            },
            "left_out": evaluated.left_out,
            "adapter": identity_of(self.adapter),
        }
        write_results(results, content)
        write_segmentation_report(report, evaluated, worst, self.tolerance, content)
        for path in (results, report):
            console.print(f"{path}", soft_wrap=True)
        if rows:
            draw_comparison(picture, rows, worst.structures)

    def _files(self) -> list[Path]:
        """Results, picture and report; none without --out."""
        if self.out is None:
            return []
        if self.out.suffix == ".json":
            return [self.out, self.out.with_suffix(".png"), self.out.with_suffix(".html")]
        return [self.out / name for name in ("results.json", "comparison.png", "report.html")]


def _means(evaluated: Evaluated, structure: str) -> dict[str, MeanInterval]:
    from fm3d_core.evaluation import mean_with_interval

    return {name: mean_with_interval(measured(evaluated.cases, 0, structure, name)) for name in MEASURES}


def _figures(figures: StructureScores) -> list[str]:
    if not figures.counted:
        return ["absent", "", ""]
    distance = "missing" if figures.distance_missing else f"{figures.hd95:.2f}"
    return [f"{figures.dice:.3f}", distance, f"{figures.surface_dice:.3f}"]


def _interval(interval: MeanInterval, decimals: int) -> str:
    if np.isnan(interval.mean):
        return "-*"
    ends = f" [{interval.low:.{decimals}f}, {interval.high:.{decimals}f}]" if not np.isnan(interval.low) else "*"
    return f"{interval.mean:.{decimals}f}{ends}".replace("[", r"\[")
