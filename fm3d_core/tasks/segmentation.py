"""Segmentation with exclusive structures: its labels, head, loss and preprocessing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from fm3d_core.errors import SettingsError
from fm3d_core.strict_settings import read_yaml
from fm3d_core.tasks.dense_heads import dense_head
from fm3d_core.tasks.task import check_channels
from fm3d_core.volumes import IGNORED, Preprocessing

if TYPE_CHECKING:
    from torch import nn

    from fm3d_core.models.backbone import Backbone
    from fm3d_core.models.network import DenseNetwork
    from fm3d_core.tasks.segmentation_loss import SegmentationLoss


@dataclass(frozen=True)
class SegmentationTask:
    """Which structures to segment and how a volume is prepared for it.

    Attributes:
        labels: names of the structures; structure i has voxel value i + 1, background is 0.
        preprocessing: None until training plans it from the cases; an adapter always has one.
        channels: image channels.

    Raises:
        SettingsError: no label, a label twice, an empty name, or more than 254 labels (255 is "not annotated").
    """

    labels: tuple[str, ...]
    preprocessing: Preprocessing | None = None
    channels: int = 1
    kind: ClassVar[str] = "segmentation"
    whole_volume: ClassVar[bool] = False
    exclusive: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", tuple(str(name).strip() for name in self.labels))
        remedy = "Give each structure a name of its own, for example: anterior,posterior"
        if not self.labels or not all(self.labels):
            raise SettingsError("a segmentation task needs at least one named structure", remedy=remedy)
        if len(set(self.labels)) != len(self.labels):
            raise SettingsError(f"a structure is named twice: {', '.join(self.labels)}", remedy=remedy)
        if len(self.labels) >= IGNORED:
            raise SettingsError(f"more than {IGNORED - 1} structures do not fit a label map", remedy="Split the task")

    @property
    def classes(self) -> int:
        """Scores per voxel: background and one per structure."""
        return len(self.labels) + 1

    @property
    def values(self) -> dict[str, int]:
        """Structure name -> voxel value."""
        return {name: index for index, name in enumerate(self.labels, start=1)}

    @property
    def drawn(self) -> dict[str, int]:
        """Structure name -> voxel value in a label file that says nothing else."""
        return self.values

    def check_channels(self, channels: int) -> None:
        """Raise SettingsError unless a volume of so many ``channels`` is what the task is for."""
        check_channels(self.channels, channels)

    def with_preprocessing(self, preprocessing: Preprocessing) -> SegmentationTask:
        """The same task with this preprocessing."""
        return replace(self, preprocessing=preprocessing)

    def build_head(self, backbone: Backbone, head: str = "auto", *, linear: bool = False) -> nn.Module:
        """The head for a backbone.

        Args:
            backbone: whose maps it takes.
            head: a name of :data:`HEADS`. "auto" is linear for a pyramid or if ``linear``; for token maps UNETR's
                decoder, or the light one where the patch is not 16 voxels.
            linear: what "auto" means; a method says so.

        Raises:
            SettingsError: unknown head, or one that does not go with this backbone.
        """
        return dense_head(backbone, self.classes, head, linear=linear)

    def build_network(self, backbone: Backbone, head: str = "auto", *, linear: bool = False) -> DenseNetwork:
        """Backbone and head; see :meth:`fm3d_core.tasks.Task.build_network`."""
        from fm3d_core.models.network import DenseNetwork

        return DenseNetwork(backbone, self.build_head(backbone, head, linear=linear))

    def loss(self) -> SegmentationLoss:
        """Dice plus cross-entropy of scores (B, classes, X, Y, Z) and a label map (B, 1, X, Y, Z)."""
        from fm3d_core.tasks.segmentation_loss import SegmentationLoss

        return SegmentationLoss()

    def to_dict(self) -> dict[str, Any]:
        """As plain data for JSON and YAML."""
        return {
            "kind": self.kind,
            "labels": list(self.labels),
            "channels": self.channels,
            "preprocessing": self.preprocessing.to_dict() if self.preprocessing else None,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SegmentationTask:
        """The inverse of :meth:`to_dict`.

        Raises:
            SettingsError: another kind of task, a missing or an unknown key.
        """
        unknown = set(data) - {"kind", "labels", "channels", "preprocessing"}
        if unknown or "labels" not in data or data.get("kind", cls.kind) != cls.kind:
            raise SettingsError(
                f"not a segmentation task (keys: {', '.join(sorted(data))})",
                remedy="It needs kind: segmentation and labels, and may have channels and preprocessing",
            )
        preprocessing = data.get("preprocessing")
        return cls(
            labels=tuple(data["labels"]),
            preprocessing=Preprocessing.from_dict(preprocessing) if preprocessing else None,
            channels=int(data.get("channels", 1)),
        )

    @classmethod
    def from_yaml(cls, path: str | Path) -> SegmentationTask:
        """Read a task from a YAML file.

        Raises:
            SettingsError: no such file, not YAML, or not a segmentation task.
        """
        data = read_yaml(path, "not a readable task file", "Give a YAML file")
        if not isinstance(data, dict):
            raise SettingsError("not a task", path=path, remedy="Write labels: [name, name, ...]")
        return cls.from_dict(data)

    def to_yaml(self) -> str:
        """The task as YAML text."""
        import yaml

        return str(yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True))
