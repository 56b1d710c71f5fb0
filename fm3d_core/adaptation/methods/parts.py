"""Decoder and bottleneck of a pyramid backbone: frozen, finetuned, or new, whatever the method does with the rest.

FSEFT's options --decoder and --bottleneck (Silva-Rodriguez et al. 2025): for a structure that the pretraining did not
know, its recipe is LoRA in the encoder with the decoder finetuned.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

from fm3d_core.adaptation.methods.base import AfterStep, Method, OwnOptimiser
from fm3d_core.adaptation.methods.full import Full
from fm3d_core.errors import SettingsError

if TYPE_CHECKING:
    from torch import nn

    from fm3d_core.models.network import DenseNetwork

PartChoice = Literal["auto", "frozen", "finetuned", "new"]
PART_CHOICES: tuple[PartChoice, ...] = get_args(PartChoice)
_TRAINING = ("finetuned", "new")


class WithParts:
    """A method with choices of its own for parts of the backbone.

    Args:
        method: does the rest.
        decoder, bottleneck: auto leaves the part to the method, frozen keeps its pretrained weights, finetuned trains
            all of them, new trains it from random ones.
    """

    def __init__(self, method: Method, decoder: PartChoice, bottleneck: PartChoice) -> None:
        self.method = method
        self.choices: dict[str, PartChoice] = {"decoder": decoder, "bottleneck": bottleneck}
        trains = any(choice in _TRAINING for choice in self.choices.values())
        self.name, self.about, self.linear_head = method.name, method.about, method.linear_head
        self.frozen_backbone = method.frozen_backbone and not trains
        if isinstance(method, OwnOptimiser):
            self.optimiser = method.optimiser
        # a head alone bears a larger step than convolutions do
        self.learning_rate = min(method.learning_rate, Full.learning_rate) if trains else method.learning_rate

    def apply(self, network: DenseNetwork) -> None:
        """Renew what is to be new, let the method do its part, and set what trains.

        Raises:
            SettingsError: the backbone has no such part.
        """
        chosen = {part: _modules(network, part) for part, choice in self.choices.items() if choice != "auto"}
        for part, modules in chosen.items():
            if self.choices[part] == "new":
                renew(modules)
        self.method.apply(network)
        for part, modules in chosen.items():
            for module in modules:
                module.requires_grad_(self.choices[part] in _TRAINING)


class WithPartsAfterStep(WithParts):
    """The same for a method that changes parameters itself after each step."""

    def after_step(self, network: DenseNetwork, learning_rate: float) -> None:
        """What the method does."""
        assert isinstance(self.method, AfterStep)
        self.method.after_step(network, learning_rate)


def with_parts(method: Method, decoder: PartChoice, bottleneck: PartChoice) -> Method:
    """The method with these choices; see :class:`WithParts`."""
    if decoder == bottleneck == "auto":
        return method
    return (WithPartsAfterStep if isinstance(method, AfterStep) else WithParts)(method, decoder, bottleneck)


def is_plain_probe(network: DenseNetwork, decoder: PartChoice, bottleneck: PartChoice) -> bool:
    """Whether the network's head, before any training, is a linear one on the backbone as it was: no part is new."""
    from fm3d_core.models.heads import LinearHead

    return isinstance(network.head, LinearHead) and "new" not in (decoder, bottleneck)


def renew(modules: list[nn.Module]) -> None:
    """Random weights, as the layers' own classes draw them, in place."""
    for module in modules:
        for layer in module.modules():
            if callable(reset := getattr(layer, "reset_parameters", None)):
                reset()


def _modules(network: DenseNetwork, part: str) -> list[nn.Module]:
    names = network.backbone.parts().get(part, [])
    if not names:
        raise SettingsError(
            f"this backbone has no {part} of its own", remedy=f"Leave --{part} out; its decoder is the head (--head)"
        )
    return [network.backbone.get_submodule(name) for name in names]
