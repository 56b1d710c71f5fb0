"""From a Volume to what a network sees, and from what a network says back to the Volume's grid."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fm3d_core.errors import SettingsError, VolumeError
from fm3d_core.volumes.grids import PreparedGrid, Shape, nearest, nearest_known, resampled_shape, trilinear
from fm3d_core.volumes.volume import Volume

if TYPE_CHECKING:
    import torch

BELOW_TISSUE = -1100.0  # Hounsfield units, which begin at -1024 (air); what lies far below is no measurement
CROP_MARGIN = 4  # voxels kept around the foreground, so that its border is seen with some background


@dataclass(frozen=True)
class Preprocessing:
    """How volumes become network input; stored in the adapter, so that training and inference do the same.

    Attributes:
        spacing: voxel size in mm along x, y, z; None keeps the file's own.
        percentiles: these two of the volume's intensities are mapped linearly to -1 and 1, the rest is clipped
            (the 0.05 and 99.95 of the 3DINO recipes).
        window: fixed intensities for -1 and 1 in place of percentiles, in the file's units (CT: -175 to 250 HU).
        crop_foreground: keep only the box around what is brighter than -1 in some channel, with a margin of 4 voxels.
        input_range: what the network is given for -1 and 1; pretrained weights may have seen another range. The
            prepared image itself is in [-1, 1] whatever this says: crops, augmentation and padding count on it, and
            :class:`fm3d_core.models.network.DenseNetwork` maps it.
        size: voxels along x, y, z that every volume is resized to, whatever its extent, in place of ``spacing``; with
            ``crop_foreground`` the box around the foreground is.

    Raises:
        SettingsError: an impossible value.
    """

    spacing: tuple[float, float, float] | None = None
    percentiles: tuple[float, float] = (0.05, 99.95)
    window: tuple[float, float] | None = None
    crop_foreground: bool = True
    input_range: tuple[float, float] = (-1.0, 1.0)
    size: tuple[int, int, int] | None = None

    def __post_init__(self) -> None:
        for name, count in (("spacing", 3), ("percentiles", 2), ("window", 2), ("input_range", 2)):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, _numbers(name, value, count))
        if self.spacing is not None and min(self.spacing) <= 0:
            raise SettingsError(f"spacing is {self.spacing}", remedy="Give three lengths above 0 in mm")
        if self.size is not None:
            object.__setattr__(self, "size", tuple(int(edge) for edge in _numbers("size", self.size, 3)))
            if self.spacing is not None or min(self.size) < 2:
                raise SettingsError(
                    f"size is {self.size}, spacing {self.spacing}",
                    remedy="Give three numbers of voxels, 2 or more, without a spacing",
                )
        if self.percentiles is None or not 0 <= self.percentiles[0] < self.percentiles[1] <= 100:
            raise SettingsError(f"percentiles are {self.percentiles}", remedy="Give two rising numbers from 0 to 100")
        if self.window is not None and not self.window[0] < self.window[1]:
            raise SettingsError(f"window is {self.window}", remedy="Give the lower intensity first")
        if self.input_range is None or not self.input_range[0] < self.input_range[1]:
            raise SettingsError(f"input_range is {self.input_range}", remedy="Give the lower value first")
        if not isinstance(self.crop_foreground, bool):
            raise SettingsError(f"crop_foreground is {self.crop_foreground!r}", remedy="Give true or false")

    def to_dict(self) -> dict[str, Any]:
        """Plain data (numbers, lists, None) for JSON and YAML."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preprocessing:
        """The inverse of :meth:`to_dict`; what is not given keeps its default.

        Raises:
            SettingsError: an unknown name or an impossible value.
        """
        known = [field.name for field in fields(cls)]
        if unknown := sorted(set(values) - set(known)):
            raise SettingsError(
                f"preprocessing has no setting {', '.join(map(str, unknown))}", remedy=f"Known are {', '.join(known)}"
            )
        return cls(**values)

    def prepare(self, volume: Volume) -> PreparedVolume:
        """Resample to ``spacing`` or ``size``, scale each channel's intensities to [-1, 1], crop to the foreground.

        A constant volume becomes -1 everywhere and is not cropped; see :func:`refuse_constant`. A value that a scanner
        has put where it saw nothing is taken for air; see :func:`without_padding`.
        """
        import torch

        shape = volume.shape
        channels = [torch.from_numpy(without_padding(array)) for array in volume.channels]
        if self.size is not None:
            resampled, start, stop = self._resized(channels, self.size)
        else:
            resampled = shape if self.spacing is None else resampled_shape(shape, volume.spacing, self.spacing)
        image = torch.stack([self._scale(trilinear(each, resampled)) for each in channels])
        if self.size is None:
            start, stop = _foreground(image) if self.crop_foreground else ((0, 0, 0), resampled)
        grid = PreparedGrid(shape, resampled, start, stop)
        x, y, z = (step * old / new for step, old, new in zip(volume.spacing, shape, resampled, strict=True))
        return PreparedVolume(image[(slice(None), *grid.crop)].contiguous(), (x, y, z), grid)

    def _resized(self, channels: Sequence[torch.Tensor], size: Shape) -> tuple[Shape, Shape, Shape]:
        """The whole volume's new shape, and the box of ``size`` voxels in it that holds the foreground, or all."""
        import torch

        shape = channels[0].shape
        low, high = (0, 0, 0), (shape[0], shape[1], shape[2])
        if self.crop_foreground:
            low, high = _foreground(torch.stack([self._scale(each) for each in channels]))
        scales = [edge / (last - first) for edge, first, last in zip(size, low, high, strict=True)]
        whole, start, stop = [], [], []
        for axis, scale in enumerate(scales):
            length = max(round(shape[axis] * scale), size[axis])
            begin = min(round(low[axis] * scale), length - size[axis])
            whole.append(length)
            start.append(begin)
            stop.append(begin + size[axis])
        return (whole[0], whole[1], whole[2]), (start[0], start[1], start[2]), (stop[0], stop[1], stop[2])

    def prepare_label(self, label: Volume, prepared: PreparedVolume, *, ignored: int | None = None) -> torch.Tensor:
        """The label map on the grid of its prepared image: (1, X', Y', Z') uint8, nearest neighbour.

        Args:
            label: on its image's grid.
            prepared: of the image.
            ignored: a value that gives way to any other in the same new voxel, see
                :func:`fm3d_core.volumes.grids.nearest_known`.
        """
        import torch

        grid = prepared.grid
        if label.array.shape != grid.original:
            raise ValueError(f"label has shape {label.array.shape}, its image {grid.original}; call check_label first")
        values = (
            nearest(label.array, grid.resampled)
            if ignored is None
            else (nearest_known(label.array, grid.resampled, ignored))
        )
        return torch.from_numpy(np.ascontiguousarray(values[grid.crop])[None])

    def _scale(self, image: torch.Tensor) -> torch.Tensor:
        """Map the window or the percentiles linearly to [-1, 1], clipped.

        Percentiles as in monai.transforms.ScaleIntensityRangePercentiles, but by numpy alone: torch.quantile stops at
        16 million values. Where both fall together (a nearly empty image) the extremes are taken.
        """
        low, high = self.window or (float(value) for value in np.percentile(image.numpy(), self.percentiles))
        if not low < high:
            low, high = float(image.min()), float(image.max())
        if not low < high:
            return image.new_full(image.shape, -1.0)
        return image.sub(low).mul_(2.0 / (high - low)).sub_(1.0).clamp_(-1.0, 1.0)


@dataclass(frozen=True)
class PreparedVolume:
    """What the network sees, and the way back.

    Attributes:
        image: (channels, X', Y', Z') float32 in [-1, 1].
        spacing: voxel size in mm; it differs a little from the one asked for, so that a whole number of voxels fills
            the volume's field of view.
        grid: where the image lies in its volume.
    """

    image: torch.Tensor
    spacing: tuple[float, float, float]
    grid: PreparedGrid

    def restore_segmentation(self, scores: torch.Tensor) -> npt.NDArray[np.uint8]:
        """The class of the highest score for each voxel of the volume.

        Scores, not classes, are interpolated (trilinearly), one class at a time to bound the memory. Outside of the
        crop all is background. Where neither spacing nor crop changed anything this is ``argmax``, voxel for voxel.

        Args:
            scores: (C, X', Y', Z') logits or probabilities of background and C - 1 structures.

        Returns:
            (X, Y, Z) class indices on the volume's RAS grid.
        """
        import torch

        self._require_shape(scores.shape[1:])
        best = self.grid.to_original(scores[0].float())
        winner = torch.zeros(best.shape, dtype=torch.uint8, device=best.device)
        for index in range(1, scores.shape[0]):
            score = self.grid.to_original(scores[index].float())
            winner.masked_fill_(score > best, index)
            best = torch.maximum(best, score)
        result = np.zeros(self.grid.original, np.uint8)
        result[self.grid.inside()] = winner.cpu().numpy()
        return result

    def restore_map(self, values: torch.Tensor, *, outside: float = 0.0) -> npt.NDArray[np.float32]:
        """A map of real values, such as an uncertainty, on the volume's RAS grid, trilinearly.

        Args:
            values: (X', Y', Z').
            outside: the value outside of the crop.

        Returns:
            (X, Y, Z) float32.
        """
        self._require_shape(values.shape)
        result = np.full(self.grid.original, outside, np.float32)
        result[self.grid.inside()] = self.grid.to_original(values.float()).cpu().numpy()
        return result

    def _require_shape(self, shape: torch.Size) -> None:
        if tuple(shape) != tuple(self.image.shape[1:]):
            raise ValueError(f"values have shape {tuple(shape)}, the prepared image {tuple(self.image.shape[1:])}")


def without_padding(array: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The image with the value outside of a CT's round field of view (such as -32768) raised to the lowest one inside.

    Such a value is the lowest one, below air, and farther from the next one than that is from the highest.
    """
    lowest = float(array.min())
    if lowest >= BELOW_TISSUE:
        return array
    inside = array[array > lowest]
    if not inside.size or inside.min() - lowest <= inside.max() - inside.min():
        return array
    return np.maximum(array, inside.min())


def refuse_constant(volume: Volume) -> None:
    """Refuse an image without any contrast, from which nothing can be learned.

    Raises:
        VolumeError: all voxels have the same value.
    """
    flat = [index for index, array in enumerate(volume.channels, start=1) if array.min() == array.max()]
    if flat:
        where = f" of channel {flat[0]}" if volume.others else ""
        raise VolumeError(
            f"has the same value ({volume.channels[flat[0] - 1].flat[0]:g}) in every voxel{where}",
            path=volume.source.path,
            remedy="Leave this case out or export the image again",
        )


def _foreground(image: torch.Tensor) -> tuple[Shape, Shape]:
    """The box around what is brighter than -1 in some channel, with the margin; the whole image when nothing is."""
    foreground = (image > -1.0).any(dim=0)
    start, stop = [], []
    for axis, size in enumerate(foreground.shape):
        others = tuple(other for other in range(3) if other != axis)
        found = foreground.any(dim=others[1]).any(dim=others[0]).nonzero().flatten()
        start.append(max(0, int(found[0]) - CROP_MARGIN) if found.numel() else 0)
        stop.append(min(size, int(found[-1]) + 1 + CROP_MARGIN) if found.numel() else size)
    return (start[0], start[1], start[2]), (stop[0], stop[1], stop[2])


def _numbers(name: str, value: Any, count: int) -> tuple[float, ...]:
    try:
        numbers = tuple(float(number) for number in value)
    except (TypeError, ValueError):
        numbers = ()
    if len(numbers) != count or not all(math.isfinite(number) for number in numbers):
        raise SettingsError(f"{name} is {value!r}", remedy=f"Give {count} numbers")
    return numbers
