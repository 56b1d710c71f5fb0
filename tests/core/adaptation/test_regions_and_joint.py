"""Regions that overlap on several channels, and structures with a class: learned by each kind of method, and back."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from scipy.ndimage import binary_dilation, binary_erosion

from fm3d_core.adaptation import Adapter, FinetuneSettings, LabeledCase, finetune
from fm3d_core.errors import CaseError, SettingsError
from fm3d_core.inference import Predictor, case_quality
from fm3d_core.inference.prediction import region_entropy
from fm3d_core.tasks import JointTask, RegionsTask
from fm3d_core.volumes import Preprocessing, Volume, read_channels

METHODS = ("full", "lora", "bias", "linear_probe", "black_box_adapter", "spatial_adapter", "cnn_adapter")
QUICK = FinetuneSettings(steps=2, batch_size=2, device="cpu", weights=Path("random"))
REGIONS = RegionsTask((("WT", (1, 2, 4)), ("TC", (1, 4)), ("ET", (4,))), Preprocessing(percentiles=(0, 100)), 2)
JOINT = JointTask(("cavity", "infarct"), ("N", "P"), preprocessing=Preprocessing(percentiles=(0, 100)))


def _write(path: Path, array: np.ndarray) -> Path:
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), path)
    return path


@pytest.fixture(scope="module")
def tumours(tmp_path_factory: pytest.TempPathFactory) -> list[LabeledCase]:
    """Two channels; 4 in 1 in 2, each brighter than what is around it in one of the channels."""
    folder, cases = tmp_path_factory.mktemp("tumours"), []
    for index in range(3):
        random = np.random.default_rng(index)
        label = np.zeros((24, 20, 16), np.uint8)
        label[4:20, 4:16, 2:14], label[7:17, 6:14, 4:12], label[9:14, 8:12, 6:10] = 2, 1, 4
        first = 3.0 * (label > 0) + 3 * (label == 4) + random.normal(0, 0.1, label.shape)
        second = 3.0 * np.isin(label, (1, 4)) + random.normal(0, 0.1, label.shape)
        files = [
            _write(folder / f"{index}_{n}.nii.gz", each.astype(np.float32)) for n, each in enumerate((first, second))
        ]
        label_file = _write(folder / f"{index}_label.nii.gz", label)
        cases.append(LabeledCase(f"case_{index}", files[0], label_file, more_channels=(files[1],)))
    return cases


@pytest.fixture(scope="module")
def hearts(tmp_path_factory: pytest.TempPathFactory) -> list[LabeledCase]:
    """A cavity, and in every second case an infarct in it."""
    folder, cases = tmp_path_factory.mktemp("hearts"), []
    for index in range(4):
        random, label = np.random.default_rng(index), np.zeros((24, 20, 16), np.uint8)
        label[4:20, 4:16, 2:14] = 1
        if index % 2:
            label[8:16, 6:14, 4:12] = 2
        image = (2.0 * label + random.normal(0, 0.1, label.shape)).astype(np.float32)
        files = [_write(folder / f"{index}.nii.gz", image), _write(folder / f"{index}_label.nii.gz", label)]
        cases.append(LabeledCase(f"case_{index}", *files, target=(float(index % 2),)))
    return cases


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["regions", "joint"])
def test_each_kind_of_method_learns_them_and_comes_back(
    method: str, kind: str, tumours: list[LabeledCase], hearts: list[LabeledCase], tmp_path: Path
) -> None:
    cases: list[LabeledCase]
    task: Any
    cases, task = (tumours, REGIONS) if kind == "regions" else (hearts, JOINT)
    adapter = finetune(cases[:2], task, replace(QUICK, method=method))
    loaded = Adapter.load(adapter.save(tmp_path / "a"))
    assert loaded.card == adapter.card and loaded.card.task == task and loaded.card.task.kind == kind
    volume = read_channels((cases[2].image, *cases[2].more_channels))
    predictor = Predictor(loaded, "cpu", views=1)
    if kind == "regions":
        masks = predictor.segment_regions(volume)
        assert masks.shape == (3, 24, 20, 16) and masks.dtype == bool
        assert set(np.unique(predictor.segment(volume))) <= {0, 1, 2, 4}
        with pytest.raises(SettingsError, match="exclusive structures only"):
            case_quality(predictor, predictor.predict(volume))
    else:
        label, answer = predictor.classify(volume)
        assert label.shape == (24, 20, 16) and answer["class"] in ("N", "P")
        assert sum(answer["probabilities"].values()) == pytest.approx(1, abs=1e-4)
        np.testing.assert_array_equal(label, predictor.segment(volume))


def test_regions_are_told_from_both_channels(tumours: list[LabeledCase]) -> None:
    adapter = finetune(tumours[:2], REGIONS, replace(QUICK, steps=120, learning_rate=1e-2))
    volume = read_channels((tumours[2].image, *tumours[2].more_channels))
    truth = np.asarray(nibabel.load(tumours[2].label).dataobj)
    predictor = Predictor(adapter, "cpu")
    found = predictor.segment_regions(volume)
    _check_prediction(predictor, volume, found)
    for mask, (_, parts), least in zip(found, REGIONS.regions, (0.8, 0.7, 0.4), strict=True):
        expected = np.isin(truth, parts)
        assert 2 * (mask & expected).sum() / (mask.sum() + expected.sum()) > least


def _check_prediction(predictor: Predictor, volume: Volume, masks: np.ndarray) -> None:
    """Regions have an uncertainty: high at their borders, where a yes or no is a near thing, and low elsewhere."""
    prediction = predictor.predict(volume, variants=1)
    np.testing.assert_array_equal(prediction.labels, predictor.segment(volume))
    np.testing.assert_array_equal(np.stack(list(prediction.regions.values())), masks)
    names = [name for name, _ in REGIONS.regions]
    voxel_ml = math.prod(volume.spacing) / 1000
    assert list(prediction.sizes) == list(prediction.confidence) == list(prediction.stability) == names
    assert list(prediction.sizes.values()) == pytest.approx([mask.sum() * voxel_ml for mask in masks])
    assert all(0 < value <= 1 for value in prediction.confidence.values())
    unsure = prediction.uncertainty
    assert unsure.shape == masks.shape[1:] and unsure.min() >= 0 and 0.3 < unsure.max() <= 1
    border = np.any([binary_dilation(mask) & ~binary_erosion(mask) for mask in masks], axis=0)
    assert unsure[border].mean() > 2 * unsure[~border].mean()


def test_the_least_sure_region_says_how_sure_a_voxel_is() -> None:
    probabilities = torch.tensor([[1.0, 0.5, 1.0, 0.1], [0.0, 1.0, 0.9, 0.9]]).reshape(2, 4, 1, 1)
    one_in_ten = -(0.1 * math.log2(0.1) + 0.9 * math.log2(0.9))
    assert region_entropy(probabilities).flatten().tolist() == pytest.approx([0, 1, one_in_ten, one_in_ten], abs=1e-5)


def test_a_joint_task_learns_where_and_what(hearts: list[LabeledCase]) -> None:
    adapter = finetune(hearts[:2], JOINT, replace(QUICK, steps=120, learning_rate=1e-2, batch_size=4))
    for case in hearts[2:]:
        label, answer = Predictor(adapter, "cpu", views=1).classify(read_channels([case.image]))
        truth = np.asarray(nibabel.load(case.label).dataobj)
        assert 2 * ((label > 0) & (truth > 0)).sum() / ((label > 0).sum() + (truth > 0).sum()) > 0.8
        assert answer["class"] == JOINT.image_labels[int(case.target[0])]


def test_values_that_are_no_part_of_a_region_and_missing_parts_are_refused(
    tumours: list[LabeledCase], hearts: list[LabeledCase], tmp_path: Path
) -> None:
    array = np.asarray(nibabel.load(tumours[0].label).dataobj).copy()
    array[0, 0, 0] = 3
    odd = replace(tumours[0], label=_write(tmp_path / "odd.nii.gz", array))
    with pytest.raises(Exception, match=r"unknown label values 3.*1 \(label 1\)"):
        finetune([odd], REGIONS, QUICK)
    array[array == 4], array[0, 0, 0] = 1, 0
    without = replace(tumours[0], label=_write(tmp_path / "without.nii.gz", array))
    with pytest.raises(SettingsError, match="a step has one crop"):
        finetune(hearts[:2], JOINT, replace(QUICK, batch_size=1))
    with pytest.raises(CaseError, match="no case contains label 4"):
        finetune([without], REGIONS, QUICK)
