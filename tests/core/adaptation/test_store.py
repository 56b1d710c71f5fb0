"""Adapters are kept whole, in versions; one is active; going back is possible; damage is named."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch

from fm3d_core.adaptation import Adapter, AdapterStore, FinetuneSettings, untrained_adapter
from fm3d_core.adaptation.adapter import CARD_FILE, TENSORS_FILE
from fm3d_core.errors import AdapterError, WeightsError
from fm3d_core.models.weights.store import weights_folder
from fm3d_core.models.zoo import BackboneSpec, create_backbone
from fm3d_core.tasks import SegmentationTask


@pytest.fixture(scope="module")
def adapter() -> Adapter:
    return untrained_adapter(SegmentationTask(("liver", "Milz ü")), FinetuneSettings(method="linear_probe"))


def test_an_adapter_comes_back_as_it_was_saved(adapter: Adapter, tmp_path: Path) -> None:
    again = Adapter.load(adapter.save(tmp_path / "a"))
    assert again.card == adapter.card
    assert again.tensors.keys() == adapter.tensors.keys()
    assert all(again.tensors[name].equal(tensor) for name, tensor in adapter.tensors.items())
    assert {path.name for path in (tmp_path / "a").iterdir()} == {CARD_FILE, TENSORS_FILE}


def test_versions_count_up_and_the_newest_is_active(adapter: Adapter, tmp_path: Path) -> None:
    store = AdapterStore(tmp_path / "store")
    assert store.active() is None and store.versions() == []
    assert [store.save(adapter).version for _ in range(3)] == [1, 2, 3]
    assert [(stored.version, stored.active) for stored in store.versions()] == [(1, False), (2, False), (3, True)]


def test_a_version_can_be_kept_without_becoming_active(adapter: Adapter, tmp_path: Path) -> None:
    store = AdapterStore(tmp_path / "store")
    assert not store.save(adapter, activate=False).active and store.active() is None
    store.save(adapter)
    assert not store.save(adapter, activate=False).active
    active = store.active()
    assert active is not None and active.version == 2 and len(store.versions()) == 3


def test_rolling_back_returns_to_what_was_active_before(adapter: Adapter, tmp_path: Path) -> None:
    store = AdapterStore(tmp_path)
    for _ in range(3):
        store.save(adapter)
    store.activate(1)
    assert store.roll_back().version == 3
    assert store.roll_back().version == 2
    assert store.roll_back().version == 1
    with pytest.raises(AdapterError, match="no earlier version"):
        store.roll_back()
    active = store.active()
    assert active is not None and active.version == 1


def test_an_unknown_version_and_an_empty_store_are_said_in_words(adapter: Adapter, tmp_path: Path) -> None:
    store = AdapterStore(tmp_path)
    with pytest.raises(AdapterError, match="nothing was learned yet"):
        store.load()
    store.save(adapter)
    with pytest.raises(AdapterError, match=r"no version 7.*Versions here: 1"):
        store.activate(7)


def test_a_damaged_adapter_is_named_and_the_others_still_work(adapter: Adapter, tmp_path: Path) -> None:
    store = AdapterStore(tmp_path)
    for _ in range(4):
        store.save(adapter)
    (tmp_path / "v0001" / TENSORS_FILE).write_bytes(b"rubbish")
    (tmp_path / "v0002" / CARD_FILE).write_text("{", encoding="utf-8")
    changed = bytearray((tmp_path / "v0003" / TENSORS_FILE).read_bytes())
    changed[-1] ^= 1
    (tmp_path / "v0003" / TENSORS_FILE).write_bytes(changed)
    for version, reason in {1: "cannot be read", 2: "card cannot be read", 3: "were changed"}.items():
        with pytest.raises(AdapterError, match=reason) as caught:
            store.load(version)
        assert f"v{version:04d}" in str(caught.value)
    assert store.load(4).card == adapter.card


def test_a_card_of_another_format_is_refused(adapter: Adapter, tmp_path: Path) -> None:
    adapter.save(tmp_path / "a")
    card = json.loads((tmp_path / "a" / CARD_FILE).read_text())
    for change in ({"format": 99}, {"surprise": 1}, {"window": "large"}):
        (tmp_path / "a" / CARD_FILE).write_text(json.dumps({**card, **change}))
        with pytest.raises(AdapterError, match="not valid"):
            Adapter.load(tmp_path / "a")


def test_an_adapter_of_another_backbone_is_refused(adapter: Adapter) -> None:
    other = replace(adapter.card.backbone, weights=None)
    with pytest.raises(AdapterError, match="another backbone"):
        Adapter(replace(adapter.card, backbone=other), adapter.tensors).build_network()


def test_tensors_that_do_not_fit_are_refused(adapter: Adapter) -> None:
    fewer = dict(list(adapter.tensors.items())[:-1])
    with pytest.raises(AdapterError, match="do not fit"):
        Adapter(adapter.card, fewer).build_network()


@pytest.mark.parametrize("own_shape", [False, True])
def test_only_an_adapter_that_holds_all_weights_does_without_their_file(own_shape: bool, tmp_path: Path) -> None:
    """And only where the preset tells the backbone's shape: options of its own are in the file alone."""
    options = {"channels": [4, 8, 16, 32]} if own_shape else {"channels": [8, 16, 32, 64]}
    spec = BackboneSpec("residual_unet_small", seed=3)
    state = create_backbone(spec, options).state_dict()  # type: ignore[attr-defined]
    about = {"preset": None, "objective": "pretext", "class": "ResidualUNet", "config": options}
    metadata = {"fm3d": json.dumps(about)}
    path = tmp_path / "backbone.safetensors"
    safetensors.torch.save_file({name: each.contiguous() for name, each in state.items()}, path, metadata)
    adapters = {}
    for method in ("full", "linear_probe"):
        adapters[method] = untrained_adapter(
            SegmentationTask(("liver",)), FinetuneSettings(method=method, weights=path)
        )
        backbone = adapters[method].build_network().backbone
        assert all(torch.equal(tensor, state[name]) for name, tensor in backbone.state_dict().items())
    (copy,) = weights_folder().glob("*.safetensors")
    for content in (b"damaged", None):
        if content is None:
            copy.unlink()
        else:
            copy.write_bytes(content)
        for method, adapter in adapters.items():
            if method == "full" and not own_shape:
                backbone = adapter.build_network().backbone
                assert all(torch.equal(tensor, state[name]) for name, tensor in backbone.state_dict().items())
            else:
                with pytest.raises(WeightsError, match="not on this computer" if content is None else "damaged"):
                    adapter.build_network()


def test_an_empty_folder_is_not_an_adapter(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="not an adapter folder"):
        Adapter.load(tmp_path)


def test_a_deleted_version_lies_in_the_bin_and_comes_back_under_its_number(adapter: Adapter, tmp_path: Path) -> None:
    store = AdapterStore(tmp_path)
    for _ in range(3):
        store.save(adapter)
    store.activate(1)
    store.delete(3)
    assert [stored.version for stored in store.versions()] == [1, 2] and store.deleted() == [3]
    with pytest.raises(AdapterError, match="no version 3"):
        store.load(3)
    assert store.save(adapter, activate=False).version == 4  # the number of a deleted one is not given again
    restored = store.restore(3)
    assert (restored.version, restored.active, store.deleted()) == (3, False, [])
    assert store.load(3).card == adapter.card


def test_the_active_version_and_one_that_is_not_there_cannot_be_deleted(adapter: Adapter, tmp_path: Path) -> None:
    store = AdapterStore(tmp_path)
    store.save(adapter)
    with pytest.raises(AdapterError, match="version 1 is active"):
        store.delete(1)
    with pytest.raises(AdapterError, match="no version 2"):
        store.delete(2)
    with pytest.raises(AdapterError, match=r"not in the bin.*none"):
        store.restore(2)


def test_going_back_steps_over_a_deleted_version(adapter: Adapter, tmp_path: Path) -> None:
    store = AdapterStore(tmp_path)
    for _ in range(3):
        store.save(adapter)
    store.delete(2)
    assert store.roll_back().version == 1
