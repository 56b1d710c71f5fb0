"""Segmentation and classification from one pass: what is where, and what it means for the patient."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from fm3d_core.errors import SettingsError
from fm3d_core.tasks.classification import ClassificationTask
from fm3d_core.tasks.dense_heads import dense_head
from fm3d_core.tasks.segmentation import SegmentationTask
from fm3d_core.tasks.task import check_channels, checked_names, from_plain, to_plain
from fm3d_core.tasks.whole_volume import Target
from fm3d_core.volumes import Preprocessing

if TYPE_CHECKING:
    import torch

    from fm3d_core.models.backbone import Backbone
    from fm3d_core.models.network import DenseNetwork


@dataclass(frozen=True)
class JointTask:
    """Which structures to segment, and which class the volume belongs to.

    3DINO's FLARE 2025 entry for EMIDEC: the class is learned on crops that show enough of the structures, and read from
    one crop in the middle of what was segmented.

    Attributes:
        labels: names of the structures; structure i has voxel value i + 1, background is 0.
        image_labels: names of the classes of volumes.
        column: of a data list in which a case's class stands, by name or by number from 0.
        foreground: least share of a crop's voxels that are of a structure for its class to count.
        preprocessing: None until training plans it from the cases; an adapter always has one.
        channels: image channels.

    Raises:
        SettingsError: too few names, one twice, or an impossible value.
    """

    labels: tuple[str, ...]
    image_labels: tuple[str, ...]
    column: str = "class"
    foreground: float = 0.01
    preprocessing: Preprocessing | None = None
    channels: int = 1
    kind: ClassVar[str] = "joint"
    whole_volume: ClassVar[bool] = False
    exclusive: ClassVar[bool] = True
    selected_by: ClassVar[tuple[str, ...]] = ("dice", "balanced_accuracy", "auc")

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", SegmentationTask(self.labels).labels)
        object.__setattr__(self, "image_labels", checked_names(self.image_labels, "classes", 2))
        if not 0 <= self.foreground < 1:
            raise SettingsError(f"foreground is {self.foreground}", remedy="Give a share from 0 to below 1")

    @property
    def segmentation(self) -> SegmentationTask:
        """The part about voxels."""
        return SegmentationTask(self.labels, self.preprocessing, self.channels)

    @property
    def classification(self) -> ClassificationTask:
        """The part about the whole volume."""
        return ClassificationTask(
            self.image_labels, self.column, preprocessing=self.preprocessing, channels=self.channels
        )

    @property
    def classes(self) -> int:
        """Scores per voxel: background and one per structure."""
        return self.segmentation.classes

    @property
    def values(self) -> dict[str, int]:
        """Structure name -> voxel value."""
        return self.segmentation.values

    @property
    def drawn(self) -> dict[str, int]:
        """Structure name -> voxel value in a label file."""
        return self.segmentation.drawn

    @property
    def asked_columns(self) -> tuple[str, ...]:
        """Columns of a data list that :meth:`read_target` reads."""
        return (self.column,)

    def read_target(self, fields: Mapping[str, Any]) -> Target:
        """The class's index; see :meth:`fm3d_core.tasks.whole_volume.WholeVolumeTask.read_target`."""
        return self.classification.read_target(fields)

    def check_channels(self, channels: int) -> None:
        """Raise SettingsError unless a volume of so many ``channels`` is what the task is for."""
        check_channels(self.channels, channels)

    def with_preprocessing(self, preprocessing: Preprocessing) -> JointTask:
        """The same task with this preprocessing."""
        return replace(self, preprocessing=preprocessing)

    def build_network(self, backbone: Backbone, head: str = "auto", *, linear: bool = False) -> DenseNetwork:
        """Backbone and heads; see :meth:`fm3d_core.tasks.Task.build_network`.

        ``head`` is that of the voxels; "mlp" goes with "auto". The whole volume has two layers, or one if ``linear``.
        """
        from fm3d_core.models.image_heads import ImageHead, JointHead, JointNetwork, pooled_width

        if head == "vit_adapter":
            raise SettingsError(
                "the head vit_adapter runs the backbone itself and leaves no class token for the volume",
                remedy="Choose head unetr, light, linear or auto",
            )
        dense = dense_head(backbone, self.classes, "auto" if head == "mlp" else head, linear=linear)
        image = ImageHead(pooled_width(backbone), len(self.image_labels), linear=linear)
        return JointNetwork(backbone, JointHead(dense, image))

    def loss(self) -> Callable[..., torch.Tensor]:
        """The sum of both parts' losses, of ((B, classes, X, Y, Z), (B, image_labels)) scores."""
        from fm3d_core.tasks.joint_loss import JointLoss

        return JointLoss(self.foreground)

    def to_dict(self) -> dict[str, Any]:
        """As plain data for JSON and YAML."""
        return to_plain(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> JointTask:
        """The inverse of :meth:`to_dict`.

        Raises:
            SettingsError: another kind, an unknown or missing key, or an impossible value.
        """
        task: JointTask = from_plain(cls, data)
        return task
