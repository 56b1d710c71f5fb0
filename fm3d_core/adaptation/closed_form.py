"""A linear head solved in one go: ridge regression on the features of some voxels, before any training step.

Hoerl and Kennard 1970 (ridge regression); as the head of few-shot learning: Bertinetto et al. 2019 ("Meta-learning with
differentiable closed-form solvers"). One-hot classes are the regression's targets; a factor turns its results into
logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from fm3d_core.adaptation.batches import VoxelSource
from fm3d_core.errors import Stopped
from fm3d_core.models.heads import AdaptedHead, LinearHead
from fm3d_core.models.network import DenseNetwork
from fm3d_core.models.voxel_features import draw_voxels, features_at
from fm3d_core.progress import ProgressCallback, ShouldStop, StageClock
from fm3d_core.volumes import IGNORED

BATCHES = 8  # that voxels are taken from; the last quarter chooses among the following
VOXELS = 1500  # of each image
RIDGES = (1e-3, 1e-2, 1e-1, 1.0)  # on standardised features
BALANCES = (0.0, 0.5, 1.0)  # a class of n voxels weighs n^(1 - balance): least squares hardly sees a small class
CONSTANT = 1e-6  # penalty on it: too little to matter
FACTORS = (2.0, 4.0, 8.0, 16.0)


@dataclass(frozen=True)
class Voxels:
    """What the regression learns from.

    Attributes:
        features: (n, C).
        labels: (n,) int64.
        share: (n,) how many voxels of its image each stands for.
    """

    features: torch.Tensor
    labels: torch.Tensor
    share: torch.Tensor

    def chosen(self, which: torch.Tensor) -> Voxels:
        """The voxels where ``which`` (n,) is True."""
        return Voxels(self.features[which], self.labels[which], self.share[which])

    @classmethod
    def joined(cls, parts: Sequence[Voxels]) -> Voxels:
        """All voxels of ``parts``."""
        features, labels, share = (
            torch.cat([getattr(part, name) for part in parts]) for name in ("features", "labels", "share")
        )
        return cls(features, labels, share)


@dataclass(frozen=True)
class Solution:
    """Logits are ``features @ weight + bias``; weight (C, classes), bias (classes,)."""

    weight: torch.Tensor
    bias: torch.Tensor

    def times(self, factor: float) -> Solution:
        """Logits multiplied by ``factor``."""
        return Solution(self.weight * factor, self.bias * factor)

    def to(self, voxels: Voxels) -> Solution:
        """Of the same type and on the same device as the features of ``voxels``."""
        return Solution(self.weight.to(voxels.features), self.bias.to(voxels.features))

    def logits(self, voxels: Voxels) -> torch.Tensor:
        """(n, classes)."""
        return voxels.features @ self.weight + self.bias

    def loss(self, voxels: Voxels) -> float:
        """Cross-entropy, each voxel counting for those it stands for."""
        each = F.cross_entropy(self.logits(voxels), voxels.labels, reduction="none")
        return float((each * voxels.share).sum() / voxels.share.sum())

    def dice(self, voxels: Voxels) -> float:
        """Mean Dice of the structures (class 1 and up) that occur, each voxel counting for those it stands for."""
        predicted = self.logits(voxels).argmax(1)
        scores = []
        for structure in voxels.labels.unique().tolist():
            if structure == 0:
                continue
            found, true = predicted == structure, voxels.labels == structure
            both = voxels.share[found & true].sum()
            scores.append(float(2 * both / (voxels.share[found].sum() + voxels.share[true].sum())))
        return sum(scores) / len(scores) if scores else 0.0


def can_be_solved(network: DenseNetwork) -> bool:
    """Whether the network's head is linear in the backbone's features, at least before its first training step."""
    return isinstance(linear_part(network.head), LinearHead) and not network.runs_backbone


def solve_head(
    network: DenseNetwork,
    source: VoxelSource,
    seed: int,
    *,
    known: Solution | None = None,
    progress: ProgressCallback,
    should_stop: ShouldStop,
) -> float:
    """Set the weights of a linear head; the rest of the network stays.

    Voxels that were not annotated are not used. Where some structures were not annotated, "background" may be one of
    them: least squares has no sum of probabilities as the loss has, so such voxels are used only if no other
    background was drawn.

    Args:
        network: its head is a :class:`fm3d_core.models.heads.LinearHead`, maybe behind an adapter that is still the
            identity.
        source: of the batches, augmented as in training.
        seed: of the voxels.
        known: see :func:`choose_solution`.

    Returns:
        Seconds it took.

    Raises:
        Stopped: ``should_stop`` said so.
    """
    head = linear_part(network.head)
    assert isinstance(head, LinearHead)
    generator = torch.Generator().manual_seed(seed)
    clock = StageClock("solving the head", BATCHES, progress)
    drawn: list[tuple[Voxels, torch.Tensor]] = []
    trains = network.backbone.training
    network.backbone.eval()
    for done in range(BATCHES):
        if should_stop():
            raise Stopped("Training")
        clock.report(done)
        drawn.append(_draw(source, generator))
    network.backbone.train(trains)
    if voxels := usable(drawn):
        set_head(head, choose_solution(voxels, head.classifiers[0].out_channels, known))  # type: ignore[arg-type]
    clock.report(BATCHES)
    return clock.elapsed


def choose_solution(batches: Sequence[Voxels], classes: int, known: Solution | None = None) -> Solution:
    """Ridge and balance with the highest Dice on the last quarter of the batches, the factor with the lowest
    cross-entropy there, then solved on all.

    Args:
        batches: voxels of each.
        classes: number of them.
        known: what the weights' own classifier says; it is taken where its Dice on that quarter is higher.
    """
    kept = max(len(batches) * 3 // 4, 1)
    learned, held_out = Voxels.joined(batches[:kept]), Voxels.joined(batches[kept:] or batches)
    tried = {
        (ridge, balance): solution
        for balance in BALANCES
        for ridge, solution in zip(RIDGES, solve_path(learned, classes, RIDGES, balance), strict=True)
    }
    ridge, balance = max(tried, key=lambda choice: tried[choice].dice(held_out))
    if known is not None and (known := known.to(held_out)).dice(held_out) > tried[ridge, balance].dice(held_out):
        return known
    factor = min(FACTORS, key=lambda factor: tried[ridge, balance].times(factor).loss(held_out))
    return solve(Voxels.joined(batches), classes, ridge, balance).times(factor)


def solve(voxels: Voxels, classes: int, ridge: float, balance: float = 0.0) -> Solution:
    """Ridge regression of one-hot labels on features, which are standardised for it.

    The constant is penalised too little to matter.

    Args:
        voxels: to learn from.
        classes: number of them.
        ridge: penalty on the squared weights, for one voxel.
        balance: 0 weighs all voxels alike, 1 all classes.
    """
    return solve_path(voxels, classes, (ridge,), balance)[0]


def solve_path(voxels: Voxels, classes: int, ridges: Sequence[float], balance: float = 0.0) -> list[Solution]:
    """The same for several penalties, which share what takes the time: the products of all features with each other.

    With fewer voxels than features, the products of the voxels with each other (the dual form, as in kernel ridge
    regression: Saunders et al. 1998), in double precision because the constant is hardly penalised.
    """
    features = voxels.features
    mean, deviation = features.mean(0), features.std(0) + 1e-3
    design = F.pad((features - mean) / deviation, (0, 1), value=1.0)  # (n, C + 1)
    count = torch.bincount(voxels.labels, minlength=classes).clamp(min=1)
    weight = count.to(design)[voxels.labels] ** -balance
    weight = weight / weight.sum()
    truth = F.one_hot(voxels.labels, classes).to(design)
    rule = _dual if len(design) < design.shape[1] else _primal
    solved = rule(design, weight, truth, ridges)
    slopes = [each[:-1] / deviation[:, None] for each in solved]
    return [Solution(slope, each[-1] - mean @ slope) for slope, each in zip(slopes, solved, strict=True)]


def _primal(
    design: torch.Tensor, weight: torch.Tensor, truth: torch.Tensor, ridges: Sequence[float]
) -> list[torch.Tensor]:
    """(X'WX + P)^-1 X'WY for each penalty P."""
    weighted = design * weight[:, None]
    products, target = weighted.T @ design, weighted.T @ truth
    penalty = torch.ones(design.shape[1]).to(design)
    return [torch.linalg.solve(products + torch.diag(_penalty(penalty, ridge)), target) for ridge in ridges]


def _dual(
    design: torch.Tensor, weight: torch.Tensor, truth: torch.Tensor, ridges: Sequence[float]
) -> list[torch.Tensor]:
    """P^-1 X' (X P^-1 X' + W^-1)^-1 Y, which is the same."""
    rows, exact = design.double(), truth.double()
    products = rows[:, :-1] @ rows[:, :-1].T
    inverse_weight = torch.diag(1 / weight.double())
    solved = []
    for ridge in ridges:
        inner = torch.linalg.solve(products / ridge + 1 / CONSTANT + inverse_weight, exact)
        penalty = _penalty(torch.ones(rows.shape[1]).to(rows), ridge)
        solved.append(((rows.T @ inner) / penalty[:, None]).to(design))
    return solved


def _penalty(ones: torch.Tensor, ridge: float) -> torch.Tensor:
    """Of each feature, and of the constant at the end."""
    penalty = ones * ridge
    penalty[-1] = CONSTANT
    return penalty


def linear_part(head: torch.nn.Module) -> torch.nn.Module:
    """The linear classifiers of a head, without the adapter of features that may lie before them."""
    return head.head if isinstance(head, AdaptedHead) else head


def usable(drawn: Sequence[tuple[Voxels, torch.Tensor]]) -> list[Voxels]:
    """Per batch the voxels that are annotated, without doubtful background if there is other."""
    certain = [voxels.chosen(voxels.labels != IGNORED) for voxels, _ in drawn]
    if any(bool(((voxels.labels == 0) & ~doubtful).any()) for voxels, doubtful in drawn):
        certain = [voxels.chosen((voxels.labels != IGNORED) & ~doubtful) for voxels, doubtful in drawn]
    return [voxels for voxels in certain if len(voxels.labels)]


def _draw(source: VoxelSource, generator: torch.Generator) -> tuple[Voxels, torch.Tensor]:
    """Random annotated voxels of one batch, and (n,) bool which of them are doubtful background.

    An image without any annotated voxel gives voxels labelled ``IGNORED``.
    """
    batch = source.draw()
    maps, size = source.features(batch)
    return voxels_of(maps, size, batch.target, batch.annotated, VOXELS, generator)


def voxels_of(
    maps: Sequence[torch.Tensor],
    size: tuple[int, int, int],
    target: torch.Tensor,
    annotated: torch.Tensor | None,
    number: int,
    generator: torch.Generator,
) -> tuple[Voxels, torch.Tensor]:
    """Random annotated voxels, and (n,) bool which of them are doubtful background.

    An image without any annotated voxel gives voxels labelled ``IGNORED``.

    Args:
        maps: of the backbone, each (B, C_i, X/s_i, Y/s_i, Z/s_i).
        size: of the padded image they are of.
        target: (B, 1, X, Y, Z) classes, no larger than ``size``.
        annotated: (B, classes) bool, which classes were annotated; None: all.
        number: of voxels of each image.
        generator: of the choice.
    """
    target = F.pad(target, _missing(target.shape[-3:], size))[:, 0].long().cpu()  # (B, *size)
    known = [label != IGNORED for label in target]
    known = [each if bool(each.any()) else torch.ones_like(each) for each in known]
    chosen = torch.stack(
        [draw_voxels(label, number, generator, where) for label, where in zip(target, known, strict=True)]
    )  # (B, n)
    labels = target.flatten(1).gather(1, chosen)
    # voxels were drawn with one over the square root of their class's size
    roots = [torch.bincount(label.flatten()).float().sqrt() for label in target]
    share = [root[own] * root.sum() / number for root, own in zip(roots, labels, strict=True)]
    found = features_at(maps, chosen.to(maps[0].device), size).flatten(0, 1)
    partial = torch.zeros(len(target), dtype=torch.bool)
    if annotated is not None:
        partial = ~annotated.all(dim=1).cpu()
    doubtful = (labels == 0) & partial[:, None]
    voxels = Voxels(found, labels.flatten().to(found.device), torch.cat(share).to(found.device))
    return voxels, doubtful.flatten().to(found.device)


def _missing(shape: torch.Size, size: tuple[int, int, int]) -> tuple[int, ...]:
    """Padding for torch.nn.functional.pad (last axis first) from ``shape`` to ``size``."""
    x, y, z = (whole - part for part, whole in zip(shape, size, strict=True))
    return (0, z, 0, y, 0, x)


def set_head(head: LinearHead, solution: Solution) -> None:
    """Give a head the weights of a solution."""
    start = 0
    with torch.no_grad():
        for index, classifier in enumerate(head.classifiers):
            assert isinstance(classifier, torch.nn.Conv3d)
            part = solution.weight[start : start + classifier.in_channels].T  # (classes, C_i)
            classifier.weight.copy_(part.reshape(classifier.weight.shape))
            start += classifier.in_channels
            if index == 0 and classifier.bias is not None:
                classifier.bias.copy_(solution.bias)
