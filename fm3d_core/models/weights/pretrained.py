"""What a file of ``fm3d pretrain`` says of itself: which backbone it holds, also where no preset has its shape."""

from __future__ import annotations

import inspect
import json
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
    if header.get("preset") in presets():
        return Told(header["preset"])
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
    options = {name: value for name, value in dict(header.get("config") or {}).items() if name not in _LEFT_OUT}
    if same_class and set(options) <= set(inspect.signature(backbone_class(header["class"])).parameters):
        alike = {name: sum(options.get(key) == value for key, value in same_class[name].items()) for name in same_class}
        return max(alike, key=lambda name: alike[name]), json.dumps(options, sort_keys=True)
    raise WeightsError(
        f"holds a {header['class']} with options that this version of FM3D does not know",
        path=path,
        remedy="Use the version of FM3D that it was trained with",
    )
