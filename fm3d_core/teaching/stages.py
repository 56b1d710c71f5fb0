"""Training in stages: each answer is kept as it lands, and becomes active if it is better than what there is."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from fm3d_core.adaptation.building import spec_of
from fm3d_core.adaptation.expected_dice import expected_dice
from fm3d_core.adaptation.feature_cache import FeatureCache
from fm3d_core.adaptation.finetune import CUT_SHORT, train
from fm3d_core.adaptation.methods import NoTraining
from fm3d_core.adaptation.settings import FinetuneSettings
from fm3d_core.adaptation.training_set import TrainingSet, read_training_set
from fm3d_core.adaptation.warm_start import knows_all
from fm3d_core.adaptation.zero_shot import STAGE as ZERO_SHOT
from fm3d_core.adaptation.zero_shot import require_zero_shot, zero_shot_adapter
from fm3d_core.errors import Stopped
from fm3d_core.progress import Progress, ProgressCallback, ShouldStop, ignore_progress, never_stop
from fm3d_core.teaching.calibration import calibrated, enough_to_measure
from fm3d_core.teaching.continuing import Start, choose_start
from fm3d_core.teaching.direct import MOST, measured_on, with_estimate
from fm3d_core.teaching.plan import Plan, Situation, Stage, make_plan
from fm3d_core.teaching.probe import ProbeStage
from fm3d_core.teaching.taught import Taught, TaughtVersion, VersionCallback, ignore_version
from fm3d_core.teaching.verdict import Verdict, verdict, verdict_on_learned

if TYPE_CHECKING:
    from fm3d_core.adaptation import Adapter, AdapterStore, LabeledCase, StoredAdapter
    from fm3d_core.tasks import SegmentationTask

MOST_HELD_OUT = 3  # volumes, one at a time, to measure a stage of a preset
SECONDS_TO_JUDGE = 8.0  # after a stop, for comparing what was learned until then with what there is


def teach(
    cases: Sequence[LabeledCase],
    task: SegmentationTask,
    settings: FinetuneSettings,
    store: AdapterStore,
    *,
    progress: ProgressCallback = ignore_progress,
    should_stop: ShouldStop = never_stop,
    on_version: VersionCallback = ignore_version,
    measure: bool = False,
    cache: FeatureCache | None = None,
) -> Taught:
    """Learn ``task`` from ``cases`` in stages; every stage becomes a version of ``store``.

    Args:
        cases: images with labels; unusable ones are left out and named in the cards.
        task: its preprocessing, if None, is that of the adapter that training goes on from, or planned from the cases.
        settings: with a preset, the stages and their time come from ``presets.yaml``; else a linear probe where the
            head is linear, and the method with its own time.
        store: where the versions go.
        progress: receives all stages of the work; ``metrics["dice"]`` is what Dice to expect of the last version.
        should_stop: asked at every step. Once a version has landed, a stop is no error: it is kept, and so is what a
            stage had learned until then, as a version of the stage "cut_short".
        on_version: receives each version as it lands, and again (same number) when it was measured afterwards.
        measure: whether to measure the last version on held-out volumes without a preset too.
        cache: where features of the frozen backbone are kept; None: in FM3D's folder.

    Raises:
        FM3DError: a mistake in cases, settings or weights.
        Stopped: ``should_stop`` said so before any version had landed.
    """
    lesson = _Lesson(settings, store, cache or FeatureCache(), progress, should_stop, on_version, measure)
    try:
        lesson.run(cases, task)
    except Stopped:
        if not lesson.versions:
            raise
        return Taught(tuple(lesson.versions.values()), cancelled=True)
    return Taught(tuple(lesson.versions.values()))


class _Lesson:
    """The state of one call of :func:`teach`."""

    def __init__(
        self,
        settings: FinetuneSettings,
        store: AdapterStore,
        cache: FeatureCache,
        progress: ProgressCallback,
        should_stop: ShouldStop,
        on_version: VersionCallback,
        measure: bool,
    ) -> None:
        self.settings, self.store, self.cache = settings, store, cache
        self.should_stop, self.on_version, self._show = should_stop, on_version, progress
        self.measure = measure
        self.versions: dict[int, TaughtVersion] = {}
        self.notes: tuple[str, ...] = ()
        self._begun = time.monotonic()
        self._dice: float | None = None
        self._probe: Adapter | None = None

    def run(self, cases: Sequence[LabeledCase], task: SegmentationTask) -> None:
        """All stages of the plan."""
        if self.settings.method == NoTraining.name and self.settings.preset is None:
            self._keep(require_zero_shot(task, self.settings), ZERO_SHOT)
            return
        situation, sha256 = self._situation(len(cases), task)
        plan = make_plan(self.settings, situation)
        final = plan.stages[-1].settings(self.settings, plan.preset)
        start = choose_start(final, self.store, task, sha256)
        fed = spec_of(self.settings, task.channels)[1]
        data = read_training_set(cases, start.task, fed, progress=self.progress, should_stop=self.should_stop)
        stages = list(plan.stages)
        self.notes = (*plan.notes, *start.notes)
        if start.adapter is None and (untrained := zero_shot_adapter(task, self.settings)) is not None:
            self._keep(with_estimate(untrained, data, self.settings.device, self.should_stop), ZERO_SHOT)
        if start.adapter is not None and knows_all(start.adapter, task) and len(stages) > 1:
            stages = stages[-1:]
            self.notes += ("Earlier stages are left out: the version to go on from knows all structures",)
        for stage in stages:
            self._run(stage, plan, data, start)

    def progress(self, event: Progress) -> None:
        """Pass an event on, with the Dice that is expected so far."""
        if self._dice is not None and "dice" not in event.metrics:
            event = replace(event, metrics={**event.metrics, "dice": self._dice})
        self._show(event)

    def _run(self, stage: Stage, plan: Plan, data: TrainingSet, start: Start) -> None:
        settings = stage.settings(self.settings, plan.preset)
        if stage.solved:
            probe = ProbeStage(data, settings, self.cache, progress=self.progress, should_stop=self.should_stop)
            self._probe = probe.run()
            self._keep(self._probe, stage.name)
            return
        adapter = train(
            data,
            settings,
            start=start.adapter if stage is plan.stages[-1] else None,
            probe=self._probe,
            cache=self.cache,
            progress=self.progress,
            should_stop=self.should_stop,
            keep_when_stopped=True,
        )
        earlier = self.store.active()
        if adapter.card.stage == CUT_SHORT:
            self._judge_cut_short(self._keep(adapter, CUT_SHORT), earlier, data, settings)
            raise Stopped("Training")
        kept = self._keep(adapter, stage.name)
        if stage.check or (self.measure and stage.name == "final"):
            self._check(kept, earlier, data, settings, stage.check)

    def _keep(self, adapter: Adapter, stage: str) -> TaughtVersion:
        """Store a version and make it active if it is better."""
        card = replace(adapter.card, stage=stage, notes=(*self.notes, *adapter.card.notes))
        active = self.store.active()
        judged = verdict(card, active.card if active else None)
        stored = self.store.save(replace(adapter, card=card), activate=judged.activate)
        return self._tell(TaughtVersion(stored, time.monotonic() - self._begun, judged.why))

    def _check(
        self,
        kept: TaughtVersion,
        earlier: StoredAdapter | None,
        data: TrainingSet,
        settings: FinetuneSettings,
        share: float,
    ) -> None:
        """Measure a version that has landed, and judge again: the better of it and the earlier one becomes active."""
        from fm3d_core.evaluation.cross_validation import SHARE, cross_validate_set, groups_of

        training = kept.stored.card.training
        used = enough_to_measure(share, training, settings.seconds) if share else SHARE
        expected = cross_validate_set(
            data,
            settings,
            share=used,
            most=MOST_HELD_OUT if share else None,
            cache=self.cache,
            progress=self.progress,
            should_stop=self.should_stop,
        )
        if share:
            part = min(used * settings.seconds / (training.get("seconds") or settings.seconds), 1.0)
            expected = calibrated(expected, kept.stage, len(groups_of(data)), part)
        if expected is None:
            return
        stored = self.store.record_estimate(kept.version, expected)
        if earlier is None:
            self._tell(replace(kept, stored=stored))
            return
        judged = verdict(stored.card, earlier.card, unseen=self._on_unseen(earlier, data), name="earlier")
        self._follow(judged, replace(kept, stored=stored), earlier)

    def _follow(self, judged: Verdict, kept: TaughtVersion, earlier: StoredAdapter) -> None:
        """Activate the better of two versions, unless somebody has meanwhile chosen another one."""
        active = self.store.active()
        if judged.activate and active is not None and active.version == earlier.version:
            kept = replace(kept, stored=self.store.activate(kept.version))
        if judged.activate or not kept.active:
            self._tell(replace(kept, why=judged.why))
            return
        back = self.store.activate(earlier.version)
        why = f"{judged.why}; version {back.version} is active again"
        self._tell(replace(kept, stored=replace(kept.stored, active=False), why=why))
        if back.version in self.versions:
            why = f"active again: version {kept.version} is not better on held-out volumes"
            self._tell(replace(self.versions[back.version], stored=back, why=why))

    def _judge_cut_short(
        self, kept: TaughtVersion, earlier: StoredAdapter | None, data: TrainingSet, settings: FinetuneSettings
    ) -> None:
        """A version whose training was stopped becomes active if it is clearly better; it has landed in any case."""
        if kept.active or earlier is None:
            return
        deadline = time.monotonic() + SECONDS_TO_JUDGE
        try:
            judged = self._on_learned(kept, earlier, data, settings, lambda: time.monotonic() > deadline)
        except Stopped:
            judged = Verdict(False, "cut short, and comparing it takes long; activate it if it is better")
        stored = self.store.activate(kept.version) if judged.activate else kept.stored
        self._tell(replace(kept, stored=stored, why=judged.why))

    def _on_learned(
        self,
        kept: TaughtVersion,
        earlier: StoredAdapter,
        data: TrainingSet,
        settings: FinetuneSettings,
        should_stop: ShouldStop,
    ) -> Verdict:
        """By the Dice of both on some of the volumes that both have learned from."""
        learned = {case.voxels_sha256 for case in earlier.card.cases} - {""}
        common = [case for case in data.loaded if case.voxels_sha256 in learned][:MOST]
        ours, theirs = (
            expected_dice(
                measured_on(self.store.load(version), common, data.task, settings.device, should_stop), "learned from"
            )
            for version in (kept.version, earlier.version)
        )
        return verdict_on_learned(ours.cases if ours else {}, theirs.cases if theirs else {})

    def _on_unseen(self, earlier: StoredAdapter, data: TrainingSet) -> dict[str, float]:
        """Dice of the earlier version on volumes whose labels are new to it: nothing needs to be held out for that."""
        learned = {case.voxels_sha256 for case in earlier.card.cases}
        if not learned:  # it was not trained, and what was measured of it stands in its card
            return {}
        new = [case for case in data.loaded if case.voxels_sha256 not in learned]
        if not new or set(earlier.card.task.labels) != set(data.task.labels) or "" in learned:
            return {}
        adapter = self.store.load(earlier.version)
        found = expected_dice(measured_on(adapter, new, data.task, self.settings.device, self.should_stop), "")
        return found.cases if found is not None else {}

    def _tell(self, version: TaughtVersion) -> TaughtVersion:
        if version.active:  # and so no other one
            for number, other in self.versions.items():
                self.versions[number] = replace(other, stored=replace(other.stored, active=False))
        self.versions[version.version] = version
        if version.expected_dice is not None:
            self._dice = version.expected_dice.mean
        self.on_version(version)
        return version

    def _situation(self, shots: int, task: SegmentationTask) -> tuple[Situation, str]:
        """What the plan depends on, and the backbone's identity."""
        from fm3d_core.devices import choose_device
        from fm3d_core.models.zoo import backbone_sha256, create_backbone

        gpu = choose_device(self.settings.device).type != "cpu"
        backbone = create_backbone(spec_of(self.settings, task.channels)[0])
        parameters = sum(each.numel() for each in backbone.parameters())  # type: ignore[attr-defined]
        situation = Situation(shots, len(task.labels), backbone.kind, parameters, gpu)
        return situation, backbone_sha256(backbone)
