"""Teaching gives a version per stage, activates what is better, says why, and keeps what landed before a stop."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fm3d_core.adaptation import AdapterStore, FinetuneSettings, LabeledCase
from fm3d_core.errors import Stopped
from fm3d_core.progress import Progress
from fm3d_core.tasks import SegmentationTask
from fm3d_core.teaching import TaughtVersion, teach


def test_each_stage_is_a_version_and_the_last_is_active(
    synthetic_cases: list[LabeledCase], task: SegmentationTask, tmp_path: Path
) -> None:
    store, told, events = AdapterStore(tmp_path), list[TaughtVersion](), list[Progress]()
    settings = FinetuneSettings(steps=15, device="cpu")
    taught = teach(
        synthetic_cases[:2], task, settings, store, progress=events.append, on_version=told.append, measure=True
    )
    assert [version.stage for version in taught.versions] == ["linear_probe", "final"]
    assert not taught.cancelled and [version.version for version in told] == [1, 2, 2]
    active = store.active()
    assert active is not None and active.version == 2 and active.card.stage == "final"
    assert taught.versions[0].why == "the first version" and all(version.why for version in taught.versions)
    expected = taught.versions[-1].expected_dice
    assert (
        expected is not None
        and active.card.expected_dice == expected
        and set(expected.cases) == {case.name for case in synthetic_cases[:2]}
    )


def test_a_stop_keeps_what_had_landed(
    synthetic_cases: list[LabeledCase], task: SegmentationTask, tmp_path: Path
) -> None:
    store, told = AdapterStore(tmp_path), list[TaughtVersion]()
    settings = FinetuneSettings(preset="fast", device="cpu")
    taught = teach(synthetic_cases[:1], task, settings, store, should_stop=lambda: bool(told), on_version=told.append)
    assert taught.cancelled and [version.stage for version in taught.versions] == ["linear_probe"]
    active = store.active()
    assert active is not None and active.version == 1
    assert any("Preset fast" in note for note in active.card.notes)
    with pytest.raises(Stopped):
        teach(synthetic_cases[:1], task, replace(settings, preset=None), store, should_stop=lambda: True)
    assert len(store.versions()) == 1
