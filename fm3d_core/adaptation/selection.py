"""Looking at validation cases while training goes on, and keeping the weights that did best on them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from fm3d_core.errors import SettingsError
from fm3d_core.tasks.metrics import selection_score

if TYPE_CHECKING:
    import torch

    from fm3d_core.models.network import DenseNetwork

Measure = Callable[["DenseNetwork"], Mapping[str, float]]


class Selection:
    """The best state of a network in training.

    Args:
        network: what trains.
        measure: figures of the network on validation cases; called in evaluation mode.
        names: of the figures whose mean (of an error its negative) is to be largest.
        every: steps between two looks.

    Attributes:
        best: figures of the best state; empty before the first look.
        step: of the best state.

    Raises:
        SettingsError: an impossible value.
    """

    def __init__(self, network: DenseNetwork, measure: Measure, names: Sequence[str], every: int) -> None:
        if every < 1 or not names:
            raise SettingsError(f"validation every {every} steps by {names}", remedy="Give 1 or more, and a figure")
        self.network, self.names, self.every = network, tuple(names), every
        self._measure = measure
        self._score = -math.inf
        self._state: dict[str, torch.Tensor] = {}
        self._looked = -1
        self.best: dict[str, float] = {}
        self.step = 0

    def due(self, step: int) -> bool:
        """Whether a look is due after so many steps."""
        return step % self.every == 0

    def look(self, step: int) -> dict[str, float]:
        """Measure, and keep the weights if they are the best so far; what cannot be measured does not count.

        Raises:
            SettingsError: a figure is asked for that the task does not have.
        """
        if step == self._looked:
            return self.best
        self._looked = step
        with evaluated(self.network):
            figures = dict(self._measure(self.network))
        if missing := [name for name in self.names if name not in figures]:
            raise SettingsError(f"the task has no figure {', '.join(missing)}", remedy=f"It has {', '.join(figures)}")
        score = selection_score(figures, self.names)
        if score > self._score or not self._state:
            self._score = -math.inf if math.isnan(score) else score
            self.best, self.step = figures, step
            self._state = {name: tensor.detach().clone() for name, tensor in self._trained().items()}
        return figures

    def restore(self) -> None:
        """Give the network its best weights, in place; without a look they stay."""
        import torch

        with torch.no_grad():
            for name, tensor in self._trained().items():
                if name in self._state:
                    tensor.copy_(self._state[name])

    def _trained(self) -> dict[str, torch.Tensor]:
        from fm3d_core.adaptation.adapter import trained_tensors

        return trained_tensors(self.network)


@contextmanager
def evaluated(network: torch.nn.Module) -> Iterator[None]:
    """The network in evaluation mode, and afterwards each module in the mode it was in."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
