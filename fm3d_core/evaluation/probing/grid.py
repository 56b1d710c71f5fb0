"""The linear probe of 3DINO: many linear heads with other learning rates and features, all trained at once.

Xu et al. 2025 (3DINO), after Oquab et al. 2023 (DINOv2, appendix B.3): 13 learning rates, the class tokens of the last
1 to 4 layers, with and without the mean patch token: 104 settings, SGD with momentum 0.9, no weight decay, cosine to 0,
12,500 iterations of 32 images; the best on validation images is taken. Weights begin normal with deviation 0.01.

All settings see the same batches. Two things make them cheap. Settings of the same features are one product. And with
fewer images than features, weights are kept as what they are: W = W0 + X'A, a sum of training images. A head's score of
an image is then G A with the products G = XX' of all images, computed once, and a step changes A only where the batch
is; there is no product with features at all in an iteration. Both are the same numbers up to rounding.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from fm3d_core.errors import SettingsError, Stopped
from fm3d_core.progress import ProgressCallback, ShouldStop, StageClock, ignore_progress, never_stop

if TYPE_CHECKING:
    import torch

    from fm3d_core.evaluation.probing.vectors import ImageVectors

    Loss = Callable[[torch.Tensor, torch.Tensor, None], torch.Tensor]

LEARNING_RATES = (1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.2, 0.3, 0.5)
INITIAL_DEVIATION = 0.01
MOST_PRODUCTS = 1.5e8  # entries of G of all features together: 0.6 GB
REPORT_EVERY = 100


@dataclass(frozen=True)
class ProbeSetting:
    """One head: what it sees and how fast it learns."""

    layers: int
    mean_patch: bool
    learning_rate: float


@dataclass(frozen=True)
class ProbeGrid:
    """All combinations of learning rates and features, and how they are trained.

    Attributes:
        learning_rates: of SGD.
        layers: how many of the last layers.
        mean_patch: whether the mean patch token is seen too.
        iterations: steps.
        batch_size: images per step; all images if there are fewer.
        momentum: of SGD.
        seed: of the first weights and of the batches.

    Raises:
        SettingsError: an impossible value.
    """

    learning_rates: tuple[float, ...] = LEARNING_RATES
    layers: tuple[int, ...] = (1, 2, 3, 4)
    mean_patch: tuple[bool, ...] = (False, True)
    iterations: int = 12_500
    batch_size: int = 32
    momentum: float = 0.9
    seed: int = 0

    def __post_init__(self) -> None:
        named = {"learning_rates": self.learning_rates, "layers": self.layers, "mean_patch": self.mean_patch}
        for name, values in named.items():
            if not values or len(set(values)) < len(values):
                raise SettingsError(f"{name} is {values}", remedy="Give at least one value, each once")
        if not all(0 < rate <= 100 for rate in self.learning_rates) or min(self.layers) < 1:
            raise SettingsError("a learning rate is not above 0, or layers below 1", remedy="Correct the grid")
        if self.iterations < 1 or self.batch_size < 1 or not 0 <= self.momentum < 1:
            raise SettingsError("iterations and batch size are at least 1, momentum 0 to 1", remedy="Correct the grid")

    @property
    def features(self) -> list[tuple[int, bool]]:
        """What is seen: (layers, mean patch)."""
        return list(itertools.product(self.layers, self.mean_patch))

    @property
    def settings(self) -> list[ProbeSetting]:
        """All of them, by features and then learning rate."""
        return [ProbeSetting(*features, rate) for features in self.features for rate in self.learning_rates]

    def rate(self, step: int) -> float:
        """By what the learning rates are multiplied at a step: a cosine from 1 to 0."""
        return 0.5 * (1 + math.cos(math.pi * step / self.iterations))


@dataclass(frozen=True)
class LinearProbe:
    """A trained head.

    Attributes:
        setting: how it was trained.
        weight: (outputs, C).
        bias: (outputs,).
    """

    setting: ProbeSetting
    weight: torch.Tensor
    bias: torch.Tensor

    def scores(self, vectors: ImageVectors) -> torch.Tensor:
        """(n, outputs), without a final activation."""
        return vectors.joined(self.setting.layers, self.setting.mean_patch) @ self.weight.T + self.bias


def train_probes(
    vectors: ImageVectors,
    targets: torch.Tensor,
    outputs: int,
    loss: Loss,
    grid: ProbeGrid,
    *,
    progress: ProgressCallback = ignore_progress,
    should_stop: ShouldStop = never_stop,
) -> list[LinearProbe]:
    """Train every setting of a grid.

    Args:
        vectors: of the n training images; their device and precision are those of the training.
        targets: (n, T) of the images.
        outputs: numbers that a head gives.
        loss: mean over the rows of scores (B, outputs) and targets (B, T); the third argument is None.
        grid: the settings.
        progress: receives the stage "training N probes".
        should_stop: asked now and then.

    Returns:
        One head per setting, in the order of ``grid.settings``.

    Raises:
        Stopped: ``should_stop`` said so.
    """
    import torch

    inputs = [vectors.joined(*features) for features in grid.features]
    first = [initial_weight(each.shape[1], outputs, grid.seed).to(each) for each in inputs]
    images = len(vectors)
    products = len(inputs) * images
    few = products < 2 * sum(each.shape[1] for each in inputs) and products * images <= MOST_PRODUCTS
    form: _Form = (_OfImages if few else _OfFeatures)(inputs, first, outputs, grid)
    rates = torch.tensor(grid.learning_rates, dtype=inputs[0].dtype, device=inputs[0].device)
    count = len(grid.settings)
    clock = StageClock(f"training {count} probe{'s' * (count > 1)}", grid.iterations, progress)
    for step, batch in enumerate(batches(images, grid)):
        if step % REPORT_EVERY == 0:
            if should_stop():
                raise Stopped("The probe")
            clock.report(step)
        rows = batch.to(rates.device)
        with torch.enable_grad():
            scores = form.scores(rows).detach().requires_grad_()  # (features, B, rates, outputs)
            repeated = targets[rows][None, :, None].expand(*scores.shape[:3], -1).flatten(0, 2)
            # the mean over all settings, times their number: each setting's own mean
            (gradient,) = torch.autograd.grad(loss(scores.flatten(0, 2), repeated, None) * count, scores)
        form.learn(rows, gradient, rates * grid.rate(step))
    clock.report(grid.iterations)
    return [
        LinearProbe(ProbeSetting(*features, rate), weight, bias)
        for features, (weights, biases) in zip(grid.features, form.heads(), strict=True)
        for rate, weight, bias in zip(grid.learning_rates, weights, biases, strict=True)
    ]


def batches(images: int, grid: ProbeGrid) -> Iterator[torch.Tensor]:
    """The rows of each step's batch: one random order of all images after the other."""
    import torch

    generator = torch.Generator().manual_seed(grid.seed)
    size = min(grid.batch_size, images)
    waiting = torch.empty(0, dtype=torch.long)
    for _ in range(grid.iterations):
        while len(waiting) < size:
            waiting = torch.cat([waiting, torch.randperm(images, generator=generator)])
        batch, waiting = waiting[:size], waiting[size:]
        yield batch


def initial_weight(width: int, outputs: int, seed: int) -> torch.Tensor:
    """(outputs, width) that a head begins with, the same for each learning rate; biases begin with 0."""
    import torch

    return torch.randn(outputs, width, generator=torch.Generator().manual_seed(seed)) * INITIAL_DEVIATION


class _Form(Protocol):
    """How the weights of all settings are kept."""

    def scores(self, rows: torch.Tensor) -> torch.Tensor:
        """(features, B, rates, outputs) of some training images."""
        ...

    def learn(self, rows: torch.Tensor, gradient: torch.Tensor, rates: torch.Tensor) -> None:
        """One step of SGD with momentum, of the gradient by those scores."""
        ...

    def heads(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """For each kind of features: weights (rates, outputs, C) and biases (rates, outputs)."""
        ...


class _OfImages:
    """Weights as sums of training images: a head has as many numbers as there are images."""

    def __init__(
        self, inputs: Sequence[torch.Tensor], first: Sequence[torch.Tensor], outputs: int, grid: ProbeGrid
    ) -> None:
        import torch

        self._inputs, self._first, self._outputs, self._momentum = inputs, first, outputs, grid.momentum
        self._products = torch.stack([each @ each.T + 1 for each in inputs])  # + 1: the bias, a feature that is 1
        self._begun = torch.stack([each @ weight.T for each, weight in zip(inputs, first, strict=True)])
        self._shape = (len(grid.learning_rates), outputs)
        self._shares = inputs[0].new_zeros(len(inputs), len(inputs[0]), math.prod(self._shape))
        self._velocity = torch.zeros_like(self._shares)

    def scores(self, rows: torch.Tensor) -> torch.Tensor:
        import torch

        learned = torch.bmm(self._products.index_select(1, rows), self._shares).unflatten(2, self._shape)
        return learned + self._begun.index_select(1, rows)[:, :, None]

    def learn(self, rows: torch.Tensor, gradient: torch.Tensor, rates: torch.Tensor) -> None:
        self._velocity.mul_(self._momentum).index_add_(1, rows, gradient.flatten(2))
        self._shares.addcmul_(self._velocity, rates.repeat_interleave(self._outputs), value=-1)

    def heads(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        found = []
        for each, first, shares in zip(self._inputs, self._first, self._shares, strict=True):
            learned = (shares.T @ each).unflatten(0, self._shape)
            found.append((first + learned, shares.sum(dim=0).unflatten(0, self._shape)))
        return found


class _OfFeatures:
    """Weights as such, side by side for all learning rates; the last feature is 1 and bears the bias."""

    def __init__(
        self, inputs: Sequence[torch.Tensor], first: Sequence[torch.Tensor], outputs: int, grid: ProbeGrid
    ) -> None:
        import torch

        self._inputs = [torch.cat([each, each.new_ones(len(each), 1)], dim=1) for each in inputs]
        self._shape, self._momentum = (len(grid.learning_rates), outputs), grid.momentum
        begun = [torch.cat([weight, weight.new_zeros(outputs, 1)], dim=1) for weight in first]
        self._weights = [weight.T.repeat(1, self._shape[0]) for weight in begun]  # (C + 1, rates * outputs)
        self._velocity = [torch.zeros_like(weight) for weight in self._weights]
        self._batch: list[torch.Tensor] = []

    def scores(self, rows: torch.Tensor) -> torch.Tensor:
        import torch

        self._batch = [each.index_select(0, rows) for each in self._inputs]
        found = [batch @ weight for batch, weight in zip(self._batch, self._weights, strict=True)]
        return torch.stack(found).unflatten(2, self._shape)

    def learn(self, rows: torch.Tensor, gradient: torch.Tensor, rates: torch.Tensor) -> None:
        steps = rates.repeat_interleave(self._shape[1])
        for batch, weight, velocity, each in zip(
            self._batch, self._weights, self._velocity, gradient.flatten(2), strict=True
        ):
            velocity.mul_(self._momentum).addmm_(batch.T, each)
            weight.addcmul_(velocity, steps, value=-1)

    def heads(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        wide = [weight.T.unflatten(0, self._shape) for weight in self._weights]
        return [(weight[..., :-1].clone(), weight[..., -1].clone()) for weight in wide]
