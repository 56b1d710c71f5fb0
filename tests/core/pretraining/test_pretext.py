"""Inpainting, contrast and rotation: terms by hand, views as described, any backbone, exact resume."""

from __future__ import annotations

import copy
import itertools
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from fm3d_core.errors import SettingsError
from fm3d_core.models.zoo import BackboneSpec, create_backbone
from fm3d_core.pretraining.objective import Built, Place
from fm3d_core.pretraining.pretext import objective as pretext
from fm3d_core.pretraining.pretext.contrast import contrastive_loss
from fm3d_core.pretraining.pretext.heads import ReconstructionHead
from fm3d_core.pretraining.pretext.loading import ViewBatch
from fm3d_core.pretraining.pretext.objective import Settings, build, coarsest_map
from fm3d_core.pretraining.pretext.views import CutOutSettings, draw_boxes, draw_view
from fm3d_core.volumes import write_synthetic_cases
from fm3d_core.volumes.crop_store import CropStore, volume_folder
from fm3d_core.volumes.crop_store_building import build_crop_store
from fm3d_core.volumes.scan import scan_folder

CONFIGURATIONS = Path(pretext.__file__).parents[1] / "configurations"
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pretext")
    write_synthetic_cases(folder, 5, shape=(36, 34, 32))
    build_crop_store(scan_folder(folder).volumes, folder / "store", workers=1)
    return folder / "store"


def settings(**changes: Any) -> Settings:
    values = {"backbone": "residual_unet_small", "crop_size": [32, 32, 32], "embedding": 16, "steps": 40}
    return Settings(**(values | {"warmup_steps": 2, "learning_rate": 3e-3} | changes))


def train(built: Built, optimiser: torch.optim.Optimizer, start: int, count: int) -> list[dict[str, float]]:
    """What the engine does."""
    found = []
    for step, batch in zip(range(start, start + count), built.loader, strict=False):
        built.objective.before_step(step, optimiser.param_groups)
        terms = built.objective(batch)
        torch.stack(list(terms.values())).sum().backward()
        for module in built.objective.clipped_modules().values():
            torch.nn.utils.clip_grad_norm_(module.parameters(), built.gradient_clip)
        optimiser.step()
        optimiser.zero_grad()
        built.objective.after_step(step)
        found.append({name: float(term.detach()) for name, term in terms.items()})
    return found


def test_the_contrastive_loss_by_hand() -> None:
    """Two crops in the plane, views at 0, 90 and 0, 180 degrees; temperature 0.5 doubles the cosines."""
    first, second = torch.tensor([[2.0, 0.0], [0.0, 3.0]]), torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    # cosines: a1-a2 1, a1-b1 0, a1-b2 -1, b1-b2 0, b1-a2 0, a2-b2 -1
    e = math.exp
    terms = [
        -math.log(e(2) / (e(2) + e(0) + e(-2))),  # a1 -> a2
        -math.log(1 / 3),  # b1 -> b2
        -math.log(e(2) / (e(2) + e(0) + e(-2))),  # a2 -> a1
        -math.log(e(0) / (e(0) + e(-2) + e(-2))),  # b2 -> b1
    ]
    assert float(contrastive_loss(first, second, 0.5)) == pytest.approx(sum(terms) / 4, abs=1e-6)


def test_a_view_is_turned_about_the_last_axis_and_hides_its_share() -> None:
    crop = torch.arange(24**3, dtype=torch.float32).reshape(1, 24, 24, 24)
    generator, cut_out = torch.Generator().manual_seed(0), CutOutSettings(0.3)
    turns = set()
    for _ in range(40):
        turned, hidden, quarters = draw_view(crop, cut_out, generator)
        turns.add(quarters)
        assert torch.equal(torch.rot90(turned, -quarters, (1, 2)), crop)
        assert 0.3 <= float(hidden.float().mean()) < 0.3 + 1 / 64  # the last box holds a 64th at most
    assert turns == {0, 1, 2, 3}
    assert not draw_boxes((8, 8, 8), CutOutSettings(0.0), generator).any()


@pytest.mark.parametrize(("stride", "size"), [((32, 32, 32), 32), ((16, 16, 8), 32), ((14, 14, 14), 28)])
def test_the_reconstruction_has_the_size_of_the_crop(stride: tuple[int, int, int], size: int) -> None:
    coarsest = torch.zeros(1, 12, *(size // step for step in stride))
    assert ReconstructionHead(12, stride)(coarsest, torch.Size((size,) * 3)).shape == (1, 1, size, size, size)


def test_swin_is_trained_without_the_decoder_around_it() -> None:
    backbone: Any = create_backbone(BackboneSpec("swin_unetr_tiny_legacy"))
    image = torch.randn(1, 1, 32, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = backbone.network.swinViT(image, True)[4]
        assert torch.equal(coarsest_map(backbone, image), expected) and expected.shape == (1, 192, 1, 1, 1)
    objective = pretext.Pretext(backbone, settings(backbone="swin_unetr_tiny_legacy"))
    trained = {name.split(".")[2] for name, p in backbone.named_parameters(prefix="b") if p.requires_grad}
    assert trained == {"swinViT"} and objective.flops_per_sample() > 0


@pytest.mark.parametrize("backbone", ["vit_tiny", "swin_unetr_tiny_legacy"])
def test_token_and_pyramid_backbones_get_gradients_everywhere(store: Path, backbone: str) -> None:
    built = build(settings(backbone=backbone), store, Place(batch_size=2))
    terms = built.objective(next(iter(built.loader)))
    assert set(terms) == {"inpainting", "contrast", "rotation"}
    torch.stack(list(terms.values())).sum().backward()
    assert all(p.grad is not None for p in built.objective.parameters() if p.requires_grad)
    assert all(p.grad is None for p in built.objective.parameters() if not p.requires_grad)


def test_terms_are_weighted_and_hidden_voxels_are_not_seen(store: Path) -> None:
    plain = build(settings(), store, Place(batch_size=2))
    double = build(settings(inpainting=2.0, rotation=0.5), store, Place(batch_size=2))
    batch = next(iter(plain.loader))
    assert batch.images.shape == batch.hidden.shape == (4, 1, 32, 32, 32) and len(batch.names) == 2  # type: ignore[attr-defined]
    one, two = plain.objective(batch), double.objective(batch)
    one, two = ({name: term.detach() for name, term in terms.items()} for terms in (one, two))
    assert float(two["inpainting"]) == pytest.approx(2 * float(one["inpainting"]), rel=1e-5)
    assert float(two["rotation"]) == pytest.approx(0.5 * float(one["rotation"]), rel=1e-5)
    assert isinstance(batch, ViewBatch)
    changed = ViewBatch(batch.images + batch.hidden, batch.hidden, batch.quarters, batch.names)
    three = plain.objective(changed)
    assert torch.equal(three["rotation"], one["rotation"]) and not torch.equal(three["inpainting"], one["inpainting"])


def test_all_terms_fall_and_a_resume_gives_the_same_losses(store: Path) -> None:
    def fresh() -> tuple[Built, torch.optim.Optimizer]:
        built = build(settings(), store, Place(batch_size=4))
        return built, torch.optim.AdamW(built.objective.parameter_groups())

    built, optimiser = fresh()
    found = train(built, optimiser, 0, 20)
    saved = copy.deepcopy((built.objective.state_dict(), optimiser.state_dict(), built.loader.state_dict()))
    expected = train(built, optimiser, 20, 2)
    totals = [sum(terms.values()) for terms in found]
    assert sum(totals[-4:]) < 0.8 * sum(totals[:4])
    assert found[-1]["inpainting"] < 0.7 * found[0]["inpainting"]
    built, optimiser = fresh()
    built.objective.load_state_dict(saved[0])
    optimiser.load_state_dict(saved[1])
    built.loader.load_state_dict(saved[2])
    assert train(built, optimiser, 20, 2) == expected


def same(one: Any, two: Any) -> bool:
    return one.names == two.names and torch.equal(one.images, two.images) and torch.equal(one.hidden, two.hidden)


def test_batches_do_not_depend_on_workers_and_ranks_share_one_sequence(store: Path) -> None:
    def take(count: int, **place: int) -> list[Any]:
        return list(itertools.islice(build(settings(), store, Place(**({"batch_size": 4} | place))).loader, count))

    alone = take(3)
    assert all(same(a, b) for a, b in zip(alone, take(3, workers=2), strict=True))
    ranks = [take(3, batch_size=2, world_size=2, rank=rank) for rank in range(2)]
    for batch, first, second in zip(alone, *ranks, strict=True):
        assert batch.names[0::2] == first.names and batch.names[1::2] == second.names
        assert torch.equal(batch.images[0:4:2], first.images[:2])


def test_a_damaged_volume_is_replaced_and_named(store: Path, tmp_path: Path) -> None:
    shutil.copytree(store, tmp_path / "store")
    built = build(settings(), tmp_path / "store", Place(batch_size=5))
    volume = CropStore(tmp_path / "store").volumes[0]
    for file in volume_folder(tmp_path / "store", volume.sha256).glob("*.b2nd"):
        file.write_bytes(b"damaged")
    batch = next(iter(built.loader))
    assert len(batch.unreadable) >= 1 and volume.name not in batch.names and len(batch.names) == 5


@pytest.mark.parametrize("name", ["pretext_vit", "pretext_swin"])
def test_configurations_are_complete(name: str) -> None:
    content = yaml.safe_load((CONFIGURATIONS / f"{name}.yaml").read_text())
    chosen = Settings(**content["settings"])
    assert content["objective"] == "pretext" and content["about"]
    assert (chosen.cut_out, chosen.embedding, chosen.learning_rate, chosen.steps) == (0.3, 512, 4e-4, 450_000)


def test_impossible_settings_are_refused(store: Path) -> None:
    for changes in ({"crop_size": [32, 24, 32]}, {"inpainting": -1.0}, {"cut_out": 1.0}, {"warmup_steps": 100}):
        with pytest.raises(SettingsError):
            settings(**changes)
    with pytest.raises(SettingsError, match="two volumes"):
        build(settings(), store, Place(batch_size=1))
    with pytest.raises(SettingsError, match="crop store"):
        build(settings(), None, Place(batch_size=2))
    with pytest.raises(SettingsError, match="do not suit"):
        build(settings(crop_size=[20, 20, 20]), store, Place(batch_size=2))
