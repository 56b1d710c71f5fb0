"""Training in stages: each answer is kept as it lands, and becomes active if it is better than what there is."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from fm3d_core.adaptation.finetune import finetune
from fm3d_core.adaptation.settings import FinetuneSettings
from fm3d_core.errors import Stopped
from fm3d_core.progress import Progress, ProgressCallback, ShouldStop, ignore_progress, never_stop
from fm3d_core.teaching.plan import Plan, Situation, Stage, make_plan
from fm3d_core.teaching.verdict import verdict

if TYPE_CHECKING:
    from fm3d_core.adaptation import Adapter, AdapterCard, AdapterStore, LabeledCase, StoredAdapter
    from fm3d_core.adaptation.expected_dice import ExpectedDice
    from fm3d_core.tasks import SegmentationTask

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TaughtVersion:
    """A version that a training gave.

    Attributes:
        stored: the version in the store, with its card.
        seconds: since the training was begun.
        why: it is, or is not, the active one; in words.
    """

    stored: StoredAdapter
    seconds: float
    why: str

    @property
    def version(self) -> int:
        """Its number."""
        return self.stored.version

    @property
    def stage(self) -> str:
        """Name of the stage that gave it."""
        return self.stored.card.stage

    @property
    def active(self) -> bool:
        """Whether it is the active one now."""
        return self.stored.active

    @property
    def expected_dice(self) -> ExpectedDice | None:
        """What Dice to expect, if that was measured."""
        return self.stored.card.expected_dice


@dataclass(frozen=True)
class Taught:
    """What a training came to.

    Attributes:
        versions: all it gave, in order.
        cancelled: whether ``should_stop`` ended it; what landed before is kept.
    """

    versions: tuple[TaughtVersion, ...]
    cancelled: bool = False


VersionCallback = Callable[[TaughtVersion], None]


def ignore_version(version: TaughtVersion) -> None:
    """The callback of a caller who waits for the end."""


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
) -> Taught:
    """Learn ``task`` from ``cases`` in stages; every stage becomes a version of ``store``.

    Args:
        cases: images with labels; unusable ones are left out and named in the cards.
        task: its preprocessing, if None, is planned from the cases.
        settings: with a preset, the stages and their time come from ``presets.yaml``; else a linear probe where the
            head is linear, and the method with its own time.
        store: where the versions go.
        progress: receives all stages of the work; ``metrics["dice"]`` is what Dice to expect of the last version.
        should_stop: asked at every step. Once a version has landed, a stop is no error: it is kept.
        on_version: receives each version as it lands, and again (same number) when it was measured afterwards.
        measure: whether to measure the last version on held-out volumes without a preset too.

    Raises:
        FM3DError: a mistake in cases, settings or weights.
        Stopped: ``should_stop`` said so before any version had landed.
    """
    lesson = _Lesson(cases, task, settings, store, progress, should_stop, on_version, measure)
    try:
        lesson.run()
    except Stopped:
        if not lesson.versions:
            raise
        return Taught(tuple(lesson.versions.values()), cancelled=True)
    return Taught(tuple(lesson.versions.values()))


class _Lesson:
    """The state of one call of :func:`teach`."""

    def __init__(
        self,
        cases: Sequence[LabeledCase],
        task: SegmentationTask,
        settings: FinetuneSettings,
        store: AdapterStore,
        progress: ProgressCallback,
        should_stop: ShouldStop,
        on_version: VersionCallback,
        measure: bool,
    ) -> None:
        self.cases, self.task, self.settings, self.store = cases, task, settings, store
        self.should_stop, self.on_version, self._show = should_stop, on_version, progress
        self.measure = measure
        self.versions: dict[int, TaughtVersion] = {}
        self._start = time.monotonic()
        self._dice: float | None = None

    def run(self) -> None:
        """All stages of the plan."""
        plan = make_plan(self.settings, self._situation())
        for note in plan.notes:
            logger.info(note)
        first, *others = plan.stages
        # the head that is solved for on the way to a trained pyramid is the first stage already
        stages = others if others and first.name == "linear_probe" and others[0].method == "full" else plan.stages
        for stage in stages:
            self._train(stage, plan)

    def progress(self, event: Progress) -> None:
        """Pass an event on, with the Dice that is expected so far."""
        if self._dice is not None and "dice" not in event.metrics:
            event = replace(event, metrics={**event.metrics, "dice": self._dice})
        self._show(event)

    def _train(self, stage: Stage, plan: Plan) -> None:
        settings = replace(
            self.settings,
            method=stage.method,
            head=stage.head,
            seconds=max(stage.seconds, 1.0),
            steps=1 if not stage.seconds and stage.steps is None else stage.steps,
            preset=plan.preset,
        )

        def keep(adapter: Adapter, name: str) -> TaughtVersion:
            return self._keep(replace(adapter, card=_with_notes(adapter, name, plan)))

        adapter = finetune(
            self.cases,
            self.task,
            settings,
            progress=self.progress,
            should_stop=self.should_stop,
            on_stage=lambda early: _ignore(keep(early, "linear_probe")),
        )
        kept = keep(adapter, stage.name)
        if stage.name == "final" and (stage.check or self.measure):
            self._check(kept, settings)

    def _keep(self, adapter: Adapter) -> TaughtVersion:
        """Store a version and make it active if it is better."""
        active = self.store.active()
        judged = verdict(adapter.card, active.card if active else None)
        stored = self.store.save(adapter, activate=judged.activate)
        return self._tell(TaughtVersion(stored, time.monotonic() - self._start, judged.why))

    def _check(self, kept: TaughtVersion, settings: FinetuneSettings) -> None:
        """Measure a version that has landed, and judge again."""
        from fm3d_core.evaluation.cross_validation import cross_validate

        expected = cross_validate(self.cases, self.task, settings, progress=self.progress, should_stop=self.should_stop)
        if expected is None:
            return
        self._dice = expected.mean
        stored = self.store.record_estimate(kept.version, expected)
        self._tell(replace(kept, stored=stored, seconds=time.monotonic() - self._start))

    def _tell(self, version: TaughtVersion) -> TaughtVersion:
        self.versions[version.version] = version
        self.on_version(version)
        return version

    def _situation(self) -> Situation:
        from fm3d_core.adaptation.finetune import plain_backbone
        from fm3d_core.devices import choose_device

        gpu = choose_device(self.settings.device).type != "cpu"
        backbone = plain_backbone(self.settings, self.task.channels)
        parameters = sum(each.numel() for each in backbone.parameters())  # type: ignore[attr-defined]
        return Situation(len(self.cases), len(self.task.labels), backbone.kind, parameters, gpu)


def _with_notes(adapter: Adapter, stage: str, plan: Plan) -> AdapterCard:
    return replace(adapter.card, stage=stage, notes=(*plan.notes, *adapter.card.notes))


def _ignore(version: TaughtVersion) -> None:
    """A stage's callback returns nothing."""
