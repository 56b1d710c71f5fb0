"""Backbones by name: the presets, how they are built, where their weights come from, and what identifies them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fm3d_core.errors import SettingsError, WeightsError
from fm3d_core.models.weights.store import cached_weights, read_header, weights_folder

if TYPE_CHECKING:
    import torch

    from fm3d_core.models.backbone import Backbone

__all__ = [
    "BackboneSpec",
    "backbone_class",
    "backbone_sha256",
    "cached_weights",
    "check_preset",
    "create_backbone",
    "import_weights",
    "meaning",
    "presets",
    "weights_folder",
]

_MODULES = {
    "ResidualUNet": "fm3d_core.models.residual_unet",
    "SegResNetBackbone": "fm3d_core.models.segresnet",
    "SuPreMUNet": "fm3d_core.models.suprem_unet",
    "SwinUNETRBackbone": "fm3d_core.models.swin_unetr",
    "VisionTransformer3D": "fm3d_core.models.vit",
}


@dataclass(frozen=True)
class BackboneSpec:
    """What rebuilds a backbone with the same weights.

    Attributes:
        preset: a name of :func:`presets`.
        input_channels: image channels.
        seed: of the random weights, when no weight file is given (and of what a file does not hold).
        weights: sha256 of the converted weight file in the cache, None for random weights. A file of a backbone that
            is no preset says its options itself; the preset then only names the class.
        fold_channels: the backbone itself takes one channel and sees those of the image one by one
            (:class:`fm3d_core.models.channels.FoldedChannels`): so weights of one channel serve any image.
    """

    preset: str
    input_channels: int = 1
    seed: int = 0
    weights: str | None = None
    fold_channels: bool = False

    def to_dict(self) -> dict[str, Any]:
        """As plain data for JSON."""
        return asdict(self)


@cache
def presets() -> dict[str, dict[str, Any]]:
    """All presets: name -> {class, about, config}."""
    import yaml

    text = (Path(__file__).parent / "presets.yaml").read_text(encoding="utf-8")
    return dict(yaml.safe_load(text))


def check_preset(name: str) -> None:
    """Raise SettingsError unless ``name`` is a preset."""
    if name not in presets():
        raise SettingsError(f"unknown backbone '{name}'", remedy=f"Choose one of: {', '.join(presets())}")


def backbone_class(name: str) -> Any:
    """The class that presets name."""
    return getattr(import_module(_MODULES[name]), name)


def create_backbone(spec: BackboneSpec, options: Mapping[str, Any] | None = None) -> Backbone:
    """Build the backbone of ``spec`` on the CPU, in evaluation mode.

    Args:
        spec: what to build.
        options: of the preset's class, in place of the preset's own; None: those of the weight file, if it has any.

    Raises:
        SettingsError: unknown preset.
        WeightsError: its weight file is not in the cache, cannot be read or does not fit.
    """
    from fm3d_core.torchvision_guard import ensure_torchvision_importable

    ensure_torchvision_importable()
    import torch

    check_preset(spec.preset)
    preset = presets()[spec.preset]
    if options is None and spec.weights:
        options = read_header(cached_weights(spec.weights)).get("options")
    config = preset["config"] if options is None else options
    factory = backbone_class(preset["class"])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.seed)
        backbone = factory(input_channels=1 if spec.fold_channels else spec.input_channels, **config)
    if spec.weights:
        _load(backbone, cached_weights(spec.weights))
    if spec.fold_channels:
        from fm3d_core.models.channels import FoldedChannels

        backbone = FoldedChannels(backbone, spec.input_channels)
    backbone.eval()
    return backbone


def backbone_sha256(backbone: Backbone) -> str:
    """The identity of a backbone: sha256 over its configuration and all its tensors, sorted by name."""
    digest = hashlib.sha256(json.dumps([type(backbone).__name__, backbone.config], sort_keys=True).encode())
    state: dict[str, torch.Tensor] = backbone.state_dict()  # type: ignore[attr-defined]
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.flatten().view(_bytes_type()).numpy().tobytes())
    return digest.hexdigest()


def _bytes_type() -> torch.dtype:
    import torch

    return torch.uint8


def import_weights(path: str | Path, preset: str, input_channels: int = 1) -> str:
    """Check a weight file in our own layout against a preset, keep it in the cache, and return its sha256.

    Files of torch (read with ``weights_only=True``) and safetensors are accepted. Every tensor of the backbone must
    be in the file with its shape; names are those of our modules. Public files: see :mod:`fm3d_core.models.weights`.

    Raises:
        SettingsError: unknown preset.
        WeightsError: unreadable, not a weight file, or not all of the backbone's tensors land.
    """
    from fm3d_core.models.weights.importing import import_own

    return import_own(path, preset, input_channels).sha256


def meaning(config: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a backbone's ``config`` under which the same tensors compute something else, by name."""
    names = ("patch_merging", "position_interpolation", "rotary_wavelengths")
    found = {name: config[name] for name in names if config.get(name) is not None}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}


def _load(backbone: Backbone, path: Path) -> None:
    """Load a converted copy: all of its tensors, and all of the backbone's but those it says it does not hold.

    Raises:
        WeightsError: damaged, made for another backbone, or for other options of it.
    """
    import safetensors
    import safetensors.torch

    header = read_header(path)
    options = meaning(backbone.config)
    for name, value in header.get("properties", {}).items():
        if options.get(name) != value:
            raise WeightsError(
                f"these weights need {name} {value}, not {options.get(name)}",
                path=path,
                remedy="Choose the backbone they were imported for (fm3d weights list)",
            )
    try:
        tensors = safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise WeightsError("the converted copy is damaged", path=path, remedy="Import or fetch it again") from error
    state: dict[str, torch.Tensor] = backbone.state_dict()  # type: ignore[attr-defined]
    wanted = {name: tensor.shape for name, tensor in state.items() if name not in header.get("random", [])}
    landed = [name for name, shape in wanted.items() if name in tensors and tensors[name].shape == shape]
    if len(landed) < len(wanted):
        missing = next(name for name in wanted if name not in landed)
        raise WeightsError(
            f"only {len(landed)} of the backbone's {len(wanted)} tensors are in it with the right shape "
            f"(first missing: {missing})",
            path=path,
            remedy=f"Choose the backbone it was imported for, with {backbone.input_channels} image channels",
        )
    backbone.load_state_dict(tensors, strict=False)  # type: ignore[attr-defined]  # completeness was just checked
