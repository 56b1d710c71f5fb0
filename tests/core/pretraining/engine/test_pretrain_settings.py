"""Configurations are read strictly, single values can be changed, and the shipped ones are what they claim."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from fm3d_core.errors import SettingsError
from fm3d_core.pretraining.augmentations import AugmentationSettings
from fm3d_core.pretraining.crops import (
    GLOBAL_CROPS,
    GLOBAL_CROPS_HIGH_RESOLUTION,
    LOCAL_CROPS,
    LOCAL_CROPS_HIGH_RESOLUTION,
)
from fm3d_core.pretraining.masking import MaskSettings
from fm3d_core.pretraining.schedules import HIGH_RESOLUTION, PRETRAINING
from fm3d_core.pretraining.self_distillation import HeadSettings, SelfDistillationSettings
from fm3d_core.pretraining.self_distillation_objective import Settings
from fm3d_core.pretraining.settings import (
    RunSettings,
    as_yaml,
    completed,
    differing_keys,
    plain,
    read_configuration,
    shipped_configurations,
)
from fm3d_core.strict_settings import validated

OWN = ("3dino_vit_large", "3dino_high_resolution", "flare", "small_gpu", "small_cpu", "small_cpu_patch8")


def own(name: str, *overrides: str) -> Settings:
    return validated(Settings, read_configuration(name, overrides).settings)


@pytest.mark.parametrize("name", OWN)
def test_a_shipped_configuration_is_complete_and_its_learning_rate_is_for_its_batch(name: str) -> None:
    settings = read_configuration(name)
    assert own(name).schedule.batch == settings.run.batch_size
    assert settings.run.batch_per_round(settings.run.devices * settings.run.nodes) >= 1
    assert completed(yaml.safe_load(as_yaml(settings))) == settings
    assert "\n" not in settings.about and name in shipped_configurations()


def test_the_large_configuration_has_every_published_number() -> None:
    settings, run = own("3dino_vit_large"), read_configuration("3dino_vit_large").run
    assert settings.schedule == PRETRAINING and PRETRAINING.steps == 125_000
    assert settings.schedule.learning_rate == pytest.approx(1.41421e-3, rel=1e-5)
    assert (settings.views.global_crops, settings.views.local_crops) == (GLOBAL_CROPS, LOCAL_CROPS)
    assert settings.views.augmentation == AugmentationSettings()
    assert settings.masks == MaskSettings((0.2, 0.75), 0.5, "uniform")
    head = HeadSettings(65_536, 2048, 256, 3)
    assert settings.step == SelfDistillationSettings(head, head, 1.0, 1.0, 0.1, 0.1, "sinkhorn_knopp", 3)
    assert (settings.layer_decay, settings.patch_embed_factor, settings.gradient_clip) == (0.9, 0.2, 3.0)
    assert settings.backbone.preset == "vit_large" and settings.backbone.options == {"drop_path": 0.3}
    assert (run.batch_size, run.devices, run.checkpoint_every, run.keep, run.keep_every) == (512, 4, 3750, 3, 12_500)
    assert settings == Settings()  # the defaults are 3DINO's


def test_the_high_resolution_stage_and_flare_differ_as_published() -> None:
    high, flare = own("3dino_high_resolution"), own("flare")
    assert high.schedule == HIGH_RESOLUTION and high.schedule.learning_rate == pytest.approx(5e-4)
    assert (high.views.global_crops, high.views.local_crops) == (
        GLOBAL_CROPS_HIGH_RESOLUTION,
        LOCAL_CROPS_HIGH_RESOLUTION,
    )
    assert high.backbone.preset == "vit_large_112" and high.initial is not None and high.initial.heads
    assert flare.schedule.learning_rate == pytest.approx(5e-4) and flare.schedule.batch == 256
    assert flare.views == Settings().views and flare.step == Settings().step


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("settings.schedule.epoch=2", r"settings\.schedule\.epoch: is not a known key. Known here: .*epochs"),
        ("settings.schedule.epochs=many", r"settings\.schedule\.epochs: input should be a valid integer"),
        ("settings.views.global_crops.size=[48, 48]", r"settings\.views\.global_crops\.size\.2: field required"),
        ("settings.step.head.prototype=5", r"settings\.step\.head\.prototype: is not a known key"),
        ("settings.masks.shape=stripes", r"settings\.masks\.shape: input should be 'uniform' or 'blocks'"),
        ("run.batch=2", r"run\.batch: is not a known key"),
        ("run.keep=0", r"run\.keep is 0. Give 1 or more"),
        ("runs.keep=1", r"runs: is not a known key"),
        ("objective=dino", r"unknown kind 'dino'. Choose one of: self_distillation"),
        ("settings.backbone.preset=residual_unet_small", r"it has no patch tokens"),
        ("settings.backbone.options.widht=3", r"backbone\.options\.widht is not known"),
        ("settings.schedule.warmup_epochs=200", r"a warm-up of 200 epochs does not fit 100"),
        ("settings.schedule.epochs", r"is not KEY=VALUE"),
        ("settings.schedule.epochs.more=1", r"epochs is a value and has nothing below it"),
        ("settings.schedule.epochs=[1", r"the value is not YAML"),
        ("settings.backbone.options.input_channels=2", r"the volumes of a store have one"),
        ("settings.backbone.options.heads=5", r"make no ViT: width 192 is not a multiple of heads 5"),
        ("settings.backbone.options.depth=0", r"make no ViT: a size is below 1"),
        ("settings.backbone.options.rotary_wavelengths=[16]", r"not two rising lengths"),
        (
            "settings.views.global_crops.size=[40, 48, 48]",
            r"global_crops\.size \[40, 48, 48\] is not made of whole pat",
        ),
        ("settings.views.local_crops.size=[20, 32, 32]", r"views\.local_crops\.size"),
        ("settings.views.global_crops.number=1", r"nothing to compare a global crop with"),
        ("settings.step.head.prototypes=0", r"impossible head"),
        ("settings.step={dino_weight: 0, ibot_weight: 0}", r"one of the first two above"),
        ("settings.step.koleo_weight=-1", r"None below 0"),
        ("settings.schedule.teacher_temperature=[0, 0.07]", r"teacher_temperature \[0\.0, 0\.07\] is not positive"),
        ("settings.schedule.teacher_momentum=[0.9, 1.1]", r"teacher_momentum \[0\.9, 1\.1\] is no share"),
        ("settings.schedule.base_learning_rate=-1", r"below 0"),
        ("settings.gradient_clip=0", r"gradient_clip is 0\.0"),
        ("settings.patch_embed_factor=-1", r"patch_embed_factor is -1\.0"),
        ("run.seed=9223372036854775808", r"Give less than 2\^63"),
    ],
)
def test_a_mistake_in_an_override_names_the_key(override: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message) as refused:
        read_configuration("small_cpu", [override])
    assert "\n" not in str(refused.value)


def test_overrides_reach_every_depth_and_numbers_may_be_written_as_in_science() -> None:
    changed = own("small_cpu", "settings.schedule.base_learning_rate=1e-3", "settings.views.local_crops.number=2")
    assert changed.schedule.base_learning_rate == 1e-3 and changed.views.local_crops.number == 2
    assert changed.views.local_crops.size == (32, 32, 32)


def test_files_that_are_no_configuration_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    for text, message in (("a: [", "cannot be read as YAML"), ("- 1", "holds no settings"), ("about: x", "objective")):
        path.write_text(text)
        with pytest.raises(SettingsError, match=message):
            read_configuration(path)
    with pytest.raises(SettingsError, match=r"no configuration 'nothing'.*small_cpu"):
        read_configuration("nothing")


def test_a_batch_that_cannot_be_shared_evenly_is_refused() -> None:
    assert RunSettings(batch_size=12, accumulation=3).batch_per_round(2) == 2
    with pytest.raises(SettingsError, match=r"10 cannot be shared by 2 processes in 3 rounds.*multiple of 6"):
        RunSettings(batch_size=10, accumulation=3).batch_per_round(2)


def test_only_keys_that_change_results_count_as_differing() -> None:
    before: dict[str, Any] = plain(read_configuration("small_cpu"))
    for item in fields(RunSettings):
        after = {**before, "run": {**before["run"], item.name: "other"}}
        differs = differing_keys(before, after)
        expected = {"batch_size", "accumulation", "precision", "log_every", "seed"}
        assert bool(differs) == (item.name in expected), item.name
