"""Backbones by name: the presets, how they are built, where their weights come from, and what identifies them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fm3d_core.errors import SettingsError, WeightsError
from fm3d_core.files import atomic_file, home_folder, sha256_of

if TYPE_CHECKING:
    import torch

    from fm3d_core.models.backbone import Backbone

_MODULES = {
    "ResidualUNet": "fm3d_core.models.residual_unet",
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
        weights: sha256 of the weight file, None for random weights.
    """

    preset: str
    input_channels: int = 1
    seed: int = 0
    weights: str | None = None

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


def create_backbone(spec: BackboneSpec) -> Backbone:
    """Build the backbone of ``spec`` on the CPU, in evaluation mode.

    Raises:
        SettingsError: unknown preset.
        WeightsError: its weight file is not in the cache, cannot be read or does not fit.
    """
    from fm3d_core.torchvision_guard import ensure_torchvision_importable

    ensure_torchvision_importable()
    import torch

    check_preset(spec.preset)
    preset = presets()[spec.preset]
    factory = getattr(import_module(_MODULES[preset["class"]]), preset["class"])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.seed)
        backbone = factory(input_channels=spec.input_channels, **preset["config"])
    if spec.weights:
        _load(backbone, cached_weights(spec.weights))
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


def weights_folder() -> Path:
    """Where imported weight files are kept, each under its sha256."""
    return home_folder() / "weights"


def cached_weights(sha256: str) -> Path:
    """The imported weight file with this hash.

    Raises:
        WeightsError: it is not on this computer.
    """
    path = weights_folder() / f"{sha256}.safetensors"
    if not path.is_file():
        raise WeightsError(
            "the backbone's weight file is not on this computer",
            path=path,
            remedy="Copy it from the computer where the adapter was trained (same folder, same name)",
        )
    return path


def import_weights(path: str | Path, preset: str, input_channels: int = 1) -> str:
    """Check a weight file against a preset, keep it as safetensors in the cache, and return its sha256.

    Files of torch (read with ``weights_only=True``) and safetensors are accepted. Every tensor of the backbone must
    be in the file with its shape; names are those of our modules.

    Raises:
        WeightsError: unreadable, not a weight file, or not all of the backbone's tensors land.
    """
    import safetensors.torch

    tensors = _read_tensors(Path(path))
    backbone = create_backbone(BackboneSpec(preset, input_channels))
    _check_landing(backbone, tensors, Path(path))
    wanted = set(backbone.state_dict())  # type: ignore[attr-defined]
    kept = {name: tensor.contiguous().float() for name, tensor in tensors.items() if name in wanted}
    staging = weights_folder() / f"import-{preset}.safetensors"
    with atomic_file(staging) as temporary:
        safetensors.torch.save_file(kept, temporary)
    sha256 = sha256_of(staging)
    staging.replace(weights_folder() / f"{sha256}.safetensors")
    return sha256


def _load(backbone: Backbone, path: Path) -> None:
    tensors = _read_tensors(path)
    _check_landing(backbone, tensors, path)
    backbone.load_state_dict(tensors, strict=False)  # type: ignore[attr-defined]  # completeness was just checked


def _read_tensors(path: Path) -> dict[str, torch.Tensor]:
    import pickle

    import safetensors
    import safetensors.torch
    import torch

    remedy = "Give a .safetensors or .pth file of tensors for this backbone; download it again if it is damaged"
    if not path.is_file():
        raise WeightsError("no such weight file", path=path, remedy="Check the path")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (safetensors.SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise WeightsError("not a readable weight file", path=path, remedy=remedy) from error
    for wrapper in ("state_dict", "model", "net"):
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise WeightsError("holds something else than named tensors", path=path, remedy=remedy)
    return content


def _check_landing(backbone: Backbone, tensors: dict[str, torch.Tensor], path: Path) -> None:
    wanted: dict[str, torch.Tensor] = backbone.state_dict()  # type: ignore[attr-defined]
    landed = [name for name, tensor in wanted.items() if name in tensors and tensors[name].shape == tensor.shape]
    if len(landed) < len(wanted):
        missing = next(name for name in wanted if name not in set(landed))
        raise WeightsError(
            f"only {len(landed)} of the backbone's {len(wanted)} tensors are in it with the right shape "
            f"(first missing: {missing})",
            path=path,
            remedy="Choose the backbone this file was made for",
        )
