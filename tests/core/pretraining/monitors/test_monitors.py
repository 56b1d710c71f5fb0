"""Monitors tell a collapsed model from a random one, see what features know, and draw the same picture again."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fm3d_core.models.residual_unet import ResidualUNet
from fm3d_core.models.vit import VisionTransformer3D
from fm3d_core.pretraining.monitors import monitors_for
from fm3d_core.pretraining.monitors.collapse import CollapseAlarm
from fm3d_core.pretraining.monitors.effective_rank import effective_rank, spread
from fm3d_core.pretraining.monitors.fixed_crops import FixedCrops, drawn_volumes, stored_volumes
from fm3d_core.pretraining.monitors.neighbours import NeighbourProbe, neighbour_accuracy, octants
from fm3d_core.pretraining.monitors.pca_picture import colored, components, in_ras, plane, proportional_size
from fm3d_core.pretraining.monitors.teacher_entropy import entropies
from fm3d_core.pretraining.objective import Objective
from fm3d_core.pretraining.self_distillation import HeadSettings, SelfDistillation, SelfDistillationSettings
from fm3d_core.volumes import write_synthetic_cases
from fm3d_core.volumes.crop_store_building import build_crop_store
from fm3d_core.volumes.scan import scan_folder

HEAD = HeadSettings(prototypes=256, hidden=32, bottleneck=32)


class Distilled(Objective):
    """The least objective around a model."""

    def __init__(self, model: nn.Module, backbone: nn.Module) -> None:
        super().__init__()
        self.model, self.backbone = model, backbone

    def forward(self, batch: Any) -> dict[str, torch.Tensor]:
        raise NotImplementedError

    def parameter_groups(self) -> list[dict[str, Any]]:
        return []

    def before_step(self, step: int, groups: list[dict[str, Any]]) -> dict[str, float]:
        return {}

    def clipped_modules(self) -> Mapping[str, nn.Module]:
        return {}

    def pretrained(self) -> nn.Module:
        return self.backbone


def distilled(**options: Any) -> Distilled:
    torch.manual_seed(0)
    backbone = VisionTransformer3D(32, 8, width=48, depth=2, heads=3, **options)
    model = SelfDistillation(backbone, SelfDistillationSettings(head=HEAD, ibot_head=HEAD)).eval()
    return Distilled(model, model.teacher.backbone)


SETTINGS = {"views": {"global_crops": {"size": [32, 32, 32]}}}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("monitors")
    write_synthetic_cases(folder, 4, shape=(40, 36, 32))
    build_crop_store(scan_folder(folder).volumes, folder / "store", workers=1)
    return folder / "store"


@pytest.mark.parametrize(
    "options", [{}, {"layer_scale": 1.0}, {"rotary_wavelengths": (4.0, 200.0), "layer_scale": 1.0}]
)
def test_a_random_model_raises_no_alarm_and_has_all_figures(
    options: dict[str, Any], store: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    figures: dict[str, float] = {}
    objective = distilled(**options)
    with torch.no_grad(), caplog.at_level(logging.WARNING):
        for monitor in monitors_for("self_distillation", SETTINGS, store):
            figures |= monitor(objective, 100, tmp_path / "monitors")
    assert figures["collapse"] == figures["flat"] == 0 and not caplog.records
    assert all(math.isfinite(value) for value in figures.values())
    assert figures["rank_whole"] > 2 and figures["rank_patches"] > 2
    assert 0 < figures["entropy_whole"] <= figures["entropy_of_mean_whole"] + 1e-6 <= math.log(256) + 1e-5
    assert 0 <= figures["knn_volume"] <= 1 and 0 <= figures["knn_position"] <= 1
    assert (tmp_path / "monitors" / "pca_0000100.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("noise", [0.0, 1e-4])
def test_a_model_that_says_the_same_of_everything_raises_the_alarm(
    noise: float, store: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    objective = distilled(layer_scale=1.0)
    with torch.no_grad():
        objective.backbone.norm.weight.fill_(noise)  # type: ignore[union-attr,operator]
        objective.backbone.norm.bias.normal_()  # type: ignore[union-attr,operator]
    figures: dict[str, float] = {}
    with torch.no_grad(), caplog.at_level(logging.WARNING):
        for monitor in monitors_for("self_distillation", SETTINGS, store):
            figures |= monitor(objective, 5000, tmp_path)
    assert figures["collapse"] == 1
    assert "the features collapse" in caplog.text and "step 5000" in caplog.text
    assert ("rank_whole 1 is below" in caplog.text) == (noise == 0)


def test_a_teacher_with_one_prototype_or_none_for_everything_raises_the_alarm() -> None:
    alarm = CollapseAlarm([])
    healthy = {"relative_entropy_whole": 0.6, "relative_entropy_of_mean_whole": 0.8, "rank_whole": 9.0}
    assert alarm.signs(healthy, 0) == []
    assert "below" in alarm.signs(healthy | {"relative_entropy_of_mean_whole": 0.01}, 0)[0]
    assert alarm.signs(healthy | {"relative_entropy_whole": 0.9992}, 0) == []  # patches may know more
    flat = healthy | {"relative_entropy_whole": 0.9992, "relative_entropy_patches": 0.995, "rank_patches": 20.0}
    assert alarm.signs(flat, 100) == []  # a run that has not begun to learn yet
    assert "says one thing" in alarm.signs(flat, 2000)[0]
    told = CollapseAlarm([lambda objective, step, folder: flat])
    assert told(distilled(), 100, Path())["flat"] == 1 and told(distilled(), 100, Path())["collapse"] == 0
    assert "above" in alarm.signs(healthy | {"relative_entropy_whole": 0.9924, "rank_whole": 2.0}, 0)[0]
    assert alarm.signs(healthy | {"spread_whole": 1e-5}, 100) == []  # a fresh ViT
    assert alarm.signs(healthy | {"spread_whole": 1e-5}, 2000) != []


def test_the_entropies_of_known_assignments() -> None:
    head = HeadSettings(prototypes=4, hidden=8, bottleneck=4).build(4)
    with torch.no_grad():
        head.mlp = nn.Identity()  # type: ignore[assignment]
        head.last_layer.weight_v.copy_(torch.eye(4))
    each = torch.eye(4)
    sure, used = entropies(head, each, 0.01)
    assert sure == pytest.approx(0, abs=1e-6) and used == pytest.approx(math.log(4))
    sure, used = entropies(head, each[:1].expand(5, 4), 0.01)
    assert (sure, used) == (pytest.approx(0, abs=1e-6), pytest.approx(0, abs=1e-6))
    sure, used = entropies(head, torch.ones(3, 4), 0.01)
    assert (sure, used) == (pytest.approx(math.log(4)), pytest.approx(math.log(4)))


def test_the_effective_rank_of_known_rows() -> None:
    directions = torch.linalg.qr(torch.randn(8, 8))[0][:3]
    rows = torch.cat([directions, -directions]) + 5  # three equal directions around a large mean
    assert effective_rank(rows) == pytest.approx(3, rel=1e-4)
    assert effective_rank(torch.randn(8).expand(6, 8)) == 1 and spread(torch.ones(6, 8)) == 0
    assert effective_rank(torch.outer(torch.linspace(-1, 1, 5), torch.randn(8))) == pytest.approx(1, abs=1e-4)


def test_neighbours_know_clusters_and_leave_out_their_own_group() -> None:
    torch.manual_seed(0)
    centres = torch.randn(3, 16) * 5
    labels = torch.arange(3).repeat_interleave(6)
    rows = centres[labels] + torch.randn(18, 16) * 0.1
    assert neighbour_accuracy(rows, labels, torch.arange(18), 5) == 1
    # a cluster whose members may not vote for each other gets only wrong votes
    assert neighbour_accuracy(rows, labels, labels, 5) == 0
    assert neighbour_accuracy(torch.randn(300, 16), torch.arange(300) % 3, torch.arange(300), 20) < 0.5


def test_octants_name_the_halves_of_the_volume_that_cells_lie_in() -> None:
    whole = octants((0, 0, 0), (8, 8, 8), (8, 8, 8), (2, 2, 2))
    assert whole.tolist() == list(range(8))
    corner = octants((4, 4, 0), (4, 4, 4), (8, 8, 8), (2, 1, 1))
    assert corner.tolist() == [6, 6]


def test_the_crops_are_the_same_in_every_run_and_features_are_computed_once_per_step(store: Path) -> None:
    first, second = (FixedCrops(stored_volumes(store), per_volume=2, edge=32) for _ in range(2))
    assert first.boxes == second.boxes and len(first) == 8
    backbone = VisionTransformer3D(32, 8, width=24, depth=1, heads=3).eval()
    found = first.features(backbone, 1)
    assert torch.equal(found.whole, second.features(backbone, 1).whole)
    assert first.features(backbone, 1) is found and first.features(backbone, 2) is not found
    assert found.patches.shape == (8, 64, 24) and found.grid == (4, 4, 4)


def test_a_pyramid_and_a_run_without_a_store_can_be_watched_too(tmp_path: Path) -> None:
    torch.manual_seed(0)
    backbone = ResidualUNet().eval()
    objective = Distilled(nn.Identity(), backbone)
    monitors = monitors_for("synthetic", None, None)
    crops = FixedCrops(drawn_volumes(3), per_volume=2, edge=32)
    monitors[0].volumes, monitors[0].edge = monitors[0].volumes[:1], 48  # type: ignore[attr-defined]
    monitors[1].crops = monitors[2].monitors[0].crops = crops  # type: ignore[attr-defined]
    figures: dict[str, float] = {}
    for monitor in monitors:
        figures |= monitor(objective, 1, tmp_path)
    assert {"rank_patches", "knn_volume", "knn_position", "pca_explained", "collapse"} <= set(figures)
    assert "entropy_whole" not in figures and figures["collapse"] == 0
    assert (tmp_path / "pca_0000001.png").exists()


def test_colours_do_not_change_when_features_are_mirrored_and_the_background_is_black() -> None:
    torch.manual_seed(0)
    brightness = torch.cat([torch.full((20,), -1.0), torch.linspace(0, 1, 30)])
    hint = torch.stack([brightness, *torch.randn(3, 50)], dim=1)
    cells = torch.outer(brightness, torch.randn(8)) * 3 + torch.randn(50, 8) * 0.3
    empty = brightness < 0
    (first,), explained = colored([cells], [hint], [empty])
    (mirrored,), _ = colored([-cells], [hint], [empty])
    torch.testing.assert_close(first, mirrored)
    assert (first[:20] == 0).all() and (first[20:].amax(dim=1) > 0).all() and 0 < explained <= 1
    (whole,), _ = colored([cells], [hint], [torch.ones(50, dtype=torch.bool)])
    assert (whole.amax(dim=1) > 0).all()  # nothing but air: all of it is shown
    scores, _ = components(cells.double(), hint.double(), 2)
    assert np.corrcoef(scores[:, 0], brightness)[0, 1] > 0.9


def test_colours_show_what_differs_inside_of_volumes_not_between_them() -> None:
    torch.manual_seed(0)
    inside = torch.linspace(-1, 1, 40)
    cells = [torch.outer(inside, torch.randn(8, generator=torch.Generator().manual_seed(1))) + far for far in (0, 50)]
    hint = torch.stack([inside, *torch.randn(3, 40) * 0.01], dim=1)
    colors, explained = colored(cells, [hint, hint], [torch.zeros(40, dtype=torch.bool)] * 2)
    torch.testing.assert_close(colors[0][:, 0], colors[1][:, 0], atol=1e-3, rtol=0)
    assert colors[0][-1, 0] == 1 and colors[0][0, 0] == 0 and explained > 0.99


def test_a_modality_of_a_single_volume_is_not_asked_for(store: Path, tmp_path: Path) -> None:
    objective, volumes = distilled(layer_scale=1.0), stored_volumes(store)
    named = [replace(volume, modality=name) for volume, name in zip(volumes, ("MR", "MR", "MR", "CT"), strict=True)]
    figures = NeighbourProbe(FixedCrops(named, per_volume=2, edge=32))(objective, 1, tmp_path)
    assert "knn_modality" not in figures and "knn_volume" in figures
    named[2] = replace(named[2], modality="CT")
    assert "knn_modality" in NeighbourProbe(FixedCrops(named, per_volume=2, edge=32))(objective, 1, tmp_path)


def test_pictures_show_the_patient_as_radiologists_do_and_in_its_proportions(store: Path) -> None:
    values = np.zeros((4, 6, 8))
    values[0, 3, 7] = 1  # the patient's left, for x grows to the right; the head's end
    stored = values.transpose(2, 0, 1)
    assert np.array_equal(in_ras(stored, (2, 0, 1)), values)
    coronal = plane(values, "coronal")
    assert coronal.shape == (8, 4) and coronal[0, -1] == 1  # the head is up, the patient's left on the right
    volume = stored_volumes(store)[0]
    size, spacing = proportional_size(volume, 64, (8, 8, 8))
    assert max(size) == 64 and all(edge % 8 == 0 for edge in size)
    lengths = [edge * step for edge, step in zip(size, spacing, strict=True)]
    wanted = [voxels * step for voxels, step in zip(volume.shape, volume.spacing, strict=True)]
    assert lengths == pytest.approx(wanted)
