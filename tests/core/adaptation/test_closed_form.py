"""The head's closed form: it is ridge regression, it is the head that the network then has, and it helps at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from fm3d_core.adaptation import FinetuneSettings, LabeledCase, finetune
from fm3d_core.adaptation.closed_form import Voxels, can_be_solved, choose_solution, solve, solve_head, solve_path
from fm3d_core.errors import Stopped
from fm3d_core.models.heads import LinearHead
from fm3d_core.models.network import DenseNetwork
from fm3d_core.models.zoo import BackboneSpec, create_backbone
from fm3d_core.progress import Progress, ignore_progress, never_stop
from fm3d_core.tasks import SegmentationTask


def test_the_solution_is_that_of_ridge_regression() -> None:
    sklearn = pytest.importorskip("sklearn.linear_model")
    generator = np.random.default_rng(0)
    features = generator.normal(size=(300, 5)) * [1, 10, 0.1, 3, 1] + 4
    labels = (features[:, 0] + features[:, 1] / 10 > 8).astype(int)
    # scaled to unit deviation by torch's (unbiased) rule, as the code does
    deviation = features.std(0, ddof=1) + 1e-3
    peer = sklearn.Ridge(alpha=0.1 * 300).fit((features - features.mean(0)) / deviation, np.eye(2)[labels])
    voxels = Voxels(torch.tensor(features), torch.tensor(labels), torch.ones(300))
    found = solve(voxels, 2, 0.1)
    expected = peer.predict((features - features.mean(0)) / deviation)
    assert np.allclose(found.logits(voxels).numpy(), expected, atol=1e-4)


@pytest.mark.parametrize("balance", [0.0, 1.0])
def test_fewer_voxels_than_features_give_the_solution_that_more_equations_would(balance: float) -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(40, 60, generator=generator, dtype=torch.float64) * 3 + 1
    labels = torch.arange(40) % 3 % 2
    path = solve_path(Voxels(features, labels, torch.ones(40)), 2, (0.01, 0.5), balance)
    weight = torch.where(labels == 1, 1 / 13, 1 / 27).double() ** balance
    scaled = (features - features.mean(0)) / (features.std(0) + 1e-3)
    for ridge, solution in zip((0.01, 0.5), path, strict=True):
        # the weighted normal equations, solved as they stand
        design = F.pad(scaled, (0, 1), value=1.0)
        penalty = torch.diag(torch.tensor([ridge] * 60 + [1e-6]).double())
        left = design.T @ (design * (weight / weight.sum())[:, None]) + penalty
        right = design.T @ (F.one_hot(labels).double() * (weight / weight.sum())[:, None])
        expected = design @ torch.linalg.solve(left, right)
        assert torch.allclose(features @ solution.weight + solution.bias, expected, atol=1e-6)


def _noisy(number: int, generator: torch.Generator, noise: float) -> Voxels:
    """The class is the sign of the first of 25 features, with noise on it."""
    features = torch.randn(number, 25, generator=generator)
    labels = (features[:, 0] + noise * torch.randn(number, generator=generator) > 0).long()
    return Voxels(features, labels, torch.ones(number))


def test_the_choice_avoids_a_ridge_that_fits_noise() -> None:
    generator = torch.Generator().manual_seed(0)
    batches = [_noisy(30, generator, 1.0) for _ in range(4)]
    test = _noisy(2000, generator, 0.0)
    worst = solve(Voxels.joined(batches), 2, 1e-3).times(16.0)
    assert choose_solution(batches, 2).loss(test) < worst.loss(test)


def test_balance_finds_a_rare_class_that_least_squares_overlooks() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = (torch.arange(2000) % 25 == 0).long()
    features = torch.randn(2000, 6, generator=generator) + 1.5 * labels[:, None]
    voxels = Voxels(features, labels, torch.ones(2000))
    found = {balance: (solve(voxels, 2, 1e-2, balance).logits(voxels).argmax(1) & labels).sum() for balance in (0, 1)}
    assert found[0] < 40 < found[1]
    # 80 rare voxels that count fifty times: now Dice prefers to find them
    share = torch.where(labels == 1, 50.0, 1.0)
    often = [Voxels(features[part::4], labels[part::4], share[part::4]) for part in range(4)]
    chosen = choose_solution(often, 2)
    assert (chosen.logits(voxels).argmax(1) & labels).sum() > 50


class _OneCase:
    """A source whose features are known: two maps, of which the coarse one tells the class."""

    def __init__(self, network: DenseNetwork) -> None:
        self.network = network

    def draw(self):
        from fm3d_core.adaptation.batches import Batch

        target = torch.zeros(1, 1, 16, 16, 14)
        target[..., 8:, :, :] = 1
        return Batch((), target, ("a",))

    def scores(self, batch):
        raise AssertionError("not needed")

    def features(self, batch):
        fine = torch.randn(1, 8, 16, 16, 16)
        coarse = F.interpolate(batch.target, size=(8, 8, 7))
        coarse = F.pad(coarse, (0, 1)).repeat(1, 16, 1, 1, 1) + 0.01 * torch.randn(1, 16, 8, 8, 8)
        third, fourth = torch.randn(1, 32, 4, 4, 4), torch.randn(1, 64, 2, 2, 2)
        return [fine, coarse, third, fourth], (16, 16, 16)


def test_the_network_scores_with_the_solution() -> None:
    torch.manual_seed(0)
    backbone = create_backbone(BackboneSpec("residual_unet_small"))
    network = DenseNetwork(backbone, LinearHead(backbone.feature_channels, 2))
    source = _OneCase(network)
    seconds = solve_head(network, source, 0, progress=ignore_progress, should_stop=never_stop)
    maps, _ = source.features(source.draw())
    scores = network.head(maps, torch.zeros(1, 1, 16, 16, 16))
    right = scores.argmax(1)[..., :14] == source.draw().target[:, 0]
    assert float(right.float().mean()) > 0.93 and seconds > 0  # not 1: trilinear between the halves
    assert not any(parameter.grad is not None for parameter in network.parameters())


def test_stopping_and_other_heads() -> None:
    backbone = create_backbone(BackboneSpec("vit_tiny"))
    task = SegmentationTask(("a",))
    assert not can_be_solved(DenseNetwork(backbone, task.build_head(backbone)))
    assert can_be_solved(DenseNetwork(backbone, task.build_head(backbone, linear=True)))
    network = DenseNetwork(backbone, task.build_head(backbone, linear=True))
    with pytest.raises(Stopped):
        solve_head(network, _OneCase(network), 0, progress=ignore_progress, should_stop=lambda: True)


def test_one_step_already_segments_real_volumes(shared_data) -> None:
    """Hippocampus with the weights that ship: one step after a head drawn at random knows next to nothing."""
    from fm3d_core.inference import Predictor
    from fm3d_core.volumes import read_label, read_volume

    folder = shared_data / "hippocampus"
    names = ("hippocampus_001", "hippocampus_003", "hippocampus_007")
    cases = [LabeledCase(n, folder / f"images/{n}.nii.gz", folder / f"labels/{n}.nii.gz") for n in names]
    task = SegmentationTask(("anterior", "posterior"))
    stages: list[str] = []

    def watch(event: Progress) -> None:
        stages.append(event.stage)

    scores = {}
    for closed_form in (True, False):
        settings = FinetuneSettings(steps=1, closed_form=closed_form)
        predictor = Predictor(finetune(cases, task, settings, progress=watch))
        found = predictor.segment(read_volume(folder / "images/hippocampus_015.nii.gz"))
        truth = read_label(folder / "labels/hippocampus_015.nii.gz").array
        scores[closed_form] = np.mean(
            [2 * ((found == v) & (truth == v)).sum() / ((found == v).sum() + (truth == v).sum()) for v in (1, 2)]
        )
    assert "solving the head" in stages
    assert scores[True] > 0.4 and scores[False] < 0.2, scores
