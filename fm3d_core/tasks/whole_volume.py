"""What the tasks have in common whose answer is about the volume as a whole."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from fm3d_core.errors import CaseError, SettingsError
from fm3d_core.tasks.task import check_channels, check_head, from_plain, to_plain
from fm3d_core.volumes import Preprocessing

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    import torch
    from numpy.typing import NDArray
    from typing_extensions import Self

    from fm3d_core.models.backbone import Backbone
    from fm3d_core.models.network import DenseNetwork

    Numbers = NDArray[np.float64]

Target = tuple[float, ...]
_MISSING = ("", "nan", "na", "n/a", "none", "null", "?")


@dataclass(frozen=True, kw_only=True)
class WholeVolumeTask:
    """A question about a whole volume.

    Attributes:
        preprocessing: None until training plans it from the cases; an adapter always has one.
        channels: image channels.
        crop: voxels of the part that the network sees, cut from the middle, padded where the volume is smaller; in
            training from anywhere. None until training plans it.
        layers: whose class tokens (or how many of a pyramid's coarsest maps) the head sees.
        mean_patch: whether it sees a ViT's mean patch token too.

    Raises:
        SettingsError: an impossible value.
    """

    preprocessing: Preprocessing | None = None
    channels: int = 1
    crop: tuple[int, int, int] | None = None
    layers: int = 1
    mean_patch: bool = False
    kind: ClassVar[str] = ""
    whole_volume: ClassVar[bool] = True
    exclusive: ClassVar[bool] = False
    selected_by: ClassVar[tuple[str, ...]] = ()  # names of what measure() gives, whose mean tells the best network

    def __post_init__(self) -> None:
        if self.channels < 1 or self.layers < 1:
            raise SettingsError("channels and layers are at least 1", remedy="Correct the task")
        if self.crop is not None and (len(self.crop) != 3 or min(self.crop) < 1):
            raise SettingsError(f"crop is {self.crop}", remedy="Give three numbers of voxels")

    if TYPE_CHECKING:  # a field of some tasks, for which a property here would be the default

        @property
        def labels(self) -> tuple[str, ...]:
            """Names of what the answer tells."""

    @property
    @abstractmethod
    def classes(self) -> int:
        """Numbers a network gives per volume."""

    @property
    def values(self) -> dict[str, int]:
        """Name -> its place in the answer."""
        return {name: index for index, name in enumerate(self.labels)}

    @property
    @abstractmethod
    def asked_columns(self) -> tuple[str, ...]:
        """Columns of a data list that :meth:`read_target` reads."""

    @abstractmethod
    def read_target(self, fields: Mapping[str, Any]) -> Target:
        """What a case of a data list is known to be, as numbers.

        Args:
            fields: of the case, such as a row of a CSV file.

        Raises:
            CaseError: it is missing or makes no sense.
        """

    def fit(self, targets: Sequence[Target]) -> Self:
        """The task with what it takes from the targets of the training cases, such as their mean.

        Raises:
            CaseError: nothing can be learned from them.
        """
        return self

    @abstractmethod
    def loss(self) -> Callable[..., torch.Tensor]:
        """Of scores (B, classes), targets (B, T) of :meth:`read_target`, and None."""

    @abstractmethod
    def activate(self, scores: torch.Tensor) -> torch.Tensor:
        """Scores (B, classes) as what may be averaged over views and networks: probabilities or natural units."""

    @abstractmethod
    def describe(self, activated: Sequence[float]) -> dict[str, Any]:
        """The answer for one volume in plain data, from what :meth:`activate` gives for it."""

    @abstractmethod
    def measure(self, activated: Numbers, targets: Numbers) -> dict[str, float]:
        """Figures by name over volumes; NaN where the volumes do not tell.

        Args:
            activated: (n, classes).
            targets: (n, T).
        """

    def check_channels(self, channels: int) -> None:
        """Raise SettingsError unless a volume of so many ``channels`` is what the task is for."""
        check_channels(self.channels, channels)

    def with_preprocessing(self, preprocessing: Preprocessing) -> Self:
        """The same task with this preprocessing."""
        return replace(self, preprocessing=preprocessing)

    def build_network(self, backbone: Backbone, head: str = "auto", *, linear: bool = False) -> DenseNetwork:
        """Backbone and head; see :meth:`fm3d_core.tasks.Task.build_network`.

        "auto" is a linear head if ``linear``, else the two layers of 3DINO's FLARE 2025 entry ("mlp").
        """
        from fm3d_core.models.image_heads import ImageHead, ImageNetwork, pooled_width

        check_head(head)
        if head not in ("auto", "linear", "mlp"):
            raise SettingsError(f"the head {head} answers for voxels, not for whole volumes", remedy="Choose head mlp")
        width = pooled_width(backbone, self.layers, self.mean_patch)
        one = head == "linear" or (head == "auto" and linear)
        return ImageNetwork(backbone, ImageHead(width, self.classes, linear=one), self.layers, self.mean_patch)

    def to_dict(self) -> dict[str, Any]:
        """As plain data for JSON and YAML."""
        return to_plain(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of :meth:`to_dict`.

        Raises:
            SettingsError: another kind, an unknown or missing key, or an impossible value.
        """
        task: Self = from_plain(cls, data)
        return task


def number_in(fields: Mapping[str, Any], column: str) -> float:
    """A finite number of a case.

    Raises:
        CaseError: missing, not a number or not finite.
    """
    value = value_in(fields, column)
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(value, bool) or not math.isfinite(number):
        raise CaseError(f"{column} is {value!r}, which is no number", remedy="Correct the data list")
    return number


def value_in(fields: Mapping[str, Any], column: str) -> Any:
    """What a case has in a column, blanks around it removed.

    Raises:
        CaseError: there is no such column, or nothing in it.
    """
    value = fields.get(column)
    value = value.strip() if isinstance(value, str) else value
    nothing = value is None or (isinstance(value, float) and math.isnan(value))
    if nothing or (isinstance(value, str) and value.lower() in _MISSING):
        known = "" if column in fields else f" (it has {', '.join(map(str, fields)) or 'no fields'})"
        raise CaseError(f"has no {column}{known}", remedy="Fill it in the data list or leave the case out")
    return value


def index_in(value: Any, names: Sequence[str], column: str) -> int:
    """The place of a class that is given by name or, from 0, by number.

    Raises:
        CaseError: it is none of them.
    """
    text = str(value)
    if text in names:
        return names.index(text)
    number = -1.0
    if not isinstance(value, bool):
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = -1.0
    if not (number == int(number) and 0 <= number < len(names)) if math.isfinite(number) else True:
        known = ", ".join(f"{place} {name}" for place, name in enumerate(names))
        raise CaseError(f"{column} is {value!r}, which is no class", remedy=f"The classes are {known}")
    return int(number)
