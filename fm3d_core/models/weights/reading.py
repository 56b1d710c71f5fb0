"""Reading weight files from outside: tensors and plain data only, nothing in them is ever executed."""

from __future__ import annotations

import pickle
import re
import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch

from fm3d_core.errors import WeightsError

DOWNLOAD_AGAIN = "Download it again and compare its size with its page"
# everything a reader of hostile bytes can meet
_UNREADABLE = (
    OSError,
    EOFError,
    RuntimeError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    ArithmeticError,
    MemoryError,
    struct.error,
    pickle.UnpicklingError,
    safetensors.SafetensorError,
)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """The content of a torch or safetensors file: tensors by name, possibly below a key beside other plain data.

    Torch files are read with ``weights_only=True``; which of the two formats it is, the first bytes tell.

    Raises:
        WeightsError: no such file; a pointer, web page, program or damaged file; it holds objects that are not data.
    """
    path = Path(path)
    if path.is_dir():
        raise WeightsError("is a folder, not a weight file", path=path, remedy="Give the file in it")
    if not path.is_file():
        raise WeightsError("no such weight file", path=path, remedy="Check the path")
    with path.open("rb") as file:
        head = file.read(512)
    _refuse_by_first_bytes(head, path)
    try:
        if head[8:9] == b"{" or path.suffix == ".safetensors":
            return dict(safetensors.torch.load_file(path))
        with torch.serialization.safe_globals(_plain_numbers()), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # advice to the file's author
            content = torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        raise _explained(error, head, path) from error
    if not isinstance(content, dict):
        raise WeightsError(
            f"holds a {type(content).__name__} instead of named tensors", path=path, remedy="Give a state dict"
        )
    return content


def named_tensors(content: dict[str, Any], wrapper: str | None) -> dict[str, torch.Tensor]:
    """The tensors below ``wrapper``, or of ``content`` itself if it has no such key; other values are left out."""
    inner = content.get(wrapper) if wrapper is not None else None
    chosen = inner if isinstance(inner, dict) else content
    return {str(name): value for name, value in chosen.items() if isinstance(value, torch.Tensor)}


def _plain_numbers() -> list[Any]:
    """NumPy's scalars, which training scripts often save beside the tensors (a best score); they hold no code."""
    scalar = np.float64(0).__reduce__()[0]
    kinds = [type(np.dtype(code)) for code in "?bBhHiIlLqQefd"]
    return [(scalar, "numpy.core.multiarray.scalar"), (scalar, "numpy._core.multiarray.scalar"), np.dtype, *kinds]


def _refuse_by_first_bytes(head: bytes, path: Path) -> None:
    start = head.lstrip().lower()
    reason = remedy = ""
    if not head:
        reason, remedy = "it is empty", DOWNLOAD_AGAIN
    elif start.startswith(b"version https://git-lfs"):
        reason, remedy = (
            "it is a Git LFS pointer, not the file itself",
            "Run git lfs pull, or download it",
        )
    elif start.startswith((b"<!doctype html", b"<html")):
        reason, remedy = "it is a web page", "Download the file itself; sites may ask for a login first"
    if reason:
        raise WeightsError(f"not a readable weight file: {reason}", path=path, remedy=remedy)


def _explained(error: BaseException, head: bytes, path: Path) -> WeightsError:
    text = str(error)
    found = re.search(r"GLOBAL ([\w.]+)", text)
    if isinstance(error, pickle.UnpicklingError) and found:
        return WeightsError(
            f"not a readable weight file: it holds {found[1]}, which is not data; nothing of it was run",
            path=path,
            remedy="Get a file of tensors only from its author, and do not open this one with other programs",
        )
    if "TorchScript" in text:
        reason, remedy = "it is a TorchScript program", "Give the state dict of the model instead"
    elif head.startswith(b"PK") or head[8:9] == b"{":
        reason, remedy = "it is damaged or not complete", DOWNLOAD_AGAIN
    else:
        reason, remedy = "it is neither a torch nor a safetensors file", "Give a .pth, .pt or .safetensors file"
    return WeightsError(f"not a readable weight file: {reason}", path=path, remedy=remedy)
