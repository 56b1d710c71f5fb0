"""Rotary positions of a patch grid in millimetres (Su et al. 2021, RoFormer; axial, as in Siméoni et al. 2025, DINOv3).

Attention then depends on how far two patches lie apart in the body, not on how finely it was scanned.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fm3d_core.models.backbone import Size

Spacing = Sequence[float] | torch.Tensor  # mm per voxel along each axis


def patch_centres(grid: Size, patch_size: Size, spacing: Spacing, device: torch.device | None = None) -> torch.Tensor:
    """Centres of the patches in mm, Z fastest: (B, N, 3).

    Args:
        grid: patches along each axis.
        patch_size: voxels of a patch along each axis.
        spacing: mm per voxel along each axis, (3,) for all images (B = 1) or (B, 3).
    """
    voxels = [(torch.arange(n, device=device) + 0.5) * size for n, size in zip(grid, patch_size, strict=True)]
    centres = torch.stack(torch.meshgrid(*voxels, indexing="ij"), dim=-1).flatten(0, 2)
    millimetres = torch.as_tensor(spacing, dtype=torch.float32, device=device).reshape(-1, 1, 3)
    return centres * millimetres


def rotation_of(
    centres: torch.Tensor, head_width: int, wavelengths: tuple[float, float], leading_tokens: int
) -> torch.Tensor:
    """Cosine and sine by which each token's query and key turn: (2, B, 1, leading + N, pairs).

    Args:
        centres: (B, N, 3) in mm.
        head_width: channels of a head; every axis gets a sixth of them in pairs, what is left stays unrotated.
        wavelengths: shortest and longest, in mm; a pair turns once per wavelength.
        leading_tokens: tokens without a position before the patches (class, registers); they do not turn.
    """
    pairs = head_width // 6
    shortest, longest = wavelengths
    exponents = torch.linspace(0, 1, pairs, device=centres.device)
    frequencies = 2 * torch.pi / (shortest * (longest / shortest) ** exponents)
    angles = (centres.unsqueeze(-1) * frequencies).flatten(-2)  # (B, N, 3 * pairs)
    angles = torch.nn.functional.pad(angles, (0, 0, leading_tokens, 0)).unsqueeze(1)
    return torch.stack([angles.cos(), angles.sin()])


def rotate(heads: torch.Tensor, rotation: torch.Tensor) -> torch.Tensor:
    """Turn the channel pairs of ``heads`` (B, H, N, D) by ``rotation`` of :func:`rotation_of`."""
    cosine, sine = rotation.to(heads.dtype).unbind(0)
    pairs = cosine.shape[-1]
    first, second, rest = heads.split([pairs, pairs, heads.shape[-1] - 2 * pairs], dim=-1)
    return torch.cat([first * cosine - second * sine, first * sine + second * cosine, rest], dim=-1)
