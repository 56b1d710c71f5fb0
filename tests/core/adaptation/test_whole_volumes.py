"""Learning about whole volumes: every method on every kind of backbone, what is kept, and what is refused."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from fm3d_core.adaptation import Adapter, FinetuneSettings, ImageCase, finetune_images
from fm3d_core.adaptation.image_batches import Rounds, cut
from fm3d_core.adaptation.methods import METHODS
from fm3d_core.errors import CaseError, SettingsError
from fm3d_core.inference import ImagePredictor, Predictor
from fm3d_core.tasks import ClassificationTask, MultilabelTask, RegressionTask, SurvivalTask, WholeVolumeTask
from fm3d_core.volumes import Preprocessing, read_channels

CROP = (32, 32, 32)
QUICK = FinetuneSettings(steps=2, batch_size=4, device="cpu", backbone="residual_unet_small", weights=Path("random"))
# pairs in which the backbone has not what the method needs
REFUSED = {
    ("affine_ln", "residual_unet_small"),
    ("adaptformer", "residual_unet_small"),
    ("vera", "residual_unet_small"),
    ("lora_query_value", "residual_unet_small"),
    ("compacter", "residual_unet_small"),
    ("cnn_adapter", "vit_tiny"),
}
PAIRS = [
    (method, backbone)
    for method in METHODS
    for backbone in ("residual_unet_small", "vit_tiny")
    if method != "none" and (method, backbone) not in REFUSED
]


def _write(path: Path, bright: float, seed: int, shape: tuple[int, int, int] = (28, 26, 24)) -> Path:
    """Noise with a ball in the middle, whose size tells the class."""
    random = np.random.default_rng(seed)
    axes = np.meshgrid(*(np.arange(size) - size / 2 for size in shape), indexing="ij")
    ball = sum(axis**2 for axis in axes) < (4 + 6 * bright) ** 2
    array = random.random(shape) + 4 * ball
    nibabel.save(nibabel.Nifti1Image(array.astype(np.float32), np.diag([1.5, 1.5, 2.0, 1.0])), path)
    return path


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Eight images, every second with a large ball."""
    folder = tmp_path_factory.mktemp("balls")
    return [_write(folder / f"case_{index}.nii.gz", index % 2, index) for index in range(8)]


def _task(kind: str) -> WholeVolumeTask:
    common = {"preprocessing": Preprocessing(spacing=(2, 2, 2)), "crop": CROP}
    return {
        "classification": ClassificationTask(("small", "large"), **common),
        "multilabel": MultilabelTask(("ball", "large"), mean_patch=True, **common),
        "regression": RegressionTask("age", **common),
        "survival": SurvivalTask(bins=2, layers=2, **common),
    }[kind]


def _cases(images: list[Path], kind: str) -> list[ImageCase]:
    targets = {
        "classification": lambda index: (index % 2,),
        "multilabel": lambda index: (1.0, index % 2),
        "regression": lambda index: (40.0 + 30 * (index % 2) + index,),
        "survival": lambda index: (100.0 + 50 * index, float(index != 3)),
    }[kind]
    return [ImageCase(path.name[:-7], (path,), tuple(map(float, targets(i)))) for i, path in enumerate(images)]


@pytest.mark.parametrize(("method", "backbone"), PAIRS)
def test_every_method_learns_about_whole_volumes_and_comes_back(
    method: str, backbone: str, images: list[Path], tmp_path: Path
) -> None:
    settings = replace(QUICK, method=method, backbone=backbone, weights=None if method == "scratch" else QUICK.weights)
    adapter = finetune_images(_cases(images[:4], "classification"), _task("classification"), settings)
    loaded = Adapter.load(adapter.save(tmp_path / "a"))
    assert loaded.card == adapter.card and loaded.card.task.kind == "classification"
    volume = read_channels([images[5]])
    said = ImagePredictor(adapter, "cpu").activated(volume)
    assert said == pytest.approx(ImagePredictor(loaded, "cpu").activated(volume), abs=2e-2)  # in half precision
    assert sum(said) == pytest.approx(1, abs=1e-5)
    frozen = METHODS[method].frozen_backbone
    assert any(name.startswith("backbone.") for name in adapter.tensors) != frozen


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["swin_unetr_tiny", "suprem_segresnet", "vit_small_rotary"])
def test_larger_backbones_tell_about_whole_volumes_too(backbone: str, images: list[Path], tmp_path: Path) -> None:
    settings = replace(QUICK, method="linear_probe", backbone=backbone, batch_size=2, steps=1)
    adapter = finetune_images(_cases(images[:2], "classification"), _task("classification"), settings)
    loaded = Adapter.load(adapter.save(tmp_path / "a"))
    assert sum(ImagePredictor(loaded, "cpu").activated(read_channels([images[5]]))) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("kind", ["classification", "multilabel", "regression", "survival"])
@pytest.mark.parametrize("method", ["linear_probe", "full"])
def test_every_kind_of_task_is_learned_and_keeps_what_it_took_from_the_targets(
    kind: str, method: str, images: list[Path], tmp_path: Path
) -> None:
    adapter = finetune_images(_cases(images, kind), _task(kind), replace(QUICK, method=method))
    loaded = Adapter.load(adapter.save(tmp_path / "a"))
    task = loaded.card.task
    assert task.to_dict() == adapter.card.task.to_dict() and len(loaded.card.cases) == 8
    if isinstance(task, RegressionTask):
        values = [case.target[0] for case in _cases(images, kind)]
        assert task.mean == pytest.approx(np.mean(values)) and task.sd == pytest.approx(np.std(values))
    if isinstance(task, SurvivalTask):
        assert task.edges is not None and len(task.edges) == 3
    answer = ImagePredictor(loaded, "cpu", flips=True).predict(read_channels([images[0]]))
    keys = {"classification": "class", "multilabel": "labels", "regression": "value", "survival": "risk"}
    assert keys[kind] in answer


def test_a_probe_learns_to_tell_small_from_large(images: list[Path]) -> None:
    settings = replace(QUICK, method="linear_probe", steps=60)
    predictor = ImagePredictor(finetune_images(_cases(images[:6], "classification"), _task("classification"), settings))
    assert [predictor.predict(read_channels([path]))["class"] for path in images[6:]] == ["small", "large"]


def test_preprocessing_and_crop_are_planned_so_that_the_whole_volume_is_seen(images: list[Path]) -> None:
    adapter = finetune_images(_cases(images[:2], "classification"), ClassificationTask(("a", "b")), QUICK)
    assert adapter.card.task.preprocessing is not None
    assert adapter.card.task.preprocessing.spacing == (1.5, 1.5, 2.0) and adapter.card.window == (28, 26, 24)


def test_flips_are_averaged_and_so_are_folds(images: list[Path]) -> None:
    cases = _cases(images[:4], "classification")
    one, two = (finetune_images(cases, _task("classification"), replace(QUICK, seed=seed)) for seed in (0, 1))
    volume = read_channels([images[4]])
    alone = [ImagePredictor(each, "cpu").activated(volume) for each in (one, two)]
    assert ImagePredictor([one, two], "cpu").activated(volume) == pytest.approx(np.mean(alone, axis=0), abs=1e-6)
    flipped = [volume] + [replace(volume, array=np.flip(volume.array, axis).copy()) for axis in range(3)]
    each = [ImagePredictor(one, "cpu").activated(view) for view in flipped]
    assert ImagePredictor(one, "cpu", flips=True).activated(volume) == pytest.approx(np.mean(each, axis=0), abs=5e-3)


def test_images_that_cannot_be_used_are_left_out_by_name(
    images: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    cases = [
        *_cases(images[:2], "classification"),
        ImageCase("gone", (tmp_path / "gone.nii.gz",), (0.0,)),
        ImageCase("twin", (images[0],), (1.0,)),
        ImageCase("mixed", (images[2], images[3]), (1.0,)),
    ]
    adapter = finetune_images(cases, _task("classification"), QUICK)
    assert [case.name for case in adapter.card.cases] == ["case_0", "case_1"]
    gone, twin, mixed = adapter.card.left_out
    assert gone.startswith("gone: does not exist") and twin.startswith("twin: is the same image as case_0")
    assert mixed.startswith("mixed: has 2 image files, 1 channels are expected")


def test_what_cannot_be_learned_is_refused_in_words(images: list[Path]) -> None:
    cases = _cases(images[:4], "classification")
    with pytest.raises(CaseError, match="all cases are of one class"):
        finetune_images([replace(case, target=(0.0,)) for case in cases], _task("classification"), QUICK)
    with pytest.raises(SettingsError, match="batch_size is 1"):
        finetune_images(cases, _task("classification"), replace(QUICK, batch_size=1))
    with pytest.raises(SettingsError, match="method none"):
        finetune_images(cases, _task("classification"), replace(QUICK, method="none"))
    with pytest.raises(CaseError, match="no case to learn from"):
        finetune_images([], _task("classification"), QUICK)
    with pytest.raises(SettingsError, match="answers for voxels"):
        finetune_images(cases, _task("classification"), replace(QUICK, head="unetr", backbone="vit_tiny"))


def test_an_adapter_about_volumes_segments_nothing_and_one_about_voxels_classifies_nothing(
    images: list[Path], synthetic_cases: list, task: object, quick: FinetuneSettings
) -> None:
    from fm3d_core.adaptation import finetune

    adapter = finetune_images(_cases(images[:2], "classification"), _task("classification"), QUICK)
    with pytest.raises(SettingsError, match="segments nothing"):
        Predictor(adapter)
    with pytest.raises(SettingsError, match="answers about voxels"):
        ImagePredictor(finetune(synthetic_cases[:1], task, quick))


def test_crops_are_padded_on_both_sides_and_cut_from_one_end_to_the_other() -> None:
    image = torch.arange(10.0).view(1, 10, 1, 1)
    assert cut(image, (4, 1, 1)).flatten().tolist() == [3, 4, 5, 6]
    assert cut(image, (4, 1, 1), (0.0, 0, 0)).flatten().tolist() == [0, 1, 2, 3]
    assert cut(image, (4, 1, 1), (0.999, 0, 0)).flatten().tolist() == [6, 7, 8, 9]
    assert cut(image, (13, 1, 2)).shape == (1, 13, 1, 2)
    assert cut(image, (13, 1, 1))[0, :, 0, 0].tolist() == [-1, *range(10), -1, -1]


def test_each_volume_comes_once_a_round() -> None:
    rounds = Rounds(5, torch.Generator().manual_seed(0))
    taken = rounds.take(7) + rounds.take(3)
    assert sorted(taken[:5]) == sorted(taken[5:]) == list(range(5))
