"""Adapters that travel: one zip file with the tensors and the card, checked as a stranger's file when it comes in."""

from __future__ import annotations

import json
import math
import stat
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fm3d_core.adaptation.adapter import CARD_FILE, TENSORS_FILE, Adapter
from fm3d_core.adaptation.expected_dice import ExpectedDice
from fm3d_core.errors import AdapterError
from fm3d_core.files import atomic_file

LARGEST_CARD = 4 << 20  # bytes
LARGEST_TENSORS = 8 << 30  # bytes; a ViT-L in float32 has 1.3 GB
FINEST_SPACING = 0.05  # mm; finer, a card could make any volume fill the memory
_BLOCK = 1 << 20


def write_archive(folder: Path, path: str | Path, expected: ExpectedDice | None = None) -> Path:
    """Pack an adapter folder into the zip file ``path``, without the names of its cases.

    ``expected`` is what Dice to expect of it, if that was measured after the folder was written.

    Names may say who the patients are, so each becomes "case-" and the start of its image's hash, everywhere in the
    card. Hashes, figures and notes stay.

    Raises:
        AdapterError: not an adapter folder, or damaged.
        StorageError: ``path`` cannot be written.
    """
    Adapter.load(folder)
    card = json.loads((folder / CARD_FILE).read_text(encoding="utf-8"))
    if expected is not None:
        card["expected_dice"] = asdict(expected)
    content = json.dumps(without_names(card), indent=2, ensure_ascii=False)
    with atomic_file(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        archive.writestr(CARD_FILE, content)
        archive.write(folder / TENSORS_FILE, TENSORS_FILE)
    return Path(path)


def without_names(card: Mapping[str, Any]) -> dict[str, Any]:
    """A card's data with the names of cases replaced; what may hold a further name is left out."""
    new = {case["name"]: f"case-{case['image_sha256'][:8]}" for case in card["cases"]}
    longest_first = sorted(new, key=len, reverse=True)

    def renamed(text: str) -> str:
        for name in longest_first:
            text = text.replace(name, new[name])
        return text

    expected = card.get("expected_dice")
    if expected is not None:
        measured = enumerate(expected["cases"].items(), start=1)
        cases = {new.get(name, f"held-out-{number}"): dice for number, (name, dice) in measured}
        expected = {**expected, "cases": cases, "how": renamed(expected["how"])}
    return {
        **card,
        "cases": [{**case, "name": new[case["name"]]} for case in card["cases"]],
        "left_out": [f"{len(card['left_out'])} cases could not be used"] if card["left_out"] else [],
        "notes": [renamed(note) for note in card.get("notes", ())],
        "expected_dice": expected,
    }


def read_archive(path: str | Path, *, limit_bytes: int = LARGEST_TENSORS) -> Adapter:
    """Read an adapter from a zip file that may come from anywhere.

    Only the two members of an adapter are accepted, under exactly their names; nothing is unpacked beyond
    ``limit_bytes`` whatever the archive claims; tensors are read by safetensors, never as programs. The network is
    built once, so that an adapter of another backbone is refused now and not at its first use.

    Raises:
        AdapterError: not such a file, damaged, with values that are no numbers, or for another backbone.
        WeightsError: the backbone's weight file is not on this computer.
    """
    path = Path(path)
    remedy = f"Give a file that FM3D wrote: a zip of {TENSORS_FILE} and {CARD_FILE}"
    with tempfile.TemporaryDirectory(prefix="adapter-") as folder:
        try:
            with zipfile.ZipFile(path) as archive:
                _refuse_other_members(archive, remedy)
                _unpack(archive, CARD_FILE, Path(folder), LARGEST_CARD)
                _unpack(archive, TENSORS_FILE, Path(folder), limit_bytes)
        except (zipfile.BadZipFile, zlib.error, struct.error, RuntimeError, EOFError, OSError, ValueError) as error:
            raise AdapterError("not a usable adapter archive", remedy=remedy) from error
        try:
            adapter = Adapter.load(folder)
        except AdapterError as error:
            raise AdapterError(error.problem, remedy=remedy) from error
    _refuse_impossible(adapter)
    adapter.build_network()
    return adapter


def _refuse_other_members(archive: zipfile.ZipFile, remedy: str) -> None:
    members = archive.infolist()
    if sorted(member.filename for member in members) != sorted((CARD_FILE, TENSORS_FILE)):
        raise AdapterError("the archive holds other files than an adapter", remedy=remedy)
    if any(stat.S_ISLNK(member.external_attr >> 16) or member.is_dir() for member in members):
        raise AdapterError("the archive holds links instead of files", remedy=remedy)


def _unpack(archive: zipfile.ZipFile, name: str, folder: Path, limit: int) -> None:
    """Unpack one member, counting: what an archive says of its sizes need not be true."""
    done = 0
    with archive.open(name) as source, (folder / name).open("wb") as target:
        while block := source.read(_BLOCK):
            done += len(block)
            if done > limit:
                raise AdapterError(
                    f"{name} is larger than {limit / 2**20:.0f} MB", remedy="Give an adapter, not a whole network"
                )
            target.write(block)


def _refuse_impossible(adapter: Adapter) -> None:
    import torch

    card = adapter.card
    preprocessing = card.task.preprocessing
    if preprocessing is None:
        raise AdapterError("the card does not say how volumes are prepared", remedy="Export the adapter again")
    if preprocessing.spacing is not None and min(preprocessing.spacing) < FINEST_SPACING:
        raise AdapterError(
            f"the card resamples to {min(preprocessing.spacing):g} mm", remedy=f"{FINEST_SPACING} mm is the finest"
        )
    edges = [edge for edge in card.window if isinstance(edge, int) and 8 <= edge <= 512]
    if len(edges) < 3 or not 1 <= card.task.channels <= 64:
        raise AdapterError(
            f"the card's window {card.window} or its {card.task.channels} channels are impossible",
            remedy="Export the adapter again",
        )
    expected = card.expected_dice
    if expected is not None and not math.isfinite(expected.mean):
        raise AdapterError("the card's expected Dice is no number", remedy="Export the adapter again")
    for name, tensor in adapter.tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise AdapterError(f"{name[:80]} holds values that are no numbers", remedy="Export another version")
