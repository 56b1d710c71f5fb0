"""The linear probe: a head solved for on features computed once, and each volume held out in turn for as little."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from fm3d_core.adaptation.adapter import AS_PROBE
from fm3d_core.adaptation.expected_dice import ExpectedDice, expected_dice
from fm3d_core.clocks import Stopwatch
from fm3d_core.errors import Stopped
from fm3d_core.evaluation.cross_validation import Scores, groups_of, score_segmentation
from fm3d_core.progress import ProgressCallback, ShouldStop, StageClock, ignore_progress, never_stop
from fm3d_core.teaching.calibration import calibrated

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch

    from fm3d_core.adaptation import Adapter, FinetuneSettings
    from fm3d_core.adaptation.cases import TrainingCase
    from fm3d_core.adaptation.closed_form import Voxels
    from fm3d_core.adaptation.feature_cache import FeatureCache
    from fm3d_core.adaptation.training_set import TrainingSet

MOST_VOXELS, FEWEST_VOXELS = 40_000, 2000  # of all cases together that the head is solved for on
COST = 8e9  # voxels times squared features: so much takes a second or two on a core
MOST_IN_WINDOW, FEWEST_IN_WINDOW = 12_000, 20
PARTS = 4  # of a single volume's voxels: one of them chooses the ridge
Drawn = list[tuple["Voxels", "torch.Tensor"]]  # of each window: voxels, and which of them are doubtful background


class ProbeStage:
    """Solves for a linear head on the frozen backbone's features, and measures it.

    Args:
        data: the cases.
        settings: backbone, weights, seed and device.
        cache: where features are kept.
        progress: receives "computing features" and "measuring the linear probe".
        should_stop: asked at every window.

    Raises:
        FM3DError: a mistake in settings or weights.
    """

    def __init__(
        self,
        data: TrainingSet,
        settings: FinetuneSettings,
        cache: FeatureCache,
        *,
        progress: ProgressCallback = ignore_progress,
        should_stop: ShouldStop = never_stop,
    ) -> None:
        from fm3d_core.adaptation.batches import boxes_of, plan_crop
        from fm3d_core.adaptation.building import build
        from fm3d_core.adaptation.methods import check_method
        from fm3d_core.devices import choose_device

        self.data, self._progress, self._should_stop = data, progress, should_stop
        self.settings = replace(settings, **AS_PROBE)
        self.device = choose_device(settings.device)
        self.built = build(data.task, self.settings, check_method("linear_probe"))
        self.network = self.built.network.to(self.device)
        assert data.task.preprocessing is not None  # a training set has planned it
        self.network.input_range = data.task.preprocessing.input_range
        self.window = plan_crop(data.prepared, self.network.size_multiple)
        self._features = cache.of(self.built.sha256, self.device)
        self._windows = sum(len(boxes_of(case.image.shape[-3:], self.window)) for case in data.prepared)

    def run(self) -> Adapter:
        """Hold each case out in turn (of a single volume, slabs of it) to measure what to expect, and solve on all.

        Raises:
            Stopped: ``should_stop`` said so.
        """
        from fm3d_core.adaptation.finetune import card_of_training, linear_head

        watch = Stopwatch(self.settings.clock)
        clock = StageClock("computing features", self._windows, self._progress)
        drawn: list[Drawn] = []
        for case in self.data.prepared:
            clock.report(sum(map(len, drawn)))
            drawn.append(self._draw(case))
        clock.report(self._windows)
        expected = calibrated(self._measure(drawn), "linear_probe", len(groups_of(self.data)))
        self._solve(drawn)
        card = card_of_training(self.data, self.settings, self.built, self.window)
        return linear_head(replace(card, expected_dice=expected), self.network, watch.elapsed)

    def _measure(self, drawn: list[Drawn]) -> ExpectedDice | None:
        groups = groups_of(self.data)
        if len(groups) == 1:
            return self._measure_slabs()
        clock = StageClock("measuring the linear probe", len(groups), self._progress)
        measured: Scores = {}
        for done, group in enumerate(groups):
            clock.report(done)
            known = self._solve([drawn[index] for index in range(len(drawn)) if index not in group])
            for index in group:
                measured |= self._score(self.data.prepared[index], index, known)
        clock.report(len(groups))
        return expected_dice(measured, f"each volume held out in turn, {len(groups)} heads solved for")

    def _measure_slabs(self) -> ExpectedDice | None:
        """Dice in every second slab of the only volume, and in the others."""
        import torch

        from fm3d_core.evaluation.slab_folds import odd_slabs
        from fm3d_core.volumes import IGNORED

        case = self.data.prepared[0]
        odd = torch.from_numpy(odd_slabs(case.label[0].numpy(), case.spacing).copy())[None]
        scores: dict[str, list[float]] = {}
        for held_out in (odd, ~odd):
            known = self._solve([self._draw(replace(case, label=case.label.masked_fill(held_out, IGNORED)))])
            part = replace(case, label=case.label.masked_fill(~held_out, IGNORED))
            for found in self._score(part, 0, known).values():
                for name, dice in found.items():
                    scores.setdefault(name, []).append(dice)
        means = {name: sum(values) / len(values) for name, values in scores.items()}
        return expected_dice({case.name: means}, "slabs of the one volume held out; other patients may differ")

    def _draw(self, case: TrainingCase) -> Drawn:
        """Annotated voxels of a case with their features, window by window."""
        import torch

        from fm3d_core.adaptation.batches import windows_of
        from fm3d_core.adaptation.closed_form import voxels_of

        generator = torch.Generator().manual_seed(self.settings.seed)
        features = sum(self.network.backbone.feature_channels)
        voxels = min(max(int(COST / features**2), FEWEST_VOXELS), MOST_VOXELS)
        number = min(max(voxels // self._windows, FEWEST_IN_WINDOW), MOST_IN_WINDOW)
        annotated = None
        if case.annotated is not None:
            annotated = torch.tensor([[value in case.annotated for value in range(self.data.task.classes)]])
        drawn: Drawn = []
        for part in windows_of(case, self.window):
            *maps, image = self._maps(part)
            x, y, z = image.shape[-3:]
            drawn.append(voxels_of(maps, (x, y, z), part.label[None], annotated, number, generator))
        return drawn

    def _maps(self, part: TrainingCase) -> list[torch.Tensor]:
        if self._should_stop():
            raise Stopped("Training")
        return self._features(self.network, part, self.device)

    def _solve(self, cases: Sequence[Drawn]) -> tuple[str, ...]:
        """Set the head by the voxels of some cases; returns the structures that are in them."""
        import torch

        from fm3d_core.adaptation.closed_form import Voxels, choose_solution, set_head, usable

        if len(cases) > 1:
            batches = [Voxels.joined(part) for case in cases if (part := usable(case))]
        else:
            joined = Voxels.joined(usable(cases[0]))
            order = torch.randperm(len(joined.labels), generator=torch.Generator().manual_seed(self.settings.seed))
            batches = [joined.chosen(part.to(joined.labels.device)) for part in order.chunk(PARTS)]
        task = self.data.task
        set_head(self.network.head, choose_solution(batches, task.classes, self.built.known))  # type: ignore[arg-type]
        found = torch.cat([batch.labels.unique() for batch in batches]).tolist()
        return tuple(name for name, value in task.values.items() if value in found)

    def _score(self, case: TrainingCase, index: int, known: Sequence[str]) -> Scores:
        """Dice on the prepared grid of the structures that the head has learned."""
        loaded = self.data.loaded[index]
        on_grid = replace(loaded, label=replace(loaded.label, array=case.label[0].numpy()))
        return score_segmentation(self._segment(case), on_grid, self.data.task, known)

    def _segment(self, case: TrainingCase) -> npt.NDArray[np.uint8]:
        """(X, Y, Z) classes, windows side by side."""
        import torch

        from fm3d_core.adaptation.batches import boxes_of, windows_of

        found = torch.zeros(case.image.shape[-3:], dtype=torch.uint8)
        for box, part in zip(boxes_of(found.shape, self.window), windows_of(case, self.window), strict=True):
            *maps, image = (each.float() for each in self._maps(part))
            with torch.inference_mode():
                classes = self.network.head(maps, image)[0].argmax(0).to(torch.uint8).cpu()
            x, y, z = part.image.shape[-3:]
            found[box] = classes[:x, :y, :z]
        return found.numpy()
