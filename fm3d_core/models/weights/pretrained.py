"""What a file of ``fm3d pretrain`` says of itself: which backbone it holds, also where no preset has its shape."""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fm3d_core.errors import WeightsError
from fm3d_core.models.weights.store import read_header
from fm3d_core.models.zoo import backbone_class, presets

_LEFT_OUT = ("input_channels", "drop_path")  # a matter of the image, and of the training that is over


@dataclass(frozen=True)
class Told:
    """What the header names.

    Attributes:
        preset: the backbone's, or the most similar one of its class.
        options: of the class, in place of the preset's, as JSON; None where the preset is its own.
    """

    preset: str
    options: str | None = None


def told_by(path: Path) -> Told | None:
    """The backbone that the header of a file names; None for a file that is not of ``fm3d pretrain``.

    Raises:
        WeightsError: a teacher with its heads, or a backbone that this version of FM3D does not know.
    """
    try:
        header = read_header(path)
    except (WeightsError, AttributeError):  # a torch file, or somebody else's header
        return None
    if str(header.get("preset")) in presets():
        return Told(str(header["preset"]))
    if "objective" not in header:
        return None
    if "class" not in header:
        raise WeightsError(
            f"holds {path.stem}, networks with their heads for a further stage of pretraining, and no plain backbone",
            path=path,
            remedy="Give the backbone.safetensors beside it",
        )
    return Told(*_own_shape(header, path))


def _own_shape(header: Mapping[str, Any], path: Path) -> tuple[str, str]:
    """The preset of the header's class that is most like it, and the header's options."""
    same_class = {name: preset["config"] for name, preset in presets().items() if preset["class"] == header["class"]}
    config = header.get("config") or {}
    if not isinstance(config, Mapping) or not isinstance(header["class"], str):
        raise no_backbone(path)
    options = {name: value for name, value in config.items() if name not in _LEFT_OUT}
    if same_class and set(options) <= set(inspect.signature(backbone_class(header["class"])).parameters):
        if not all(_is_possible(value, _largest(name, header["class"], path)) for name, value in options.items()):
            raise no_backbone(path)
        alike = {name: sum(options.get(key) == value for key, value in same_class[name].items()) for name in same_class}
        return max(alike, key=lambda name: alike[name]), json.dumps(options, sort_keys=True)
    raise WeightsError(
        f"holds a {header['class'][:40]!r} with options that this version of FM3D does not know",
        path=path,
        remedy="Use the version of FM3D that it was trained with",
    )


def no_backbone(path: Path) -> WeightsError:
    """For a header whose options build nothing."""
    return WeightsError(
        "its header describes no backbone that can be built", path=path, remedy="Export it again, or use another file"
    )


def _largest(option: str, name: str, path: Path) -> float:
    """The largest number an option can be in a file of this size: a hostile header must not exhaust the memory.

    Any width w or number of blocks w has more than w^2 bytes of tensors; of Swin UNETR, which is built in memory, one
    has more than 1024 w^2. The size of images alone says little about that of tensors, and takes no memory.
    """
    size = path.stat().st_size
    if name == "SwinUNETRBackbone":
        return math.isqrt(size // 1024)
    return math.inf if option == "image_size" else math.isqrt(size)


def _is_possible(value: Any, largest: float) -> bool:
    """Whether an option is a word, nothing, or one or several numbers from 0 to ``largest``."""
    if isinstance(value, list):
        return (
            len(value) <= largest
            and all(isinstance(item, int | float) for item in value)
            and all(_is_possible(item, largest) for item in value)
        )
    return value is None or isinstance(value, str) or (isinstance(value, int | float) and 0 <= value <= largest)
