"""Kept features are the very ones that would be computed; damage and want of room cost time, never a result."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from fm3d_core.adaptation import FinetuneSettings, LabeledCase
from fm3d_core.adaptation.feature_cache import FeatureCache, cache_features
from fm3d_core.adaptation.finetune import train
from fm3d_core.adaptation.training_set import TrainingSet, read_training_set
from fm3d_core.errors import Stopped
from fm3d_core.tasks import SegmentationTask
from fm3d_core.volumes import read_volume


@pytest.fixture
def data(synthetic_cases: list[LabeledCase], task: SegmentationTask) -> TrainingSet:
    return read_training_set(synthetic_cases[:1], task)


@pytest.fixture
def probe() -> FinetuneSettings:
    return FinetuneSettings(method="linear_probe", steps=3, device="cpu")


def test_training_on_kept_features_gives_the_same_adapter(
    data: TrainingSet, probe: FinetuneSettings, tmp_path: Path
) -> None:
    cache = FeatureCache(tmp_path)
    computed, first, second = (train(data, probe, cache=each) for each in (None, cache, cache))
    assert cache.used() > 0
    for adapter in (first, second):
        assert all(torch.equal(adapter.tensors[name], tensor) for name, tensor in computed.tensors.items())


def test_features_computed_ahead_are_found(
    synthetic_cases: list[LabeledCase],
    data: TrainingSet,
    probe: FinetuneSettings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cache = FeatureCache(tmp_path)
    assert cache_features(read_volume(synthetic_cases[0].image), probe, cache=cache) >= 1

    def computed_again(*_: object) -> None:
        raise AssertionError("the features are there")

    monkeypatch.setattr("fm3d_core.adaptation.batches.window_features", computed_again)
    train(data, probe, cache=cache)
    with pytest.raises(AssertionError, match="the features are there"):
        train(data, probe, cache=FeatureCache(tmp_path / "empty"))


@pytest.mark.parametrize("harm", [lambda content: content[:40], lambda content: b"", lambda content: b"x" * 100])
def test_a_damaged_file_is_made_again(harm, data: TrainingSet, probe: FinetuneSettings, tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path)
    expected = train(data, probe, cache=cache)
    (file,) = tmp_path.glob("*/*.safetensors")
    whole = file.read_bytes()
    file.write_bytes(harm(whole))
    again = train(data, probe, cache=cache)
    assert all(torch.equal(again.tensors[name], tensor) for name, tensor in expected.tensors.items())
    assert file.read_bytes() == whole


def test_other_voxels_spacing_backbone_or_range_are_other_features(
    data: TrainingSet, probe: FinetuneSettings, tmp_path: Path
) -> None:
    from dataclasses import replace

    from fm3d_core.models.network import DenseNetwork

    features = FeatureCache(tmp_path).of("a", torch.device("cpu"))
    case = data.prepared[0]
    brighter = case.image.clone()
    brighter[0, 0, 0, 0] += 0.01
    networks = [DenseNetwork(torch.nn.Identity(), torch.nn.Identity(), low_high) for low_high in ((-1, 1), (0, 1))]
    keys = [
        features.key(networks[0], case),
        features.key(networks[1], case),
        features.key(networks[0], replace(case, image=brighter)),
        features.key(networks[0], replace(case, spacing=(1, 1, 2))),
        replace(features, backbone_sha256="b").key(networks[0], case),
    ]
    assert len(set(keys)) == len(keys)
    assert features.key(networks[0], replace(case, name="renamed")) == keys[0]


def test_what_was_not_used_for_longest_goes_first(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, limit=3 * 5000)
    for number, key in enumerate(("aa", "bb", "cc")):
        cache.write(key, [torch.zeros(1000)])
        os.utime(cache._path(key), (number, number))
    assert cache.read("aa") is not None  # and so it is the newest
    cache.write("dd", [torch.ones(1000)])
    assert cache.read("bb") is None and cache.used() <= 3 * 5000
    for key in ("aa", "cc", "dd"):
        assert cache.read(key) is not None
    cache.write("ee", [torch.zeros(10_000)])  # larger than all there is room for
    assert cache.read("ee") is None and cache.read("dd") is not None


def test_a_stop_is_obeyed(synthetic_cases: list[LabeledCase], probe: FinetuneSettings, tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        volume = read_volume(synthetic_cases[0].image)
        cache_features(volume, probe, cache=FeatureCache(tmp_path), should_stop=lambda: True)
