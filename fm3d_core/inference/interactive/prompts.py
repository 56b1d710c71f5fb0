"""What a person shows: points, scribbles and a box, in the order they came; the last can be taken back."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from fm3d_core.errors import SettingsError
from fm3d_core.volumes import Volume

Position = tuple[float, float, float]
Index = tuple[int, int, int]

FOREGROUND, BACKGROUND = 1, 2  # values of a scribble volume


@dataclass(frozen=True)
class Point:
    """A click.

    Attributes:
        position: RAS in mm.
        positive: whether the structure is there, or is not.
    """

    position: Position
    positive: bool = True


@dataclass(frozen=True)
class Box:
    """Nothing of the structure lies outside of it.

    Attributes:
        low, high: two opposite corners, RAS in mm; along an oblique image's own axes it becomes the box around both.
    """

    low: Position
    high: Position


@dataclass(frozen=True, eq=False)
class Scribbles:
    """Voxels painted by hand.

    Attributes:
        values: (X, Y, Z) on the volume's RAS grid: 1 structure, 2 not the structure, 0 nothing said.
    """

    values: npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Prompts:
    """All prompts so far; never changed, each further one makes a new object.

    Attributes:
        given: points, scribbles and boxes in the order they came. Of several boxes the last counts, of scribbles that
            contradict each other the later.
    """

    given: tuple[Point | Box | Scribbles, ...] = field(default=())

    @classmethod
    def of(
        cls, points: Iterable[Point] = (), *, box: Box | None = None, scribbles: npt.NDArray[np.uint8] | None = None
    ) -> Prompts:
        """A box first, then scribbles, then points: for callers that send all prompts each time."""
        first = [box] if box is not None else []
        second = [Scribbles(scribbles)] if scribbles is not None else []
        return cls((*first, *second, *points))

    def with_point(self, position: Position, positive: bool = True) -> Prompts:
        """These prompts and one more click."""
        return Prompts((*self.given, Point(position, positive)))

    def with_box(self, low: Position, high: Position) -> Prompts:
        """These prompts and a box in place of any before it."""
        return Prompts((*self.given, Box(low, high)))

    def with_scribbles(self, values: npt.NDArray[np.uint8]) -> Prompts:
        """These prompts and painted voxels."""
        return Prompts((*self.given, Scribbles(values)))

    def without_last(self) -> Prompts:
        """What was before the last prompt; empty prompts stay empty."""
        return Prompts(self.given[:-1])

    @property
    def points(self) -> tuple[Point, ...]:
        """The clicks in order."""
        return tuple(each for each in self.given if isinstance(each, Point))

    @property
    def box(self) -> Box | None:
        """The last box."""
        return next((each for each in reversed(self.given) if isinstance(each, Box)), None)

    @property
    def scribbles(self) -> tuple[Scribbles, ...]:
        """All painted voxels in order."""
        return tuple(each for each in self.given if isinstance(each, Scribbles))


@dataclass(frozen=True)
class VoxelPrompts:
    """Prompts on a volume's grid.

    Attributes:
        positive, negative: (n, 3) voxels of the structure and of what it is not, scribbles and clicks together.
        clicks: (n, 3) the positive clicks among them.
        start, stop: the box, half open; None without one.
    """

    positive: npt.NDArray[np.int64]
    negative: npt.NDArray[np.int64]
    clicks: npt.NDArray[np.int64]
    start: Index | None = None
    stop: Index | None = None

    @classmethod
    def on(cls, volume: Volume, prompts: Prompts) -> VoxelPrompts:
        """The voxels that ``prompts`` mean.

        Where a voxel was both, the later prompt counts, and a click more than a scribble.

        Raises:
            SettingsError: a point or box outside of the volume, scribbles of another grid, or numbers that are none.
        """
        said = np.zeros(volume.shape, np.uint8)
        for scribble in prompts.scribbles:
            if scribble.values.shape != volume.shape:
                raise SettingsError(
                    f"the scribbles have {_times(scribble.values.shape)} voxels, the volume {_times(volume.shape)}",
                    remedy="Paint them on the volume's own grid",
                )
            np.copyto(said, scribble.values, where=np.isin(scribble.values, (FOREGROUND, BACKGROUND)))
        for point in prompts.points:
            said[voxel_of(volume, point.position)] = FOREGROUND if point.positive else BACKGROUND
        start, stop = (None, None) if prompts.box is None else voxel_box(volume, prompts.box)
        clicks = [voxel_of(volume, point.position) for point in prompts.points if point.positive]
        clicks = [click for click in clicks if said[click] == FOREGROUND]
        return cls(
            np.argwhere(said == FOREGROUND),
            np.argwhere(said == BACKGROUND),
            np.array(clicks, np.int64).reshape(-1, 3),
            start,
            stop,
        )


def voxel_of(volume: Volume, position: Position) -> Index:
    """The voxel that holds a position.

    Raises:
        SettingsError: it lies outside of the volume, or is no position.
    """
    place = _places(volume, position)
    index = np.floor(place + 0.5).astype(np.int64)
    if (index < 0).any() or (index >= volume.shape).any():
        raise SettingsError(
            f"the point {_in_mm(position)} lies outside of the volume", remedy="Click on the image that is segmented"
        )
    x, y, z = (int(number) for number in index)
    return x, y, z


def voxel_box(volume: Volume, box: Box) -> tuple[Index, Index]:
    """First voxel and the voxel after the last one of the box around all eight corners, cut to the volume.

    Raises:
        SettingsError: it lies outside of the volume, or its corners are no positions.
    """
    ends = np.array([box.low, box.high], np.float64)
    corners = np.array([[ends[i, 0], ends[j, 1], ends[k, 2]] for i in (0, 1) for j in (0, 1) for k in (0, 1)])
    places = np.array([_places(volume, (x, y, z)) for x, y, z in corners])
    start = np.maximum(np.ceil(places.min(axis=0) - 0.5), 0).astype(int)
    stop = np.minimum(np.floor(places.max(axis=0) + 0.5) + 1, volume.shape).astype(int)
    if (start >= stop).any():
        raise SettingsError(
            f"the box from {_in_mm(box.low)} to {_in_mm(box.high)} lies outside of the volume",
            remedy="Draw it around the structure",
        )
    (a, b, c), (d, e, f) = (tuple(int(number) for number in each) for each in (start, stop))
    return (a, b, c), (d, e, f)


def _places(volume: Volume, position: Position) -> npt.NDArray[np.float64]:
    numbers = np.array(position, np.float64)
    if numbers.shape != (3,) or not np.isfinite(numbers).all():
        raise SettingsError(f"{position!r} is no position", remedy="Give three numbers: right, front, up in mm")
    place: npt.NDArray[np.float64] = (np.linalg.inv(volume.affine) @ [*numbers, 1.0])[:3]
    return place


def _in_mm(position: Position) -> str:
    return "(" + ", ".join(f"{number:.1f}" for number in position) + ") mm"


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
