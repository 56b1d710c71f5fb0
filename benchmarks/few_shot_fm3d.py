"""FM3D as a user runs it: a preset of fm3d_core.teaching, or one finetuning method with what comes with the package."""

from __future__ import annotations

import time
from importlib import import_module
from pathlib import Path

import numpy as np
import numpy.typing as npt
from few_shot_row import Row, Trained
from few_shot_sets import Split

from fm3d_core.adaptation import Adapter, FinetuneSettings, LabeledCase, finetune
from fm3d_core.inference import Predictor
from fm3d_core.progress import Progress
from fm3d_core.tasks import SegmentationTask
from fm3d_core.volumes import Case, read_volume

PRESETS = ("fast", "balanced", "thorough")


def preset_seconds(method: str) -> float | None:
    """What a preset takes of its own, on a small pyramid as FM3D's default backbone is one; None for other methods.

    Measuring what Dice to expect is part of it: at most three trainings of a share of the last stage's time.
    """
    import yaml

    from fm3d_core import teaching

    name = method.partition(":")[2]
    if name not in PRESETS:
        return None
    presets = yaml.safe_load((Path(teaching.__file__).parent / "presets.yaml").read_text("utf-8"))["presets"]
    stages = presets[name]["stages"]["small_pyramid"]
    return float(sum(stage.get("seconds", 0) * (1 + 3 * stage.get("check", 0)) for stage in stages))


def train(row: Row, volumes: Split) -> Trained:
    """fm3d, fm3d:METHOD or fm3d:PRESET."""
    for library in ("peft", "monai.transforms", "monai.losses", "fm3d_core.adaptation.trainer"):
        import_module(library)  # what every program pays once when it starts is not training

    cases = [LabeledCase(case.name, case.image, case.label) for case in volumes.training if case.label is not None]
    task, kind = SegmentationTask(volumes.labels), row.method.partition(":")[2]
    watch = _Watch()
    if kind in PRESETS:
        adapter = _taught(cases, task, row, kind, watch)
    else:
        settings = FinetuneSettings(method=kind or "full", seconds=max(row.budget, 1), seed=row.seed, clock="cpu")
        adapter = finetune(cases, task, settings, progress=watch)
    spent = time.process_time() - watch.started
    predictor = Predictor(adapter)

    def segment(case: Case) -> npt.NDArray[np.uint8]:
        return predictor.segment(read_volume(case.image))

    notes = {"method": adapter.card.method, "backbone": adapter.card.backbone.preset, "head": adapter.card.head}
    return Trained(segment, watch.preparing, spent - watch.preparing, int(adapter.card.training.get("steps", 0)), notes)


class _Watch:
    """Core-seconds in which volumes were read and prepared; each of these stages tells when it begins and ends."""

    def __init__(self) -> None:
        self.started = time.process_time()
        self.preparing = 0.0
        self._last = ("", 0.0)

    def __call__(self, event: Progress) -> None:
        stage, before = self._last
        now = time.process_time()
        if event.stage == stage and stage in ("reading volumes", "preparing volumes"):
            self.preparing += now - before
        self._last = (event.stage, now)


def _taught(cases: list[LabeledCase], task: SegmentationTask, row: Row, preset: str, watch: _Watch) -> Adapter:
    import tempfile

    from fm3d_core import teaching
    from fm3d_core.adaptation import AdapterStore

    settings = FinetuneSettings(preset=preset, seed=row.seed, clock="cpu")
    with tempfile.TemporaryDirectory() as folder:
        store = AdapterStore(folder)
        teaching.teach(cases, task, settings, store, progress=watch)
        return store.load()
