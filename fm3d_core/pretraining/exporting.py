"""What a run is for: the backbone as a safetensors file whose header says which backbone of ours it is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import nn

from fm3d_core.files import atomic_file
from fm3d_core.models.weights.importing import expected_tensors
from fm3d_core.models.zoo import presets
from fm3d_core.pretraining.training_state import module_state

_POSITIONS = "pos_embed"


def export_module(module: nn.Module, path: Path, about: Mapping[str, Any], *, write: bool = True) -> None:
    """Write a module's tensors in float32; a backbone also fits its preset then, its positions resized if need be.

    Where no preset has its shape, class and options in the header rebuild it.

    All processes must call this where weights are sharded.

    Args:
        about: for the header.
        write: False in all processes but the first.

    Raises:
        StorageError: disk full, no permission; an earlier file stays.
    """
    state = module_state(module, write)
    if not write:
        return
    tensors = {name: value.float() if value.is_floating_point() else value for name, value in state.items()}
    header = dict(about)
    if hasattr(module, "config"):
        preset = preset_of(module, tensors)
        header |= {"preset": preset, "config": _plain(module.config), "class": type(module).__name__}
        if preset is not None and _POSITIONS in tensors:
            tensors[_POSITIONS] = _fitting_positions(module, tensors[_POSITIONS], preset)
    with atomic_file(path) as temporary:
        safetensors.torch.save_file(
            {name: value.contiguous() for name, value in tensors.items()},
            temporary,
            metadata={"fm3d": json.dumps(header, sort_keys=True)},
        )
        temporary.chmod(0o644)  # safetensors makes it private


def preset_of(module: nn.Module, tensors: Mapping[str, torch.Tensor]) -> str | None:
    """The preset with the same class, meaning and shapes; positions may be on another grid if nothing else fits."""
    config: Mapping[str, Any] = module.config  # type: ignore[assignment]
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    loose: str | None = None
    for name, preset in presets().items():
        if preset["class"] != type(module).__name__ or not _same_options(preset["config"], config):
            continue
        wanted = {key: tuple(tensor.shape) for key, tensor in expected_tensors(name, config["input_channels"]).items()}
        if wanted == shapes:
            return name
        if wanted | {_POSITIONS: None} == shapes | {_POSITIONS: None} and loose is None:
            loose = name
    return loose


def _same_options(preset: Mapping[str, Any], config: Mapping[str, Any]) -> bool:
    """Whether a backbone's options are a preset's, apart from the size of its images.

    Options that the preset leaves to its class show in the shapes, or in the meaning, which is compared when imported.
    """
    own = _plain(config)
    return all(own.get(name) == value for name, value in preset.items() if name != "image_size")


def _fitting_positions(module: nn.Module, positions: torch.Tensor, preset: str) -> torch.Tensor:
    from fm3d_core.models.positions import resize_position_embedding

    wanted = expected_tensors(preset, module.input_channels)[_POSITIONS]  # type: ignore[arg-type]
    edge = round((wanted.shape[1] - 1) ** (1 / 3))
    return resize_position_embedding(positions, (edge,) * 3, module.position_interpolation)  # type: ignore[arg-type]


def _plain(config: Any) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in config.items()}
