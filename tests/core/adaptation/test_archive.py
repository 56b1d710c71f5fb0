"""An adapter travels as one file, without names of patients; a stranger's file is read as one."""

from __future__ import annotations

import json
import stat
import zipfile
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from fm3d_core.adaptation import Adapter, FinetuneSettings, UsedCase, untrained_adapter
from fm3d_core.adaptation.adapter import CARD_FILE, TENSORS_FILE
from fm3d_core.adaptation.archive import read_archive, write_archive
from fm3d_core.adaptation.expected_dice import ExpectedDice
from fm3d_core.errors import AdapterError
from fm3d_core.tasks import SegmentationTask

NAMES = ("Doe_Jane", "Doe_Jane_2")


@pytest.fixture(scope="module")
def adapter() -> Adapter:
    made = untrained_adapter(SegmentationTask(("liver",)), FinetuneSettings(method="linear_probe"))
    card = replace(
        made.card,
        cases=tuple(UsedCase(name, f"{number:x}" * 64, "0" * 64) for number, name in enumerate(NAMES, start=10)),
        notes=("Doe_Jane_2 is the same image as Doe_Jane with another label",),
        left_out=("Roe_Richard: empty",),
        expected_dice=ExpectedDice(0.8, None, None, {"Doe_Jane": 0.8, "Poe": 0.7}, {"liver": 0.8}, "Doe_Jane held out"),
    )
    return Adapter(card, made.tensors)


@pytest.fixture
def archive(adapter: Adapter, tmp_path: Path) -> Path:
    return write_archive(adapter.save(tmp_path / "adapter"), tmp_path / "adapter.zip")


def test_an_adapter_comes_back_with_its_tensors_and_without_names(adapter: Adapter, archive: Path) -> None:
    again = read_archive(archive)
    assert all(again.tensors[name].equal(tensor) for name, tensor in adapter.tensors.items())
    assert [case.name for case in again.card.cases] == ["case-aaaaaaaa", "case-bbbbbbbb"]
    assert [case.image_sha256 for case in again.card.cases] == [case.image_sha256 for case in adapter.card.cases]
    text = json.dumps(asdict(again.card))
    assert not any(word in text for word in ("Doe", "Roe", "Poe"))
    assert again.card.notes == ("case-bbbbbbbb is the same image as case-aaaaaaaa with another label",)


def rewritten(archive: Path, change: Callable[[dict[str, bytes]], None]) -> Path:
    """The archive with its members changed."""
    with zipfile.ZipFile(archive) as old:
        members = {name: old.read(name) for name in old.namelist()}
    change(members)
    target = archive.with_name("changed.zip")
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as new:
        for name, content in members.items():
            new.writestr(name, content)
    return target


@pytest.mark.parametrize("name", ["../evil.json", "/tmp/evil", "model.pt", "folder/adapter.json"])
def test_any_further_member_is_refused_and_nothing_is_written(archive: Path, name: str) -> None:
    before = sorted(archive.parent.parent.rglob("*"))
    changed = rewritten(archive, lambda members: members.update({name: b"x"}))
    with pytest.raises(AdapterError, match="other files"):
        read_archive(changed)
    assert [path for path in sorted(archive.parent.parent.rglob("*")) if path != changed] == before


def test_a_member_twice_or_missing_is_refused(archive: Path) -> None:
    with pytest.raises(AdapterError, match="other files"):
        read_archive(rewritten(archive, lambda members: members.pop(CARD_FILE)))
    with zipfile.ZipFile(archive, "a") as twice, pytest.warns(UserWarning, match="Duplicate"):
        twice.writestr(CARD_FILE, "{}")
    with pytest.raises(AdapterError, match="other files"):
        read_archive(archive)


def test_a_link_is_refused(archive: Path) -> None:
    with zipfile.ZipFile(archive) as old:
        tensors = old.read(TENSORS_FILE)
    with zipfile.ZipFile(archive, "w") as new:
        link = zipfile.ZipInfo(CARD_FILE)
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        new.writestr(link, "/etc/passwd")
        new.writestr(TENSORS_FILE, tensors)
    with pytest.raises(AdapterError, match="links"):
        read_archive(archive)


def test_a_bomb_is_not_unpacked(archive: Path) -> None:
    changed = rewritten(archive, lambda members: members.update({TENSORS_FILE: bytes(64 << 20)}))
    assert changed.stat().st_size < 1 << 20
    with pytest.raises(AdapterError, match=f"{TENSORS_FILE} is larger than 1 MB"):
        read_archive(changed, limit_bytes=1 << 20)
    changed = rewritten(archive, lambda members: members.update({CARD_FILE: b" " * (8 << 20)}))
    with pytest.raises(AdapterError, match=f"{CARD_FILE} is larger than 4 MB"):
        read_archive(changed)


def test_a_pickle_and_half_a_file_are_refused(archive: Path, tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / "weights.pt")
    with pytest.raises(AdapterError, match="other files"):
        read_archive(tmp_path / "weights.pt")  # a zip, of another kind
    (tmp_path / "half.zip").write_bytes(archive.read_bytes()[:-200])
    with pytest.raises(AdapterError, match="not a usable adapter archive"):
        read_archive(tmp_path / "half.zip")


def changed_card(archive: Path, **values: object) -> Path:
    def change(members: dict[str, bytes]) -> None:
        members[CARD_FILE] = json.dumps({**json.loads(members[CARD_FILE]), **values}).encode()

    return rewritten(archive, change)


def test_another_backbone_is_refused_by_its_hash(archive: Path) -> None:
    with pytest.raises(AdapterError, match="another backbone"):
        read_archive(changed_card(archive, backbone_sha256="f" * 64))


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"tensors_sha256": "0" * 64}, "were changed"),
        ({"window": [10**9, 10**9, 10**9]}, "window"),
        ({"method": "magic"}, "magic"),
        ({"format": 99}, "not valid"),
        ({"cases": "x"}, "not valid"),
        ({"task": {"labels": ["liver"], "preprocessing": {"spacing": [1e-6, 1, 1]}}}, "resamples to 1e-06 mm"),
        ({"task": {"labels": ["liver"]}}, "how volumes are prepared"),
    ],
)
def test_an_impossible_card_is_refused_in_words(archive: Path, values: dict[str, object], reason: str) -> None:
    from fm3d_core.errors import FM3DError

    with pytest.raises(FM3DError, match=reason) as refusal:
        read_archive(changed_card(archive, **values))
    assert "/tmp" not in str(refusal.value)


def test_values_that_are_no_numbers_are_refused(adapter: Adapter, tmp_path: Path) -> None:
    tensors = {name: tensor.clone() for name, tensor in adapter.tensors.items()}
    next(iter(tensors.values())).view(-1)[0] = float("nan")
    bad = write_archive(Adapter(adapter.card, tensors).save(tmp_path / "bad"), tmp_path / "bad.zip")
    with pytest.raises(AdapterError, match="no numbers"):
        read_archive(bad)
