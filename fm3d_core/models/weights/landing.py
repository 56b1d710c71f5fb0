"""The one engine that brings a file's tensors under our names and says what landed, what not, what is missing."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from fm3d_core.errors import WeightsError
from fm3d_core.models.weights.catalogue import WeightEntry
from fm3d_core.models.weights.reading import named_tensors
from fm3d_core.models.weights.report import LandingReport, name_parts

Expected = Mapping[str, torch.Tensor]  # the backbone's tensors, possibly on the meta device: names, shapes, dtypes


def rename(
    entry: WeightEntry, content: dict[str, Any], path: Path | None = None
) -> dict[str, tuple[str, torch.Tensor]]:
    """Our name -> (the file's name, tensor).

    Raises:
        WeightsError: a ViT's block chunks contradict each other, or two tensors would get one name.
    """
    tensors = named_tensors(content, entry.wrapper)
    if entry.chunked:
        _check_chunks(list(tensors), entry.chunked, path)
    renamed: dict[str, tuple[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        ours = entry.renamed(name)
        if ours in renamed:
            raise WeightsError(
                f"'{renamed[ours][0]}' and '{name}' would both become '{ours}'",
                path=path,
                remedy=f"This is not the layout of {entry.id}; give the file as its authors published it",
            )
        renamed[ours] = (name, tensor)
    return renamed


def land(
    entry: WeightEntry, content: dict[str, Any], expected: Expected, path: Path | None = None
) -> tuple[dict[str, torch.Tensor], LandingReport]:
    """The tensors of a file under our names, as the backbone's own types, and the report.

    Args:
        entry: its layout.
        content: what :func:`fm3d_core.models.weights.reading.read_checkpoint` gave.
        expected: the backbone's state dict.
        path: for the messages.

    Raises:
        WeightsError: less than the whole encoder lands, or the file holds more encoder than the backbone has.
    """
    renamed = rename(entry, content, path)
    encoder = [name for name in expected if re.search(entry.encoder, name)]
    landed = {name: renamed[name][1] for name in expected if name in renamed}
    _refuse_missing(entry, [name for name in encoder if name not in landed], len(encoder), len(renamed), path)
    _refuse_misfits(entry, landed, expected, path)
    left = {ours: theirs for ours, (theirs, _) in renamed.items() if ours not in landed}
    unused = [theirs for ours, theirs in left.items() if re.search(entry.unused, ours)]
    surplus = [theirs for ours, theirs in left.items() if theirs not in unused and re.search(entry.encoder, ours)]
    if surplus:
        raise WeightsError(
            f"holds {len(surplus)} encoder tensors that the backbone has no place for ({name_parts(surplus)})",
            path=path,
            remedy=f"Choose a backbone of the file's size, or another layout than {entry.id}",
        )
    report = LandingReport(
        encoder=(len(encoder), len(encoder)),
        landed=(len(landed), len(expected)),
        random=tuple(name for name in expected if name not in landed),
        unused=tuple(unused),
        unknown=tuple(theirs for theirs in left.values() if theirs not in unused),
    )
    return {name: tensor.to(expected[name].dtype) for name, tensor in landed.items()}, report


def _refuse_missing(entry: WeightEntry, missing: Sequence[str], encoder: int, in_file: int, path: Path | None) -> None:
    if not missing:
        return
    raise WeightsError(
        f"{len(missing)} of the {encoder} encoder tensors of {entry.id} are missing among its {in_file} "
        f"({name_parts(missing)})",
        path=path,
        remedy="Give the complete file, or choose the backbone or the weights (--as) that it really is",
    )


def _refuse_misfits(
    entry: WeightEntry, landed: Mapping[str, torch.Tensor], expected: Expected, path: Path | None
) -> None:
    wrong = [name for name, tensor in landed.items() if tensor.shape != expected[name].shape]
    if wrong:
        first = wrong[0]
        remedy = f"Choose with --backbone one of the same family as {entry.backbone} with the file's size"
        if all(_other_channels(landed[name].shape, expected[name].shape) for name in wrong):
            channels, ours = landed[first].shape[1], expected[first].shape[1]
            remedy = f"It is for images of {channels} channels, not {ours}: fm3d weights import takes --channels"
        raise WeightsError(
            f"{len(wrong)} of {len(expected)} tensors have another shape than the backbone's (first: {first} "
            f"{tuple(landed[first].shape)} instead of {tuple(expected[first].shape)})",
            path=path,
            remedy=remedy,
        )
    for name, tensor in landed.items():
        if tensor.is_floating_point() != expected[name].is_floating_point():
            raise WeightsError(
                f"{name} holds {tensor.dtype} instead of {expected[name].dtype}",
                path=path,
                remedy="Give the file as its authors published it",
            )
        if not tensor.is_meta and tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise WeightsError(
                f"{name} holds values that are not finite", path=path, remedy="Give a file of a training that succeeded"
            )


def _other_channels(found: torch.Size, wanted: torch.Size) -> bool:
    """Whether two convolution weights differ in their input channels alone, as a backbone's first layers do."""
    return len(found) == len(wanted) == 5 and found[0] == wanted[0] and found[2:] == wanted[2:]


def _check_chunks(names: Sequence[str], pattern: str, path: Path | None) -> None:
    """Blocks may be saved in any number of chunks, but are numbered through: a second block 0 means another layout."""
    chunks: dict[int, set[int]] = {}
    for name in names:
        if found := re.search(pattern, name):
            chunks.setdefault(int(found["block"]), set()).add(int(found["chunk"]))
    twice = sorted(block for block, of in chunks.items() if len(of) > 1)
    order = [min(chunks[block]) for block in sorted(chunks)]
    back = [block for block, (before, after) in zip(sorted(chunks)[1:], pairwise(order), strict=True) if after < before]
    if not twice and not back:
        return
    if twice:
        said = f"block {twice[0]} is in the chunks {' and '.join(map(str, sorted(chunks[twice[0]])))}"
    else:
        said = f"block {back[0]} is in chunk {min(chunks[back[0]])}, before the chunk of the block before it"
    raise WeightsError(
        f"wrong block chunks: {said}, but blocks must be numbered through all chunks",
        path=path,
        remedy="Give the file as its authors published it, not one saved again by another program",
    )
