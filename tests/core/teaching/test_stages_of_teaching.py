"""Teaching gives a version per stage, activates what is better, says why, and keeps what landed before a stop."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from fm3d_core.adaptation import (
    Adapter,
    AdapterStore,
    FinetuneSettings,
    LabeledCase,
    finetune,
    untrained_adapter,
)
from fm3d_core.adaptation.cases import TrainingCase
from fm3d_core.adaptation.feature_cache import FeatureCache
from fm3d_core.adaptation.training_set import read_training_set
from fm3d_core.errors import AdapterError, SettingsError, Stopped
from fm3d_core.evaluation.cross_validation import score
from fm3d_core.inference import Predictor
from fm3d_core.progress import Progress
from fm3d_core.tasks import SegmentationTask
from fm3d_core.teaching import TaughtVersion, make_plan, plan, teach
from fm3d_core.teaching.plan import Situation
from fm3d_core.teaching.probe import ProbeStage
from fm3d_core.volumes import Preprocessing, read_volume


def test_each_stage_is_a_version_and_the_last_is_active(
    synthetic_cases: list[LabeledCase], task: SegmentationTask, tmp_path: Path
) -> None:
    store, told, events = AdapterStore(tmp_path), list[TaughtVersion](), list[Progress]()
    settings = FinetuneSettings(steps=40, device="cpu")
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


def test_a_stop_in_the_midst_of_a_stage_keeps_what_it_had_learned_and_says_why_it_is_active_or_not(
    synthetic_cases: list[LabeledCase], task: SegmentationTask, tmp_path: Path
) -> None:
    """Half of the steps; and with a rate at which nothing is learned, after which the linear probe stays."""
    for rate, half, active in ((None, 70, 2), (1e-12, 10, 1)):
        store, steps = AdapterStore(tmp_path / str(active)), list[int]()
        settings = FinetuneSettings(steps=2 * half, learning_rate=rate, device="cpu")

        def note(event: Progress, steps: list[int] = steps) -> None:
            if event.stage == "training":
                steps.append(event.step)

        monkey = pytest.MonkeyPatch()
        monkey.setattr("fm3d_core.adaptation.trainer.REPORT_SECONDS", 0.0)
        taught = teach(
            synthetic_cases[:2],
            task,
            settings,
            store,
            progress=note,
            should_stop=lambda steps=steps, half=half: bool(steps) and steps[-1] >= half,
        )
        monkey.undo()
        assert taught.cancelled and [version.stage for version in taught.versions] == ["linear_probe", "cut_short"]
        cut = taught.versions[-1]
        assert cut.stored.card.training["steps"] == half and any(
            f"{half} steps" in note for note in cut.stored.card.notes
        )
        kept = store.active()
        assert kept is not None and kept.version == active, cut.why
        assert "on volumes that both have learned from" in cut.why and ("not clearly" in cut.why) == (active == 1)
        assert cut.active == (active == 2)
        volume = read_volume(synthetic_cases[2].image)
        assert Predictor(store.load(2), "cpu").segment(volume).any()


def test_a_stop_after_a_few_steps_has_nothing_to_keep(
    synthetic_cases: list[LabeledCase], task: SegmentationTask, tmp_path: Path
) -> None:
    store = AdapterStore(tmp_path)
    stages: list[str] = []
    taught = teach(
        synthetic_cases[:1],
        task,
        FinetuneSettings(steps=1000, device="cpu"),
        store,
        progress=lambda event: stages.append(event.stage),
        should_stop=lambda: stages[-1:] == ["training"],
    )
    assert taught.cancelled and [version.stage for version in taught.versions] == ["linear_probe"]


def test_a_version_that_turns_out_worse_gives_way_again_and_that_is_said(
    synthetic_cases: list[LabeledCase], task: SegmentationTask, tmp_path: Path
) -> None:
    store = AdapterStore(tmp_path)
    good = FinetuneSettings(steps=60, device="cpu")
    teach(synthetic_cases[:2], task, good, store, measure=True)
    useless = replace(good, steps=1, learning_rate=1e-12, closed_form=False, continue_from="none")
    taught = teach(synthetic_cases[:2], task, useless, store, measure=True)
    active = store.active()
    assert active is not None and active.version == 2
    (last,) = taught.versions
    assert not last.active and "not better; version 2 is active again" in last.why

    told: list[TaughtVersion] = []
    again = AdapterStore(tmp_path / "again")
    with_head = replace(useless, learning_rate=1.0, steps=3, closed_form=True)
    taught = teach(synthetic_cases[:2], task, with_head, again, measure=True, on_version=told.append)
    assert [(version.version, version.active) for version in told] == [(1, True), (2, True), (2, False), (1, True)]
    assert [version.active for version in taught.versions] == [True, False]


def test_labels_that_arrive_go_on_from_the_active_version(
    synthetic_cases: list[LabeledCase], task: SegmentationTask, tmp_path: Path
) -> None:
    store, settings = AdapterStore(tmp_path), FinetuneSettings(steps=15, device="cpu")
    teach(synthetic_cases[:1], task, settings, store)
    taught = teach(synthetic_cases[:2], task, settings, store)
    (last,) = taught.versions  # a linear head could not be better than what is there
    assert any("goes on from version 2" in note for note in last.stored.card.notes)
    assert last.stored.card.task.preprocessing == store.load(2).card.task.preprocessing
    assert len(last.stored.card.cases) == 2

    anew = teach(synthetic_cases[:2], task, replace(settings, continue_from="none"), store)
    assert [version.stage for version in anew.versions] == ["linear_probe", "final"]
    other = teach(synthetic_cases[:2], task, replace(settings, method="lora"), store)
    assert any("method is full, not lora" in note for note in other.versions[-1].stored.card.notes)
    with pytest.raises(SettingsError, match="cannot go on from version 2: its method is full"):
        teach(synthetic_cases[:2], task, replace(settings, method="lora", continue_from="2"), store)
    with pytest.raises(AdapterError, match="no version 99"):
        teach(synthetic_cases[:2], task, replace(settings, continue_from="99"), store)


def test_the_probe_says_what_dice_to_expect(
    synthetic_cases: list[LabeledCase], task: SegmentationTask, tmp_path: Path
) -> None:
    settings = FinetuneSettings(device="cpu")
    for number, words in ((1, "slabs of the one volume"), (3, "each volume held out in turn, 3 heads")):
        data = read_training_set(synthetic_cases[:number], task)
        adapter = ProbeStage(data, settings, FeatureCache(tmp_path)).run()
        expected = adapter.card.expected_dice
        assert (
            expected is not None
            and words in expected.how
            and set(expected.cases) == {case.name for case in synthetic_cases[:number]}
        )
        (dice,) = score(Predictor(adapter), read_training_set(synthetic_cases[3:], task).loaded[0], task).values()
        assert abs(dice["ellipsoid"] - expected.structures["ellipsoid"]) < 0.3 and dice["ellipsoid"] > 0.3


def test_the_head_that_a_volume_is_measured_with_never_saw_its_label(
    synthetic_cases: list[LabeledCase], task: SegmentationTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = read_training_set(synthetic_cases[:2], task)
    other = replace(data.prepared[0], label=torch.flip(data.prepared[0].label, (1, 2)))
    segment, found = ProbeStage._segment, []

    def keep(stage: ProbeStage, case: TrainingCase) -> np.ndarray:  # type: ignore[type-arg]
        found.append(segment(stage, case))
        return found[-1]

    monkeypatch.setattr(ProbeStage, "_segment", keep)
    for prepared in (data.prepared, (other, data.prepared[1])):
        ProbeStage(replace(data, prepared=prepared), FinetuneSettings(device="cpu"), FeatureCache(tmp_path)).run()
    first, second, first_again, second_again = found
    assert (first == first_again).all() and (second != second_again).any()


@pytest.mark.parametrize("preset", ["fast", "balanced", "thorough"])
@pytest.mark.parametrize(("kind", "parameters"), [("pyramid", 400_000), ("pyramid", 60_000_000), ("tokens", 3_000_000)])
def test_every_preset_has_stages_for_every_backbone_that_end_with_the_final_one(
    preset: str, kind: str, parameters: int
) -> None:
    chosen = make_plan(FinetuneSettings(preset=preset), Situation(3, 2, kind, parameters, gpu=False))
    assert chosen.stages[0].solved and chosen.stages[-1].name == "final" and chosen.stages[-1].check > 0
    for stage in chosen.stages:
        FinetuneSettings(method=stage.method, head=stage.head, seconds=stage.seconds or 1)
        assert stage.method in " ".join(chosen.notes)


def test_auto_chooses_by_the_situation_and_says_why() -> None:
    auto = FinetuneSettings(preset="auto")
    small = Situation(1, 1, "pyramid", 400_000, gpu=False)
    assert make_plan(auto, small).preset == "fast"
    for change in ({"gpu": True}, {"structures": 13}, {"shots": 10}, {"kind": "tokens"}):
        chosen = make_plan(auto, replace(small, **change))
        assert chosen.preset == "balanced" and "was chosen: " in chosen.notes[0]


@pytest.mark.parametrize(
    ("backbone", "stages"),
    [
        ("vit_light_8", ["linear_probe", "decoder", "final"]),
        ("residual_unet_small", ["linear_probe", "spatial_adapter", "final"]),  # taken for a large one here
    ],
)
def test_large_backbones_go_through_all_their_stages(
    backbone: str,
    stages: list[str],
    synthetic_cases: list[LabeledCase],
    task: SegmentationTask,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    quick = deepcopy(plan._data())
    quick["small_parameters"] = 0
    for sort in quick["presets"]["balanced"]["stages"].values():
        for stage in sort:
            stage |= {"steps": 2} if stage.pop("seconds", 0) else {}
    monkeypatch.setattr(plan, "_data", lambda: quick)
    store, events = AdapterStore(tmp_path), list[Progress]()
    settings = FinetuneSettings(preset="balanced", backbone=backbone, device="cpu")
    taught = teach(synthetic_cases[:2], task, settings, store, progress=events.append)
    assert [version.stage for version in taught.versions] == stages
    assert all(version.expected_dice is not None for version in taught.versions)
    assert [version.active for version in taught.versions].count(True) == 1
    assert any("dice" in event.metrics for event in events if event.stage == "training")
    volume = read_volume(synthetic_cases[2].image)
    for version in taught.versions:
        assert Predictor(store.load(version.version), "cpu").segment(volume).shape == volume.shape
        assert sum(file.stat().st_size for file in version.stored.path.iterdir()) < 10_000_000


def test_what_needs_no_training_is_measured_and_must_be_beaten(
    synthetic_cases: list[LabeledCase], task: SegmentationTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = FinetuneSettings(steps=40, device="cpu")
    good = finetune(synthetic_cases[:3], task, settings)
    knowing = Adapter(replace(good.card, cases=()), good.tensors)
    for untrained, active in ((untrained_adapter(task, settings), "final"), (knowing, "zero_shot")):
        monkeypatch.setattr("fm3d_core.teaching.stages.zero_shot_adapter", lambda *_, known=untrained: known)
        store = AdapterStore(tmp_path / active)
        teach(synthetic_cases[:2], task, settings, store, measure=True)
        stages = [version.card.stage for version in store.versions()]
        now = store.active()
        assert stages == ["zero_shot", "linear_probe", "final"] and now is not None and now.card.stage == active
    first = store.versions()[0].card.expected_dice
    assert first is not None and "learned from none" in first.how


def _one_voxel_each(array: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
    kept = np.zeros_like(array)
    for value in (1, 2):
        kept[tuple(np.argwhere(array == value)[0])] = value
    return kept


def _at_the_border(array: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
    kept = np.zeros_like(array)
    kept[0], kept[-1, -1] = 1, 2
    return kept


def _first_structure(array: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
    return np.where(array == 1, 1, 0).astype(array.dtype)


@pytest.mark.parametrize("shots", [1, 2])
@pytest.mark.parametrize("change", [_one_voxel_each, _at_the_border, _first_structure])
def test_hardly_any_label_is_taught_and_measured_without_a_fault(
    change: Callable[[np.ndarray], np.ndarray],  # type: ignore[type-arg]
    shots: int,
    synthetic_cases: list[LabeledCase],
    task: SegmentationTask,
    tmp_path: Path,
) -> None:
    """The first case is as it should be; volumes differ in spacing and orientation."""
    cases = list(synthetic_cases[:1])
    for case in synthetic_cases[1 : 1 + shots]:
        label = nib.load(case.label)
        path = tmp_path / case.label.name
        nib.save(nib.Nifti1Image(change(np.asarray(label.dataobj)), label.affine), path)
        cases.append(replace(case, label=path))
    cases = cases[1:] if shots == 1 and change is not _first_structure else cases
    as_it_is = replace(task, preprocessing=Preprocessing(crop_foreground=False))
    settings, store = FinetuneSettings(steps=2, device="cpu"), AdapterStore(tmp_path / "store")
    taught = teach(cases, as_it_is, settings, store, measure=True)
    assert [version.stage for version in taught.versions] == ["linear_probe", "final"]
    for version in taught.versions:
        expected = version.expected_dice
        assert expected is None or 0 <= expected.mean <= 1
        assert all(tensor.isfinite().all() for tensor in store.load(version.version).tensors.values())
