"""Few labelled volumes: FM3D beside its peers, with equal volumes and equal core-seconds for everyone.

    python benchmarks/few_shot.py --data ../shared/data --out few_shot.jsonl
    python benchmarks/few_shot.py --out few_shot.jsonl --table

Each row (set, k, seed, method, budget) is one process with one thread (few_shot_row.py) whose result is appended to
--out; rows that are there are passed over, so a run can be broken off and gone on with. A row that could not be run
says why and is tried again the next time. Sets and volumes: few_shot_sets.py.

Methods: fm3d (the default), fm3d:METHOD (fm3d methods); fm3d:fast, fm3d:balanced and fm3d:thorough, each with the
core-seconds that the preset itself takes, whatever the budgets are; unet and swin_unetr
(MONAI's, from scratch in bfloat16: few_shot_scratch.py); fseft_loop (few_shot_fseft.py); nnunet as it comes and
nnunet_adamw, both cut to the budget (few_shot_nnunet.py; in an environment of its own, see there).
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from few_shot_fm3d import preset_seconds
from few_shot_row import METHODS, Row
from few_shot_sets import SETS
from few_shot_table import paired_table_of, table_of
from rich.console import Console


@dataclass(frozen=True)
class Benchmark:
    """What is measured.

    Attributes:
        data: folder of the sets.
        sets: which of them.
        shots: numbers of labelled volumes.
        seeds: of the volumes drawn and of training; 0 is the protocol of ../shared/specs/few_shot_anchor.md.
        methods: which are compared.
        budgets: core-seconds of training.
        out: JSON lines, one a row.
        table: print the tables of what is in --out and run nothing: all rows, and fm3d in pairs with each peer.
        nnunet: the environment in which nnU-Net is installed.
    """

    data: Path = Path("../shared/data")
    sets: tuple[str, ...] = tuple(SETS)
    shots: tuple[int, ...] = (1, 3, 5, 10)
    seeds: tuple[int, ...] = (0, 1, 2)
    methods: tuple[str, ...] = ("fm3d", "unet", "swin_unetr", "fseft_loop", "nnunet")
    budgets: tuple[float, ...] = (60,)
    out: Path = Path("few_shot.jsonl")
    table: bool = False
    nnunet: Path = Path("../nnunet-venv")

    def rows(self) -> Iterator[Row]:
        """Set by set, the methods of one setting one after the other."""
        for name, shots, seed in itertools.product(self.sets, self.shots, self.seeds):
            for method in self.methods:
                own = preset_seconds(method)
                for budget in self.budgets if own is None else (own,):
                    yield Row(name, shots, seed, method, budget, self.data, self.nnunet)

    def run(self) -> None:
        """Measure what is missing and print the table."""
        if unknown := {method.partition(":")[0] for method in self.methods} - set(METHODS):
            raise SystemExit(f"unknown: {', '.join(sorted(unknown))}; methods are {', '.join(METHODS)}")
        console = Console(highlight=False, soft_wrap=True)
        finished = read_rows(self.out)
        done = {key_of(row) for row in finished}
        for row in () if self.table else self.rows():
            if row.key in done:
                continue
            start = time.monotonic()
            console.print(f"{row.set} k={row.shots} seed={row.seed} {row.method} {row.budget:g} core-s: ", end="")
            result = run_row(row)
            if isinstance(result, str):
                console.print(f"not run: {result}", markup=False)
                continue
            append(self.out, result)
            finished.append(result)
            console.print(f"Dice {result['dice']:.3f}, {time.monotonic() - start:.0f} s in all")
        console.print(table_of(finished), markup=False)
        for peer in dict.fromkeys(row["method"] for row in finished if self.table):
            if not peer.startswith("fm3d"):
                console.print(paired_table_of(finished, peer=peer), markup=False)


def run_row(row: Row) -> dict[str, Any] | str:
    """The figures of a row, or in words why there are none."""
    options = {
        "set": row.set,
        "shots": row.shots,
        "seed": row.seed,
        "method": row.method,
        "budget": row.budget,
        "data": row.data,
        "nnunet": row.nnunet,
    }
    command = [sys.executable, str(Path(__file__).with_name("few_shot_row.py"))]
    command += [part for name, value in options.items() for part in (f"--{name}", str(value))]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        return (ended.stderr.strip().splitlines() or ["no message"])[-1]
    return json.loads(ended.stdout.strip().splitlines()[-1])  # type: ignore[no-any-return]


def append(path: Path, row: dict[str, Any]) -> None:
    """Add a line, also below one that was cut off."""
    cut_off = path.is_file() and not path.read_text("utf-8").endswith("\n")
    with path.open("a", encoding="utf-8") as file:
        file.write(("\n" if cut_off else "") + json.dumps(row) + "\n")


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a file; a last line that was cut off is passed over."""
    rows = []
    for line in path.read_text("utf-8").splitlines() if path.is_file() else ():
        with suppress(ValueError):
            rows.append(json.loads(line))
    return rows


def key_of(row: dict[str, Any]) -> tuple[str, int, int, str, float]:
    """As Row.key."""
    return row["set"], row["shots"], row["seed"], row["method"], float(row["budget"])


if __name__ == "__main__":
    tyro.cli(Benchmark, description=__doc__).run()
