"""What every task offers to training, inference and the commands, whatever its question."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from fm3d_core.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from typing_extensions import Self

    from fm3d_core.models.backbone import Backbone
    from fm3d_core.models.network import DenseNetwork
    from fm3d_core.volumes import Preprocessing

HEADS = ("auto", "linear", "light", "unetr", "vit_adapter", "mlp")


class Task(Protocol):
    """A question that can be asked of a volume.

    Attributes:
        kind: its name in files; see :data:`fm3d_core.tasks.kinds.TASKS`.
        whole_volume: whether the answer is about the volume as a whole and not about its voxels.
        exclusive: whether the answer is one class for each voxel.
        labels: names of what the answer tells: structures, classes, or the one value.
        classes: numbers that a network gives per voxel, or per volume.
        values: name -> number of it in an answer (a label map's voxel value, a class's index).
        channels: image channels.
        preprocessing: None until training plans it; an adapter's task always has one.
    """

    kind: ClassVar[str]
    whole_volume: ClassVar[bool]
    exclusive: ClassVar[bool]

    @property
    def labels(self) -> tuple[str, ...]: ...

    @property
    def classes(self) -> int: ...

    @property
    def values(self) -> dict[str, int]: ...

    @property
    def channels(self) -> int: ...

    @property
    def preprocessing(self) -> Preprocessing | None: ...

    def check_channels(self, channels: int) -> None:
        """Raise SettingsError unless a volume of so many ``channels`` is what the task is for."""
        ...

    def with_preprocessing(self, preprocessing: Preprocessing) -> Self:
        """The same task with this preprocessing."""
        ...

    def build_network(self, backbone: Backbone, head: str = "auto", *, linear: bool = False) -> DenseNetwork:
        """Backbone and head as one module.

        Args:
            backbone: a token or pyramid backbone.
            head: a name of :data:`HEADS`; "auto" suits task and backbone.
            linear: whether "auto" means a linear head; a method says so.

        Raises:
            SettingsError: unknown head, or one that does not go with this task or backbone.
        """
        ...

    def loss(self) -> Callable[..., Any]:
        """A function of scores, target and what was annotated (:class:`fm3d_core.adaptation.batches.Batch`)."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """As plain data for JSON and YAML, with its ``kind``."""
        ...


class DenseTask(Task, Protocol):
    """A question about every voxel, learned from label maps.

    Attributes:
        drawn: name -> voxel value of what is drawn in a label file that says nothing else; in memory the n-th is n.
    """

    @property
    def drawn(self) -> dict[str, int]: ...


def check_head(name: str) -> None:
    """Raise SettingsError unless ``name`` is one of :data:`HEADS`."""
    if name not in HEADS:
        raise SettingsError(f"unknown head '{name}'", remedy=f"Choose one of: {', '.join(HEADS)}")


def check_channels(expected: int, found: int) -> None:
    """Refuse a volume of another number of channels than a task is for.

    Raises:
        SettingsError: they differ.
    """
    if found != expected:
        raise SettingsError(
            f"the task is for images of {expected} channels, this volume has {found}",
            remedy="Set channels in the task to that of the volumes, and give each volume a file per channel or 4D",
        )


def checked_names(names: tuple[str, ...], what: str, at_least: int = 1) -> tuple[str, ...]:
    """Names without blanks around them.

    Args:
        names: to check.
        what: they are of, in the plural.
        at_least: how many.

    Raises:
        SettingsError: too few, an empty one, or one twice.
    """
    stripped = tuple(str(name).strip() for name in names)
    remedy = "Give each a name of its own, for example: [first, second]"
    if len(stripped) < at_least or not all(stripped):
        raise SettingsError(f"at least {at_least} named {what} are needed", remedy=remedy)
    if len(set(stripped)) != len(stripped):
        raise SettingsError(f"one of the {what} is named twice: {', '.join(stripped)}", remedy=remedy)
    return stripped


def from_plain(kind: type[Any], data: Mapping[str, Any]) -> Any:
    """A task of a dataclass from plain data; the inverse of :func:`to_plain`.

    Raises:
        SettingsError: another kind, an unknown key, a missing one or an impossible value.
    """
    from dataclasses import MISSING, fields

    from fm3d_core.volumes import Preprocessing

    known = {field.name: field for field in fields(kind)}
    needed = [name for name, field in known.items() if field.default is MISSING and field.default_factory is MISSING]
    unknown = set(data) - set(known) - {"kind"}
    if unknown or set(needed) - set(data) or data.get("kind", kind.kind) != kind.kind:
        raise SettingsError(
            f"not a {kind.kind} task (keys: {', '.join(sorted(map(str, data)))})",
            remedy=f"It needs kind: {kind.kind} and {', '.join(needed)}; it may have "
            + ", ".join(name for name in known if name not in needed),
        )
    values = {name: _immutable(value) for name, value in data.items() if name != "kind"}
    if isinstance(data.get("preprocessing"), dict):
        values["preprocessing"] = Preprocessing.from_dict(data["preprocessing"])
    return kind(**values)


def to_plain(task: Any) -> dict[str, Any]:
    """A task of a dataclass as plain data, with its kind."""
    from dataclasses import fields

    values = {field.name: _plain(getattr(task, field.name)) for field in fields(task)}
    return {
        "kind": task.kind,
        **values,
        "preprocessing": task.preprocessing.to_dict() if task.preprocessing is not None else None,
    }


def _immutable(value: Any) -> Any:
    if isinstance(value, dict):
        return tuple((str(name), _immutable(inner)) for name, inner in value.items())
    return tuple(_immutable(inner) for inner in value) if isinstance(value, (list, tuple)) else value


def _plain(value: Any) -> Any:
    return [_plain(inner) for inner in value] if isinstance(value, (list, tuple)) else value
