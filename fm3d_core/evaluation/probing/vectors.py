"""What a frozen backbone says of each of many images: a vector per layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

SMALLEST_DEVIATION = 1e-6


@dataclass(frozen=True)
class ImageVectors:
    """Vectors of n images.

    Attributes:
        layers: (n, C_i) of each layer, the last layer last: a ViT's class tokens, or the means of a pyramid's maps.
        mean_patch: (n, C), the mean patch token of a ViT's last layer; None of a pyramid.
    """

    layers: tuple[torch.Tensor, ...]
    mean_patch: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.layers[0])

    def joined(self, layers: int, mean_patch: bool) -> torch.Tensor:
        """(n, sum of C) of the last ``layers``, and of the mean patch token.

        Raises:
            ValueError: there are not so many layers, or no patch tokens.
        """
        import torch

        if not 1 <= layers <= len(self.layers) or (mean_patch and self.mean_patch is None):
            raise ValueError(f"{layers} layers, mean patch {mean_patch}, of {len(self.layers)} layers")
        parts = list(self.layers[-layers:])
        if mean_patch and self.mean_patch is not None:
            parts.append(self.mean_patch)
        return torch.cat(parts, dim=1)

    def of(self, rows: Sequence[int] | torch.Tensor) -> ImageVectors:
        """Those of some images."""
        patch = None if self.mean_patch is None else self.mean_patch[rows]
        return ImageVectors(tuple(each[rows] for each in self.layers), patch)

    def parts(self) -> list[torch.Tensor]:
        """All vectors, those of the layers first."""
        return [*self.layers, *([] if self.mean_patch is None else [self.mean_patch])]

    def scaled_like(self, others: ImageVectors) -> ImageVectors:
        """Each channel with the mean and deviation that it has in ``others`` taken off.

        A ViT's tokens come out of a layer norm; a pyramid's maps have any scale, on which one learning rate cannot fit
        all.
        """
        scaled = [
            (part - of_others.mean(dim=0)) / of_others.std(dim=0, correction=0).clamp(min=SMALLEST_DEVIATION)
            for part, of_others in zip(self.parts(), others.parts(), strict=True)
        ]
        return ImageVectors(tuple(scaled[: len(self.layers)]), None if self.mean_patch is None else scaled[-1])
