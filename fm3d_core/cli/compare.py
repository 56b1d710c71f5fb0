"""``fm3d compare``: which of two adapters is better, on the same cases, and whether the cases can show it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import tyro

from fm3d_core.cli.evaluating import (
    MEASURES,
    Evaluated,
    LabelledFolder,
    check_absent,
    check_tolerance,
    decimals_of,
    evaluate_adapters,
    measured,
    missing_distances,
    plain,
    plain_interval,
    plain_scores,
    say_left_out,
    write_results,
)
from fm3d_core.cli.options import AdapterOption, StoreOption, identity_of
from fm3d_core.errors import SettingsError

if TYPE_CHECKING:
    from rich.console import Console

    from fm3d_core.evaluation import PairedComparison


@dataclass(frozen=True)
class Compare:
    """Segment the same labelled volumes with two adapters: means, the difference with its 95 % interval, the verdict.

    The p value is that of the paired Wilcoxon signed-rank test. Cases that either adapter has learned from are left out
    of both. Structures that only one of them knows are not compared. Where a structure was missed, the case has no HD95
    and is counted as missing: its Dice of 0 counts, and says more than the HD95 of the other cases.

    Attributes:
        first, second: a version number of the store, or an adapter folder.
        data: folder of labelled cases: images/, labels/ and labels.json ({"1": "name"}) or dataset.json.
        cases: names of the cases; default: all.
        out: FILE.json for all figures.
        tolerance: mm by which surfaces may differ in the surface Dice.
        device: auto, cpu or cuda.
        store: where the versions are.
    """

    first: tyro.conf.Positional[str]
    second: tyro.conf.Positional[str]
    data: tyro.conf.Positional[Path]
    cases: tuple[str, ...] = ()
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    tolerance: float = 2.0
    device: str = "auto"
    store: Annotated[StoreOption, tyro.conf.arg(name="")] = field(default_factory=StoreOption)

    def run(self) -> None:
        """Segment with both, compare, print the table and the verdicts."""
        from rich.console import Console

        from fm3d_core.cli.console import progress_bar
        from fm3d_core.inference import Predictor

        console = Console()
        check_tolerance(self.tolerance)
        if self.out is not None:
            check_absent(self.out)
        adapters = [self._option(name).load() for name in (self.first, self.second)]
        one, other = (adapter.card.task.labels for adapter in adapters)
        structures = [name for name in one if name in other]
        if not structures:
            raise SettingsError(
                "the adapters have no structure in common",
                remedy=f"{self.first} knows {', '.join(one)}; {self.second} knows {', '.join(other)}",
            )
        if alone := sorted(set(one) ^ set(other)):
            console.print(f"Only one of them knows {', '.join(alone)}: not compared")
        folder = LabelledFolder.read(self.data, self.cases, structures)
        with console.status("Loading the adapters"):
            predictors = [Predictor(adapter, self.device) for adapter in adapters]
        with progress_bar(console) as show:
            evaluated = evaluate_adapters(folder, predictors, structures, self.tolerance, progress=show)
        say_left_out(evaluated, "one of the adapters has learned from them", console)
        compared = {(name, measure): _compared(evaluated, name, measure) for name in structures for measure in MEASURES}
        self._show(evaluated, compared, console)
        if self.out is not None:
            write_results(self.out, self._content(evaluated, compared))
            console.print(f"{self.out}", soft_wrap=True)

    def _option(self, name: str) -> AdapterOption:
        if name.isdecimal():
            return AdapterOption(store=self.store.store, version=int(name))
        return AdapterOption(adapter=Path(name))

    def _names(self) -> tuple[str, str]:
        """The two as they are called in the table: version 3, or a folder's own name where that says which."""
        names = [f"version {name}" if name.isdecimal() else Path(name).name for name in (self.first, self.second)]
        return (names[0], names[1]) if names[0] != names[1] else (self.first, self.second)

    def _show(self, evaluated: Evaluated, compared: dict[tuple[str, str], PairedComparison], console: Console) -> None:
        from rich.table import Table

        from fm3d_core.evaluation import verdict

        names = self._names()
        title = f"mean of {len(evaluated.cases)}, difference with 95 % bootstrap interval, p of the paired Wilcoxon"
        table = Table("structure", "", *names, "difference", "p", title=title)
        for (structure, measure), comparison in compared.items():
            table.add_row(
                structure if measure == "dice" else "",
                MEASURES[measure],
                *(self._mean(evaluated, adapter, structure, measure) for adapter in (0, 1)),
                _difference(comparison, measure),
                "-" if np.isnan(comparison.p) else f"{comparison.p:.3f}",
                end_section=measure == list(MEASURES)[-1],
            )
        console.print(table)
        for (structure, measure), comparison in compared.items():
            words = verdict(comparison, *names, lower_is_better=measure == "hd95")
            console.print(f"{structure}, {MEASURES[measure]}: {words}", soft_wrap=True, highlight=False)
        console.print(f"{len(compared)} comparisons: one of 20 shows a difference by chance where there is none")

    def _mean(self, evaluated: Evaluated, adapter: int, structure: str, measure: str) -> str:
        figures = np.array(measured(evaluated.cases, adapter, structure, measure))
        figures = figures[~np.isnan(figures)]
        mean = f"{figures.mean():.{decimals_of(measure)}f}" if figures.size else "-"
        missing = missing_distances(evaluated.cases, adapter, structure) if measure == "hd95" else 0
        return f"{mean} ({missing} missing)" if missing else mean

    def _content(self, evaluated: Evaluated, compared: dict[tuple[str, str], PairedComparison]) -> dict[str, Any]:
        from fm3d_core.evaluation import verdict

        structures = list(dict.fromkeys(structure for structure, _ in compared))
        return {
            "tolerance_mm": self.tolerance,
            "comparisons": {
                structure: {
                    measure: {
                        "difference": plain_interval(comparison.difference),
                        "median_difference": plain(comparison.median_difference),
                        "p": plain(comparison.p),
                        "verdict": verdict(comparison, *self._names(), lower_is_better=measure == "hd95"),
                    }
                    for measure in MEASURES
                    for comparison in [compared[structure, measure]]
                }
                for structure in structures
            },
            "cases": {
                case.name: {
                    "image_sha256": case.image_sha256,
                    "label_sha256": case.label_sha256,
                    "first": plain_scores(case.scores[0]),
                    "second": plain_scores(case.scores[1]),
                }
                for case in evaluated.cases
            },
            "left_out": evaluated.left_out,
            "first": identity_of(self._option(self.first)),
            "second": identity_of(self._option(self.second)),
        }


def _compared(evaluated: Evaluated, structure: str, measure: str) -> PairedComparison:
    from fm3d_core.evaluation import compare_paired

    first, second = (measured(evaluated.cases, adapter, structure, measure) for adapter in (0, 1))
    return compare_paired(first, second)


def _difference(comparison: PairedComparison, measure: str) -> str:
    difference, decimals = comparison.difference, decimals_of(measure)
    if np.isnan(difference.mean):
        return "-"
    if np.isnan(difference.low):
        return f"{difference.mean:+.{decimals}f} ({difference.note})"
    return rf"{difference.mean:+.{decimals}f} \[{difference.low:+.{decimals}f}, {difference.high:+.{decimals}f}]"
