"""A short real training on two sets of which neither has what the other has, with the engine's sequence of calls."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
import yaml

from fm3d_core.errors import CaseError, SettingsError, WeightsError
from fm3d_core.pretraining.objective import Built, Place
from fm3d_core.pretraining.partial_labels import objective as partial_labels
from fm3d_core.pretraining.partial_labels.objective import Settings, build

CONFIGURATIONS = Path(partial_labels.__file__).parents[1] / "configurations"
MAPS = """
structures: {liver: liver, spleen: spleen, kidneys: kidneys}
sets:
  Upper: {values: {1: spleen, 6: liver}}
  Kidneys: {values: {2: kidneys, 3: kidneys}}
"""
ANNOTATED = {"Upper": (1, 6), "Kidneys": (2, 3)}
CASES = {"Upper": ("btcv_00", "btcv_03", "btcv_04"), "Kidneys": ("btcv_06", "btcv_09", "btcv_12")}


@pytest.fixture(scope="module")
def data(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of real CTs whose labels are reduced to what "was annotated"."""
    folder = tmp_path_factory.mktemp("partial")
    source = shared_data / "abdomen/btcv_ct"
    for name, values in ANNOTATED.items():
        for part in ("images", "labels"):
            (folder / "sets" / name / part).mkdir(parents=True)
        for case in CASES[name]:
            image = source / f"images/{case}.nii.gz"
            (folder / "sets" / name / "images" / image.name).write_bytes(image.read_bytes())
            label = nibabel.load(source / f"labels/{case}.nii.gz")
            kept = np.asarray(label.dataobj).astype(np.uint8)
            kept[~np.isin(kept, values)] = 0
            nibabel.save(nibabel.Nifti1Image(kept, label.affine), folder / "sets" / name / "labels" / image.name)
    (folder / "maps.yaml").write_text(MAPS)
    return folder


def settings(data: Path, **changes: Any) -> Settings:
    values: dict[str, Any] = {
        "backbone": "residual_unet_small",
        "weights": "fm3d_small",
        "label_maps": str(data / "maps.yaml"),
        "cache": str(data / "cache"),
        "loss": "dice_and_cross_entropy",
        "spacing": [4, 4, 4],
        "intensity_range": [-1, 1],
        "crop_size": [32, 32, 32],
        "crops_per_volume": 4,
        "positive": 1.0,
        "turn_probability": 0.0,
        "learning_rate": 1e-2,
        "steps": 45,
        "warmup_steps": 3,
    }
    return Settings(**(values | changes))


def steps(
    built: Built, optimiser: torch.optim.Optimizer, start: int, batches: Iterator[Any], count: int
) -> list[float]:
    """What the engine does."""
    losses = []
    for step in range(start, start + count):
        built.objective.before_step(step, optimiser.param_groups)
        terms = built.objective(next(batches))
        loss = torch.stack(list(terms.values())).sum()
        loss.backward()
        for module in built.objective.clipped_modules().values():
            torch.nn.utils.clip_grad_norm_(module.parameters(), built.gradient_clip)
        optimiser.step()
        optimiser.zero_grad()
        built.objective.after_step(step)
        losses.append(float(loss.detach()))
    return losses


def dice_of_groups(built: Built, batches: list[Any]) -> dict[str, float]:
    """Over all voxels of the structures that each set has annotated."""
    objective: Any = built.objective
    objective.eval()
    found = {}
    for group, channels in (("Upper", (0, 1)), ("Kidneys", (2,))):
        overlap = total = 0.0
        for batch in batches:
            with torch.no_grad():
                predicted = objective.network(batch.images) > 0
            truth = objective.channel_of[batch.labels.long()]
            for channel in channels:
                known = batch.annotated[:, channel]
                one, two = predicted[known, channel], truth[known] == channel
                overlap += 2 * float((one & two).sum())
                total += float(one.sum() + two.sum())
        found[group] = overlap / total
    objective.train()
    return found


@pytest.mark.slow
def test_both_groups_of_labels_are_learned_by_one_head(data: Path) -> None:
    chosen = settings(data)
    built = build(chosen, data / "sets", Place(batch_size=2))
    assert built.samples == 6 and built.steps == 45 and built.objective.structures == ("liver", "spleen", "kidneys")
    checks = list(itertools.islice(build(chosen, data / "sets", Place(batch_size=2, seed=99)).loader, 4))
    before = dice_of_groups(built, checks)
    optimiser = torch.optim.AdamW(built.objective.parameter_groups())
    losses = steps(built, optimiser, 0, iter(built.loader), 45)
    after = dice_of_groups(built, checks)
    assert sum(losses[-5:]) < 0.75 * sum(losses[:5]), losses
    assert after["Upper"] > before["Upper"] + 0.05 and after["Kidneys"] > before["Kidneys"] + 0.3, (before, after)


def test_a_stopped_training_goes_on_with_the_same_losses(data: Path) -> None:
    chosen = settings(data)
    whole = build(chosen, data / "sets", Place(batch_size=2))
    expected = steps(whole, torch.optim.AdamW(whole.objective.parameter_groups()), 0, iter(whole.loader), 4)
    first = build(chosen, data / "sets", Place(batch_size=2))
    optimiser = torch.optim.AdamW(first.objective.parameter_groups())
    steps(first, optimiser, 0, iter(first.loader), 2)
    saved = copy.deepcopy((first.objective.state_dict(), optimiser.state_dict(), first.loader.state_dict()))
    second = build(chosen, data / "sets", Place(batch_size=2))
    optimiser = torch.optim.AdamW(second.objective.parameter_groups())
    second.objective.load_state_dict(saved[0])
    optimiser.load_state_dict(saved[1])
    second.loader.load_state_dict(saved[2])
    assert steps(second, optimiser, 2, iter(second.loader), 2) == expected[2:]


def test_a_token_backbone_has_the_light_decoder_and_trains_all_it_uses(data: Path) -> None:
    built = build(
        settings(data, backbone="vit_tiny", weights=None, learning_rate=1e-3), data / "sets", Place(batch_size=1)
    )
    losses = steps(built, torch.optim.AdamW(built.objective.parameter_groups()), 0, iter(built.loader), 1)
    trained = [name for name, parameter in built.objective.named_parameters() if parameter.requires_grad]
    assert losses[0] > 0 and "network.backbone.mask_token" not in trained and len(trained) > 100
    assert built.objective.pretrained() is built.objective.network.backbone  # type: ignore[union-attr]
    assert built.objective.flops_per_sample() > 4 * 1e9  # type: ignore[operator]


def test_the_published_network_has_the_published_number_of_parameters() -> None:
    from fm3d_core.models.network import DenseNetwork

    chosen = Settings(**yaml.safe_load((CONFIGURATIONS / "fseft.yaml").read_text())["settings"])
    network: DenseNetwork = partial_labels._network_maker(chosen, 0)(29)
    assert sum(parameter.numel() for parameter in network.parameters()) == 62_188_031


@pytest.mark.parametrize("name", ["fseft", "partial_labels_small"])
def test_configurations_are_complete(name: str) -> None:
    content = yaml.safe_load((CONFIGURATIONS / f"{name}.yaml").read_text())
    assert content["objective"] == "partial_labels" and content["about"]
    chosen = Settings(**content["settings"])
    # 2042 volumes, 4 GPUs with 2 each: 256 steps an epoch
    rates = chosen.schedule(2042, 8)
    assert rates.at(0) == 0 and rates.at(rates.warmup_steps) == chosen.learning_rate and rates.at(rates.steps) == 0
    if name == "fseft":
        assert (rates.steps, rates.warmup_steps, rates.start) == (256_000, 2_560, 1e-4)


def test_what_cannot_be_trained_is_refused_before_the_data_is_prepared(data: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="needs labelled sets"):
        build(settings(data), None, Place())
    with pytest.raises(CaseError, match="does not exist"):
        build(settings(data), tmp_path / "nothing", Place())
    with pytest.raises(SettingsError, match="unknown backbone"):
        build(settings(data, backbone="resnet"), data / "sets", Place())
    with pytest.raises(SettingsError, match="crops of"):
        build(settings(data, crop_size=[32, 32, 31]), data / "sets", Place())
    with pytest.raises(WeightsError, match="no such weight file"):
        build(settings(data, weights="missing.pt"), data / "sets", Place())
    with pytest.raises(SettingsError, match="loss is 'focal'"):
        settings(data, loss="focal")
    with pytest.raises(SettingsError, match="left/right"):
        settings(data, left_right="mirror")
