from pathlib import Path

import pytest
import torch

from fm3d_core.errors import SettingsError
from fm3d_core.models.decoders import UNETRHead
from fm3d_core.models.heads import LinearHead
from fm3d_core.models.zoo import BackboneSpec, create_backbone
from fm3d_core.tasks import SegmentationTask
from fm3d_core.volumes import Preprocessing


def test_a_task_survives_yaml(tmp_path: Path) -> None:
    task = SegmentationTask(("liver", "Milz ü"), Preprocessing(spacing=(1, 1, 2.5), window=(-175, 250)))
    (tmp_path / "task.yaml").write_text(task.to_yaml(), encoding="utf-8")
    assert SegmentationTask.from_yaml(tmp_path / "task.yaml") == task
    assert task.values == {"liver": 1, "Milz ü": 2} and task.classes == 3


@pytest.mark.parametrize(
    "text", ["[1, 2", "just text", "kind: survival\nlabels: [a]", "labels: [a]\nlabel: [b]", "labels: []"]
)
def test_a_file_that_is_no_task_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "task.yaml").write_text(text)
    with pytest.raises(SettingsError):
        SegmentationTask.from_yaml(tmp_path / "task.yaml")


@pytest.mark.parametrize("labels", [(), ("",), ("a", "a"), tuple(f"s{i}" for i in range(255))])
def test_impossible_labels_are_refused(labels: tuple[str, ...]) -> None:
    with pytest.raises(SettingsError):
        SegmentationTask(labels)


def test_the_head_follows_the_backbone_and_the_method() -> None:
    task = SegmentationTask(("a", "b"))
    tokens, pyramid = (create_backbone(BackboneSpec(name)) for name in ("vit_tiny", "residual_unet_small"))
    assert isinstance(task.build_head(tokens), UNETRHead)
    assert isinstance(task.build_head(tokens, linear=True), LinearHead)
    assert isinstance(task.build_head(pyramid), LinearHead)


def test_the_loss_is_least_for_the_truth() -> None:
    loss = SegmentationTask(("a", "b")).loss()
    target = torch.randint(0, 3, (2, 1, 8, 8, 8), generator=torch.Generator().manual_seed(0)).float()
    right = torch.nn.functional.one_hot(target[:, 0].long(), 3).movedim(-1, 1).float() * 20
    wrong = right.roll(1, dims=1)
    assert loss(right, target) < 0.01 < 1 < loss(wrong, target)
