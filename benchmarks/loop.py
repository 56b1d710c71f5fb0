"""The clinician's loop on a real server: seconds from Train to a better prediction, from a click to its mask, memory.

    python benchmarks/loop.py --data ../shared/data --out loop.jsonl
    python benchmarks/loop.py --parts clicks --sets chaos_mr_t2 la_mr

Parts, each with a server of its own, driven over HTTP as a client does:
  train    after how many seconds the first version is there that segments the test volumes better than the network did
           before, and what each further one is worth; with a second training from what is active by then
  clicks   a click in the middle of each structure of each test volume, then the middle of the largest error, and so on:
           seconds until the mask is there, first clicks (features are computed) apart from the others; Dice after each
  info     seconds of /info/ while the largest test volume is segmented, against a server that does nothing
  memory   of the server's process over 200 requests of all kinds

Set the number of threads by OMP_NUM_THREADS; the server and the training share them.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import numpy as np
import psutil
import tyro
from few_shot_sets import SETS, Split, split
from loop_client import Client, served
from loop_table import show
from rich.console import Console

from fm3d_core.evaluation import dice_per_label, mean_dice
from fm3d_core.volumes import Case, Volume, read_label, read_volume

Part = Literal["train", "clicks", "info", "memory"]
MODEL = "segmentation"
POLL = 0.25  # seconds


@dataclass(frozen=True)
class Benchmark:
    """What is measured.

    Attributes:
        data: folder of the sets.
        sets: which of them.
        parts: which parts.
        shots: labelled volumes of a training.
        tests: test volumes.
        preset: of the training.
        clicks: clicks on each structure.
        requests: of the part on memory.
        out: JSON lines, one a set and part.
    """

    data: Path = Path("../shared/data")
    sets: tuple[str, ...] = ("hippocampus", "chaos_mr_t2")
    parts: tuple[Part, ...] = ("train", "clicks", "info", "memory")
    shots: int = 3
    tests: int = 4
    preset: str = "fast"
    clicks: int = 5
    requests: int = 200
    out: Path = Path("loop.jsonl")

    def run(self) -> None:
        """Measure, print and write."""
        console, rows = Console(), []
        for name in self.sets:
            cases = split(self.data, name, self.shots, 0)
            for part in self.parts:
                with served(cases.labels) as client:
                    row = {
                        "set": name,
                        "part": part,
                        "cores": psutil.cpu_count(),
                        **MEASURES[part](self, client, cases),
                    }
                rows.append(row)
                with self.out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
                console.print(f"{name}, {part}: done", highlight=False)
        show(rows, console)


def measure_train(settings: Benchmark, client: Client, cases: Split) -> dict[str, Any]:
    """Seconds from Train to the first better prediction, twice: from nothing, and from what is active then."""
    tests = cases.test[: settings.tests]
    for case in cases.training:
        client.submit(case, cases.labels)
    for case in tests:
        client.upload(case)
    before = dice_of(client, tests, cases.labels, "untrained")
    rounds = []
    for _ in range(2):
        rounds.append(one_training(client, tests, cases.labels, settings.preset, before))
        before = max(each["dice"] for each in rounds[-1]["versions"])
    return {"preset": settings.preset, "shots": settings.shots, "tests": len(tests), "trainings": rounds}


def one_training(
    client: Client, tests: tuple[Case, ...], labels: tuple[str, ...], preset: str, before: float
) -> dict[str, Any]:
    """Train once; versions are judged as they land, while training goes on."""
    started = time.monotonic()
    task = client.json("POST", f"/train/{MODEL}", {"preset": preset})
    landed: dict[int, float] = {}
    while True:
        stats = client.json("GET", f"/train/?id={task['run_id']}")["stats"]
        for each in stats["versions"]:
            landed.setdefault(each["version"], time.monotonic() - started)
        if stats["state"] not in ("waiting", "running"):
            break
        time.sleep(POLL)
    took = time.monotonic() - started
    told = {each["version"]: each for each in stats["versions"]}
    versions = [
        {
            "version": version,
            "stage": told[version]["stage"],
            "seconds": round(seconds, 1),
            "dice": round(dice_of(client, tests, labels, str(version)), 4),
            "expected": (told[version]["expected_dice"] or {}).get("mean"),
        }
        for version, seconds in landed.items()
    ]
    better = [each["seconds"] for each in versions if each["dice"] > before]
    return {
        "state": stats["state"],
        "before": round(before, 4),
        "seconds_to_first_better": min(better, default=None),
        "seconds": round(took, 1),
        "versions": versions,
    }


def measure_clicks(settings: Benchmark, client: Client, cases: Split) -> dict[str, Any]:
    """Seconds from a click to its mask, over HTTP."""
    first, further = [], []
    dice: list[list[float]] = [[] for _ in range(settings.clicks)]
    for case in cases.test[: settings.tests]:
        client.upload(case)
        assert case.label is not None
        image, truth = read_volume(case.image), read_label(case.label).array
        for value in range(1, len(cases.labels) + 1):
            mask = truth == value
            if not mask.any():
                continue
            for number, (seconds, score) in enumerate(clicked(client, case, image, mask, settings.clicks)):
                (first if number == 0 else further).append(seconds)
                dice[number].append(score)
    return {
        "first_click": spread(first),
        "further_clicks": spread(further),
        "dice_after_clicks": [round(float(np.mean(each)), 4) for each in dice if each],
        "structures": len(first),
    }


def clicked(client: Client, case: Case, image: Volume, mask: Any, count: int) -> Iterator[tuple[float, float]]:
    """Seconds and Dice of each of ``count`` simulated clicks: in the middle of the largest error so far."""
    found = np.zeros_like(mask)
    points: list[dict[str, Any]] = []
    for _ in range(count):
        error = mask != found
        if not error.any():
            return
        voxel = middle_of_largest(error)
        position = (image.affine @ [*voxel, 1])[:3].tolist()
        points.append({"position": position, "positive": bool(mask[tuple(voxel)])})
        started = time.monotonic()
        _, answer = client.infer("interactive", case, {"points": points})
        seconds = time.monotonic() - started
        found = answer == 1
        yield seconds, 2 * float((mask & found).sum()) / float(mask.sum() + found.sum())


def middle_of_largest(error: Any) -> Any:
    """The voxel deepest inside the largest connected part."""
    from scipy import ndimage

    parts, count = ndimage.label(error)
    sizes = np.bincount(parts.ravel())[1:]
    largest = parts == 1 + int(sizes.argmax()) if count else error
    depth = ndimage.distance_transform_edt(np.pad(largest, 1))[1:-1, 1:-1, 1:-1]
    return np.unravel_index(int(depth.argmax()), error.shape)


def measure_info(settings: Benchmark, client: Client, cases: Split) -> dict[str, Any]:
    """Seconds of /info/ while a volume is segmented."""
    case = max(cases.test, key=lambda each: each.image.stat().st_size)
    client.upload(case)
    client.infer(MODEL, case, {"version": "untrained"})
    idle = [timed_info(client) for _ in range(20)]
    busy: list[float] = []
    work = threading.Thread(target=lambda: [client.infer(MODEL, case, {"version": "untrained"}) for _ in range(3)])
    work.start()
    while work.is_alive():
        busy.append(timed_info(client))
        time.sleep(0.05)
    work.join()
    return {"idle": spread(idle), "while_segmenting": spread(busy)}


def timed_info(client: Client) -> float:
    """Seconds of one /info/."""
    started = time.monotonic()
    client.json("GET", "/info/")
    return time.monotonic() - started


def measure_memory(settings: Benchmark, client: Client, cases: Split) -> dict[str, Any]:
    """Megabytes of the server over many requests: segmentations, clicks, insight, lists, downloads."""
    tests = cases.test[: settings.tests]
    for case in tests:
        client.upload(case)
    process = psutil.Process(client.server.pid)
    at_rest = process.memory_info().rss
    sizes = []
    for number in range(settings.requests):
        case = tests[number % len(tests)]
        kind = number % 5
        if kind == 0:
            client.infer(MODEL, case, {"version": "untrained"})
        elif kind == 1:
            image = read_volume(case.image)
            middle = (image.affine @ [*(size // 2 for size in image.shape), 1])[:3].tolist()
            client.infer("interactive", case, {"points": [{"position": middle}]})
        elif kind == 2:
            client.ask("GET", f"/datastore/image?image={quote(case.name)}")
        elif kind == 3:
            client.json("GET", "/info/")
        else:
            client.json("GET", "/datastore/?output=all")
        sizes.append(process.memory_info().rss)
    settled = sizes[len(sizes) // 4 :]
    slope = float(np.polyfit(np.arange(len(settled)), settled, 1)[0])
    megabyte = 2**20
    return {
        "requests": settings.requests,
        "at_rest_mb": round(at_rest / megabyte),
        "highest_mb": round(max(sizes) / megabyte),
        "at_the_end_mb": round(sizes[-1] / megabyte),
        "growth_mb_per_100_requests": round(slope * 100 / megabyte, 2),
    }


def dice_of(client: Client, tests: tuple[Case, ...], labels: tuple[str, ...], version: str) -> float:
    """Mean Dice of the test volumes, whose labels never go to the server."""
    scores = []
    for case in tests:
        assert case.label is not None
        _, found = client.infer(MODEL, case, {"version": version})
        scores.append(mean_dice(dice_per_label(found, read_label(case.label).array, labels)))
    return float(np.mean(scores))


def spread(seconds: list[float]) -> dict[str, float]:
    """Median, 95th percentile and largest."""
    if not seconds:
        return {"count": 0}
    median, p95 = np.percentile(seconds, (50, 95))
    figures = {"median": median, "p95": p95, "largest": max(seconds)}
    return {"count": len(seconds), **{name: round(float(value), 3) for name, value in figures.items()}}


MEASURES = {"train": measure_train, "clicks": measure_clicks, "info": measure_info, "memory": measure_memory}


if __name__ == "__main__":
    assert set(MEASURES) == {"train", "clicks", "info", "memory"} and SETS
    tyro.cli(Benchmark, description=__doc__).run()
