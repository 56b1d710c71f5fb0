"""Segmentation of regions that overlap, such as the tumour and its core: each is a union of label values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from fm3d_core.errors import SettingsError
from fm3d_core.tasks.dense_heads import dense_head
from fm3d_core.tasks.task import check_channels, checked_names, from_plain, to_plain
from fm3d_core.volumes import IGNORED, Preprocessing

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch

    from fm3d_core.models.backbone import Backbone
    from fm3d_core.models.network import DenseNetwork


@dataclass(frozen=True)
class RegionsTask:
    """Which regions to segment, each with a probability of its own.

    Attributes:
        regions: name and the label values that make up the region, from large to small: ``("WT", (1, 2, 4))``.
        preprocessing: None until training plans it from the cases; an adapter always has one.
        channels: image channels.

    Raises:
        SettingsError: no region, one without values, or values that no label map has.
    """

    regions: tuple[tuple[str, tuple[int, ...]], ...]
    preprocessing: Preprocessing | None = None
    channels: int = 1
    kind: ClassVar[str] = "regions"
    whole_volume: ClassVar[bool] = False
    exclusive: ClassVar[bool] = False

    def __post_init__(self) -> None:
        names = checked_names(tuple(name for name, _ in self.regions), "regions")
        parts = tuple(tuple(sorted({int(value) for value in values})) for _, values in self.regions)
        if not all(parts) or not all(0 < value < IGNORED for values in parts for value in values):
            raise SettingsError("a region needs label values from 1 to 254", remedy="Write WT: [1, 2, 4]")
        object.__setattr__(self, "regions", tuple(zip(names, parts, strict=True)))

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the regions."""
        return tuple(name for name, _ in self.regions)

    @property
    def classes(self) -> int:
        """Scores per voxel: one per region."""
        return len(self.regions)

    @property
    def drawn(self) -> dict[str, int]:
        """Name -> voxel value of what is drawn in a label file: the parts of the regions."""
        values = sorted({value for _, parts in self.regions for value in parts})
        return {f"label {value}": value for value in values}

    @property
    def values(self) -> dict[str, int]:
        """Region -> the voxel value it has in a label map, where a later region is painted over an earlier one.

        It is a value of the region that no later one has, else its first (nnU-Net's order of region classes).
        """
        found = {}
        for index, (name, parts) in enumerate(self.regions):
            later = {value for _, others in self.regions[index + 1 :] for value in others}
            found[name] = next((value for value in parts if value not in later), parts[0])
        return found

    def check_channels(self, channels: int) -> None:
        """Raise SettingsError unless a volume of so many ``channels`` is what the task is for."""
        check_channels(self.channels, channels)

    def with_preprocessing(self, preprocessing: Preprocessing) -> RegionsTask:
        """The same task with this preprocessing."""
        return replace(self, preprocessing=preprocessing)

    def build_network(self, backbone: Backbone, head: str = "auto", *, linear: bool = False) -> DenseNetwork:
        """Backbone and head; see :meth:`fm3d_core.tasks.Task.build_network`."""
        from fm3d_core.models.network import DenseNetwork

        return DenseNetwork(backbone, dense_head(backbone, self.classes, head, linear=linear))

    def loss(self) -> Callable[..., torch.Tensor]:
        """Sigmoid Dice of scores (B, regions, X, Y, Z) and a label map (B, 1, X, Y, Z); see :class:`RegionsLoss`."""
        from fm3d_core.tasks.regions_loss import RegionsLoss

        return RegionsLoss(self.membership())

    def membership(self) -> npt.NDArray[np.bool_]:
        """(1 + parts, regions): which regions the n-th of :attr:`drawn` belongs to; the first row is background."""
        import numpy as np

        rows = [[value in parts for _, parts in self.regions] for value in self.drawn.values()]
        return np.array([[False] * self.classes, *rows])

    def painted(self, masks: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
        """Region masks (regions, X, Y, Z) as one label map with :attr:`values`."""
        import numpy as np

        label = np.zeros(masks.shape[1:], np.uint8)
        for mask, value in zip(masks, self.values.values(), strict=True):
            label[mask] = value
        return label

    def to_dict(self) -> dict[str, Any]:
        """As plain data for JSON and YAML."""
        return {**to_plain(self), "regions": {name: list(parts) for name, parts in self.regions}}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> RegionsTask:
        """The inverse of :meth:`to_dict`.

        Raises:
            SettingsError: another kind, an unknown or missing key, or an impossible value.
        """
        task: RegionsTask = from_plain(cls, data)
        return task
