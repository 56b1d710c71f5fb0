"""Seconds from labels to a first version, sizes of the versions, and seconds to switch from one to another.

    python benchmarks/first_version.py --data ../shared/data

Preset fast on one hippocampus, one thread, wall clock. Switching is what a server does: the version becomes active, its
file is read, the network is built with it.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from few_shot_sets import split
from rich.console import Console

from fm3d_core.adaptation import AdapterStore, FinetuneSettings, LabeledCase
from fm3d_core.inference import Predictor
from fm3d_core.tasks import SegmentationTask
from fm3d_core.teaching import TaughtVersion, teach
from fm3d_core.torchvision_guard import ensure_torchvision_importable


@dataclass(frozen=True)
class Benchmark:
    """What is measured.

    Attributes:
        data: folder of the sets.
        set: which of them.
        switches: back and forth, of which the median is told.
    """

    data: Path = Path("../shared/data")
    set: str = "hippocampus"
    switches: int = 10

    def run(self) -> None:
        """Teach, then switch."""
        import torch

        ensure_torchvision_importable()
        torch.set_num_threads(1)
        console, volumes = Console(highlight=False), split(self.data, self.set, 1, 0)
        cases = [LabeledCase(case.name, case.image, case.label) for case in volumes.training if case.label is not None]
        with tempfile.TemporaryDirectory() as folder:
            store, started = AdapterStore(folder), time.perf_counter()

            def landed(version: TaughtVersion) -> None:
                console.print(f"{version.stage} after {time.perf_counter() - started:.1f} s")

            taught = teach(
                cases, SegmentationTask(volumes.labels), FinetuneSettings(preset="fast"), store, on_version=landed
            )
            for file in sorted(Path(folder).rglob("*.safetensors")):
                console.print(f"{file.parent.name}: {file.stat().st_size / 1000:.1f} kB")
            numbers = [version.version for version in taught.versions]
            seconds = [switch(store, numbers[index % len(numbers)]) for index in range(self.switches)]
        console.print(
            f"switch of version: median {np.median(seconds) * 1000:.0f} ms, longest {max(seconds) * 1000:.0f} ms"
        )


def switch(store: AdapterStore, version: int) -> float:
    """Seconds until a network with this version is ready."""
    started = time.perf_counter()
    store.activate(version)
    Predictor(store.load(version))
    return time.perf_counter() - started


if __name__ == "__main__":
    tyro.cli(Benchmark, description=__doc__).run()
