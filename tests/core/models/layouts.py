"""Weight files as their authors lay them out: from the key lists of the public ones, or scaled down."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from fm3d_core.models.zoo import BackboneSpec, create_backbone

LAYOUTS = Path(__file__).resolve().parents[4] / "shared" / "specs" / "checkpoint_layouts"
PUBLIC = {
    "btcv.pt": "btcv",
    "clipdriven_swinunetr.pth": "clipdriven",
    "clipdriven_unet.pth": "clipdriven_unet",
    "fseft.pth": "fseft",
    "selfsup.pt": "selfsup",
    "suprem_swinunetr.pth": "suprem_swinunetr",
    "suprem_unet.pth": "suprem_unet",
}


def public_content(name: str) -> dict[str, Any]:
    """The content of a public file with its names, shapes and types, on the meta device."""
    path = LAYOUTS / f"{name}.json"
    if not path.is_file():
        pytest.skip(f"key lists of the public weight files not found at {path}")
    layout = json.loads(path.read_text())
    tensors = {
        key: torch.empty(shape, dtype=getattr(torch, kind), device="meta") for key, shape, kind in layout["keys"]
    }
    return wrapped(tensors, layout["wrapper"])


def wrapped(tensors: dict[str, torch.Tensor], wrapper: str | None) -> dict[str, Any]:
    """As training scripts save it: below a key, beside an epoch and an optimiser."""
    return {wrapper: tensors, "epoch": 7, "optimizer": {"state": {}, "param_groups": []}} if wrapper else tensors


def state_of(preset: str, seed: int = 5) -> dict[str, torch.Tensor]:
    """The tensors of a preset with random values."""
    return dict(create_backbone(BackboneSpec(preset, seed=seed)).state_dict())  # type: ignore[attr-defined]


def swin_tensors(preset: str = "swin_unetr_tiny_legacy") -> dict[str, torch.Tensor]:
    """A Swin UNETR with MONAI's own names."""
    return {name.removeprefix("network."): tensor for name, tensor in state_of(preset).items()}


def small_public_content(id: str) -> dict[str, Any]:
    """A file of a Swin UNETR or SegResNet entry, in its layout, of feature size 12 where it has one."""
    text_head = {
        "module.organ_embedding": torch.randn(4, 8),
        "module.precls_conv.0.weight": torch.randn(4),
        "module.GAP.3.bias": torch.randn(4),
        "module.controller.weight": torch.randn(4, 4, 1, 1, 1),
        "module.text_to_vision.bias": torch.randn(4),
    }
    if id == "suprem_segresnet":
        segresnet = {f"module.{k.removeprefix('network.')}": v for k, v in state_of("suprem_segresnet").items()}
        head = {
            "module.conv_final.2.conv.weight": torch.randn(32, 16, 1, 1, 1),
            "module.conv_final.2.conv.bias": torch.randn(32),
        }
        return wrapped({**segresnet, **head}, "net")
    swin = swin_tensors()
    encoder = {k.removeprefix("swinViT."): v for k, v in swin.items() if k.startswith("swinViT.")}
    if id == "btcv":
        return wrapped({**swin, "out.conv.conv.weight": torch.randn(14, 12, 1, 1, 1)}, "state_dict")
    if id == "fseft":
        return {f"module.{k}": v for k, v in swin.items()} | {"module.classifier.weight": torch.randn(29, 12, 1, 1, 1)}
    if id in ("clipdriven", "suprem_swinunetr"):
        return wrapped({f"module.backbone.{k}": v for k, v in swin.items()} | text_head, "net")
    if id == "selfsup":
        heads = {"module.rotation_head.weight": torch.randn(4, 4), "module.norm.weight": torch.randn(4)}
        named = {f"module.{k.replace('mlp.linear', 'mlp.fc')}": v for k, v in encoder.items()}
        return wrapped(named | heads, "state_dict")
    if id == "selfsup, repository":
        return wrapped({f"module.swin_vit.{k}": v for k, v in encoder.items()}, "state_dict")
    if id == "nv_50k":
        named = {k.replace(".0.", ".0.0.", 1) if k.startswith("layers") else k: v for k, v in encoder.items()}
        return wrapped({f"encoder.{k}": v for k, v in named.items()} | {"encoder.norm.weight": torch.randn(4)}, "model")
    raise ValueError(id)


def teacher_content(chunks: int = 4, *, heads: bool = True, renumber: bool = False) -> dict[str, Any]:
    """A 3DINO teacher checkpoint of the shape of vit_tiny, its blocks in ``chunks`` block chunks."""
    tensors: dict[str, torch.Tensor] = {}
    per_chunk = 12 // chunks
    for name, tensor in state_of("vit_tiny").items():
        parts = name.split(".")
        if parts[0] == "blocks":
            block = int(parts[1])
            shown = block % per_chunk if renumber else block
            name = ".".join(["blocks", str(block // per_chunk), str(shown), *parts[2:]])
        tensors[f"backbone.{name}"] = tensor
    if heads:
        tensors |= {f"{head}.last_layer.weight_g": torch.ones(8, 1) for head in ("dino_head", "ibot_head")}
    return {"teacher": tensors, "epoch": 3}
