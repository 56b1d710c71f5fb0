"""What a finetuning method is."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import nn

    from fm3d_core.models.network import DenseNetwork


OptimiserName = Literal["adamw", "muon"]  # see fm3d_core.adaptation.optimisers


class Method(Protocol):
    """Decides which parameters of a network train.

    Attributes:
        name: the method's name in settings and adapters.
        about: one line for users.
        learning_rate: of AdamW, unless the user says otherwise.
        linear_head: whether the head is linear even for token backbones.
        frozen_backbone: whether the backbone stays untouched, so that its features are computed once.
    """

    name: str
    about: str
    learning_rate: float
    linear_head: bool
    frozen_backbone: bool

    def apply(self, network: DenseNetwork) -> None:
        """Inject what the method adds and set ``requires_grad`` of every parameter, in place."""
        ...


@runtime_checkable
class AfterStep(Protocol):
    """What a method has besides, if it changes parameters itself after each step of the optimiser."""

    def after_step(self, network: DenseNetwork, learning_rate: float) -> None:
        """Change the network's parameters in place; ``learning_rate`` is that of the step."""
        ...


@runtime_checkable
class OwnOptimiser(Protocol):
    """What a method has besides, if it trains by another optimiser than AdamW.

    Attributes:
        optimiser: its name.
    """

    optimiser: OptimiserName


def optimiser_of_method(method: Method) -> OptimiserName:
    """AdamW, unless the method says otherwise."""
    return method.optimiser if isinstance(method, OwnOptimiser) else "adamw"


def train_only(network: DenseNetwork, parameters: Iterable[nn.Parameter]) -> None:
    """Make ``parameters`` and the head's trainable, and no others."""
    network.requires_grad_(False)
    network.head.requires_grad_(True)
    for parameter in parameters:
        parameter.requires_grad_(True)
