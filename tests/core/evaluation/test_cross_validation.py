"""Held-out volumes tell what Dice to expect: each is measured by a training that never saw it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import stats

from fm3d_core.adaptation import Adapter, FinetuneSettings, LabeledCase, finetune
from fm3d_core.adaptation.cases import load_cases
from fm3d_core.adaptation.expected_dice import ExpectedDice, expected_dice
from fm3d_core.adaptation.training_set import read_training_set
from fm3d_core.errors import Stopped
from fm3d_core.evaluation.cross_validation import _folds, cross_validate, cross_validate_set, groups_of
from fm3d_core.evaluation.slab_folds import slab_folds
from fm3d_core.inference import Predictor
from fm3d_core.progress import Progress
from fm3d_core.tasks import SegmentationTask
from fm3d_core.volumes import IGNORED, read_volume


def test_the_figure_is_that_of_training_by_hand_without_the_volume(
    synthetic_cases: list[LabeledCase], task: SegmentationTask
) -> None:
    settings = FinetuneSettings(steps=15, device="cpu")
    events: list[Progress] = []
    found = cross_validate(synthetic_cases[:2], task, settings, progress=events.append)
    assert found is not None and set(found.cases) == {case.name for case in synthetic_cases[:2]}

    prepared = read_training_set(synthetic_cases[:2], task).task  # volumes are prepared alike in all trainings
    predicted = Predictor(finetune(synthetic_cases[1:2], prepared, settings), "cpu").segment(
        read_volume(synthetic_cases[0].image)
    )
    truth = np.asarray(nib.as_closest_canonical(nib.load(synthetic_cases[0].label)).dataobj)
    by_hand = [
        2 * ((predicted == value) & (truth == value)).sum() / ((predicted == value).sum() + (truth == value).sum())
        for value in (1, 2)
    ]
    assert found.cases[synthetic_cases[0].name] == pytest.approx(np.mean(by_hand), abs=1e-4)
    assert found.mean == pytest.approx(np.mean(list(found.cases.values())), abs=1e-4)
    stages = {event.stage for event in events}
    assert {"checking 1 of 2: training", "checking 2 of 2: training"} <= stages


def test_a_structure_in_one_volume_only_is_not_measured_and_spoils_nothing(
    synthetic_cases: list[LabeledCase], task: SegmentationTask, tmp_path: Path
) -> None:
    label = nib.load(synthetic_cases[1].label)
    first_only = np.where(np.asarray(label.dataobj) == 1, 1, 0).astype(np.uint8)
    nib.save(nib.Nifti1Image(first_only, label.affine), tmp_path / "label.nii.gz")
    cases = [synthetic_cases[0], replace(synthetic_cases[1], label=tmp_path / "label.nii.gz")]
    found = cross_validate(cases, task, FinetuneSettings(steps=2, device="cpu"))
    # learning from the second volume teaches the first structure alone; from the first, both, of which one is in the
    # second: there the other counts only where it was found by mistake
    assert found is not None and task.labels[0] in found.structures and len(found.cases) == 2


def test_an_unusable_volume_is_left_out(synthetic_cases: list[LabeledCase], task: SegmentationTask) -> None:
    broken = replace(synthetic_cases[2], name="broken", label=Path("nowhere.nii.gz"))
    found = cross_validate([*synthetic_cases[:2], broken], task, FinetuneSettings(steps=2, device="cpu"))
    assert found is not None and set(found.cases) == {case.name for case in synthetic_cases[:2]}


def test_a_stop_is_obeyed(synthetic_cases: list[LabeledCase], task: SegmentationTask) -> None:
    for number in (1, 2):
        with pytest.raises(Stopped):
            cross_validate(synthetic_cases[:number], task, FinetuneSettings(steps=2), should_stop=lambda: True)


def test_of_one_volume_slabs_are_held_out(synthetic_cases: list[LabeledCase], task: SegmentationTask) -> None:
    found = cross_validate(synthetic_cases[:1], task, FinetuneSettings(steps=20, device="cpu"))
    assert found is not None and set(found.cases) == {synthetic_cases[0].name}
    # the other slabs of the same ellipsoid are easy to find; and one volume tells nothing of further patients
    assert found.structures["ellipsoid"] > 0.5 and found.low is None and "one volume" in found.how


def test_no_voxel_is_both_learned_and_held_out_and_none_is_lost(
    synthetic_cases: list[LabeledCase], task: SegmentationTask
) -> None:
    ((case,), _) = load_cases(synthetic_cases[:1], task)
    label = case.label.array
    folds = slab_folds(case)
    learned, held_out = ([getattr(fold, name).label.array for fold in folds] for name in ("learned", "held_out"))
    assert ((held_out[0] == IGNORED) ^ (held_out[1] == IGNORED)).all()
    for part, other in zip(learned, held_out, strict=True):
        assert ((part == IGNORED) ^ (other == IGNORED)).all()
        assert (part == label)[part != IGNORED].all() and (other == label)[other != IGNORED].all()
        drawn = (label > 0).sum()
        assert 0.2 * drawn < ((other > 0) & (other != IGNORED)).sum() < 0.8 * drawn
        assert set(np.unique(part)) == {0, 1, 2, IGNORED}


def test_the_same_image_with_another_label_is_held_out_with_its_twin(
    synthetic_cases: list[LabeledCase], task: SegmentationTask, tmp_path: Path
) -> None:
    image, label = nib.load(synthetic_cases[0].image), nib.load(synthetic_cases[0].label)
    nib.save(nib.Nifti1Image(image.get_fdata(dtype=np.float32), image.affine), tmp_path / "saved_again.nii")
    changed = np.asarray(label.dataobj).copy()
    changed[tuple(np.argwhere(changed == 1)[0])] = 0
    nib.save(nib.Nifti1Image(changed, label.affine), tmp_path / "label.nii.gz")
    twin = LabeledCase("twin", tmp_path / "saved_again.nii", tmp_path / "label.nii.gz")
    data = read_training_set([synthetic_cases[0], twin, synthetic_cases[1]], task)
    assert groups_of(data) == [[0, 1], [2]]
    events: list[Progress] = []
    found = cross_validate_set(data, FinetuneSettings(steps=2, device="cpu"), progress=events.append)
    assert found is not None and len(found.cases) == 3
    assert {event.stage[:15] for event in events} == {"checking 1 of 2", "checking 2 of 2"}


def test_the_cost_of_many_volumes_is_bounded() -> None:
    groups = [[0], [1, 2], [3], [4], [5], [6], [7]]
    assert _folds(groups, 3) == [[0], [3], [5]] and _folds(groups[:2], 3) == [[0], [1, 2]]
    assert _folds(groups, None) == [[0, 6], [1, 2, 7], [3], [4], [5]]
    assert len(_folds(groups[:1], 3)) == len(_folds(groups[:1], None)) == 2


def test_the_interval_holds_a_further_volume_as_often_as_it_says() -> None:
    random = np.random.default_rng(0)
    held = []
    for values in random.normal(0.5, 0.05, (4000, 4)):
        found = expected_dice({str(i): {"liver": float(v)} for i, v in enumerate(values[:3])}, "")
        assert found is not None and found.low is not None and found.high is not None
        held.append(found.low <= values[3] <= found.high)
    assert np.mean(held) == pytest.approx(0.8, abs=3 * stats.sem(held))


def test_what_could_not_be_measured_is_not_counted() -> None:
    found = expected_dice({"a": {"x": 0.5, "y": float("nan")}, "b": {"x": 0.7, "y": 0.9}, "c": {"x": float("nan")}}, "")
    assert found is not None
    assert found.structures == {"x": 0.6, "y": 0.9} and found.cases == {"a": 0.5, "b": 0.8}
    assert expected_dice({"a": {"x": float("nan")}}, "") is None
    single = expected_dice({"a": {"x": 0.5}}, "")
    assert single is not None and (single.low, single.high) == (None, None) and str(single) == "0.50"


def test_the_card_keeps_it(
    synthetic_cases: list[LabeledCase], task: SegmentationTask, quick: FinetuneSettings, tmp_path: Path
) -> None:
    expected = ExpectedDice(0.7, 0.6, 0.8, {"a": 0.7}, {"tube": 0.7}, "held out")
    adapter = finetune(synthetic_cases[:1], task, quick)
    assert adapter.card.expected_dice is None
    kept = Adapter(replace(adapter.card, expected_dice=expected), adapter.tensors).save(tmp_path / "kept")
    assert Adapter.load(kept).card.expected_dice == expected
    # a card written before there was such a figure is still read
    card = json.loads((kept / "adapter.json").read_text())
    del card["expected_dice"]
    (kept / "adapter.json").write_text(json.dumps(card))
    assert Adapter.load(kept).card.expected_dice is None
