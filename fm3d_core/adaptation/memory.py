"""When memory runs out in a training: the same step in smaller parts, then smaller crops, then the processor, at last
words."""

from __future__ import annotations

import gc
import logging
import math
from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from typing import TYPE_CHECKING, Concatenate, ParamSpec, Protocol, TypeVar, runtime_checkable

from fm3d_core.devices import choose_device
from fm3d_core.errors import MemoryShortageError

if TYPE_CHECKING:
    from fm3d_core.adaptation.adapter import Adapter
    from fm3d_core.adaptation.settings import FinetuneSettings
    from fm3d_core.models.backbone import Size

COARSEST_VOXELS = 8  # of a crop at the backbone's coarsest map, at least: norms need some to compare
_SAID = (
    "can't allocate memory",
    "cannot allocate memory",
    "not enough memory",
    "out of memory",
    "bad_alloc",
    "could not create a primitive",  # oneDNN, when it gets no memory for its own use
)

logger = logging.getLogger(__name__)
_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")
_Data = TypeVar("_Data")


@runtime_checkable
class Halvable(Protocol):
    """A source of batches that can do with less memory."""

    crop: Size

    @property
    def crops(self) -> int:
        """In a batch."""
        ...

    def halve(self) -> bool:
        """Make batches half as large; False where they cannot be smaller."""
        ...


def is_shortage(error: BaseException) -> bool:
    """Whether an error means that memory ran out: the computer's, a process's bound or the GPU's."""
    text = str(error).lower()
    return isinstance(error, MemoryError | MemoryShortageError) or any(words in text for words in _SAID)


class Parts:
    """In how many parts a step is taken, so that its gradient stays that of as many crops as were asked for.

    Args:
        source: of the batches.
    """

    def __init__(self, source: object) -> None:
        self._source = source if isinstance(source, Halvable) else None
        self._crops, self._crop = (source.crops, source.crop) if isinstance(source, Halvable) else (1, (0, 0, 0))

    @property
    def count(self) -> int:
        """1 as long as there is memory."""
        return 1 if self._source is None else math.ceil(self._crops / self._source.crops)

    def save(self) -> None:
        """Give back what can be given back, and halve the batch.

        Raises:
            MemoryShortageError: it cannot be smaller.
        """
        import torch

        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if self._source is None or not self._source.halve():
            raise shortage()

    @property
    def notes(self) -> tuple[str, ...]:
        """What was done, in words; nothing where memory was enough."""
        if self._source is None:
            return ()
        notes = []
        if (crops := self._source.crops) < self._crops:
            notes.append(f"Memory ran out: a step took its {self._crops} crops in {self.count} parts of {crops}")
        if (crop := self._source.crop) != self._crop:
            before, after = (" x ".join(map(str, size)) for size in (self._crop, crop))
            notes.append(f"Memory ran out: crops are of {after} instead of {before} voxels")
        return tuple(notes)


def half_crop(crop: Size, multiple: Size) -> Size | None:
    """The crop with its longest edge about half as long, a multiple still; None where too little would be left."""
    steps = [edge // step for edge, step in zip(crop, multiple, strict=True)]
    longest = max(range(3), key=lambda axis: crop[axis] if steps[axis] > 1 else 0)
    steps[longest] //= 2
    if min(steps) < 1 or math.prod(steps) < COARSEST_VOXELS:
        return None
    x, y, z = (count * step for count, step in zip(steps, multiple, strict=True))
    return x, y, z


def told_in_words(function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """Turn a shortage of memory anywhere in ``function`` into a MemoryShortageError."""

    @wraps(function)
    def told(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        try:
            return function(*args, **kwargs)
        except Exception as error:
            if isinstance(error, MemoryShortageError) or not is_shortage(error):
                raise
            raise shortage() from error

    return told


def or_on_processor(
    learn: Callable[Concatenate[_Data, FinetuneSettings, _Arguments], Adapter],
) -> Callable[Concatenate[_Data, FinetuneSettings, _Arguments], Adapter]:
    """Let a training whose smallest crop is too much for the GPU begin anew on the processor; its card says so."""

    @wraps(learn)
    def learned(
        data: _Data, settings: FinetuneSettings, /, *args: _Arguments.args, **kwargs: _Arguments.kwargs
    ) -> Adapter:
        try:
            return learn(data, settings, *args, **kwargs)
        except MemoryShortageError:
            if choose_device(settings.device).type == "cpu":
                raise
        logger.warning("The GPU's memory is not enough; the training begins anew on the processor")
        adapter = learn(data, replace(settings, device="cpu"), *args, **kwargs)
        notes = (*adapter.card.notes, "The GPU's memory was not enough: trained on the processor")
        return replace(adapter, card=replace(adapter.card, notes=notes))

    return learned


def shortage() -> MemoryShortageError:
    """The error that names the remedies."""
    return MemoryShortageError(
        "the memory is not enough for this training, even for a single small crop at a time",
        remedy="Close other programs, or choose method linear_probe or a smaller backbone",
    )
