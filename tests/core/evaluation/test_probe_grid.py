"""All probes trained at once are the probes that would have been trained one by one."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from fm3d_core.errors import SettingsError, Stopped
from fm3d_core.evaluation.probing.grid import ProbeGrid, batches, initial_weight, train_probes
from fm3d_core.evaluation.probing.neighbours import neighbour_answers
from fm3d_core.evaluation.probing.vectors import ImageVectors
from fm3d_core.progress import Progress


def cross_entropy(scores: torch.Tensor, target: torch.Tensor, annotated: None = None) -> torch.Tensor:
    return F.cross_entropy(scores, target[:, 0].long())


def drawn(images: int, width: int, seed: int = 0) -> tuple[ImageVectors, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    parts = [torch.randn(images, width, generator=generator, dtype=torch.double) for _ in range(5)]
    classes = (parts[3][:, :1] + parts[4][:, :1] > 0).double() + (parts[2][:, :1] > 1).double()
    return ImageVectors(tuple(parts[:4]), parts[4]), classes


def trained_alone(
    vectors: ImageVectors, targets: torch.Tensor, grid: ProbeGrid, layers: int, mean_patch: bool, rate: float
) -> torch.nn.Linear:
    """As anybody would write it: a linear layer, torch's SGD and its cosine."""
    inputs = vectors.joined(layers, mean_patch)
    head = torch.nn.Linear(inputs.shape[1], 3).double()
    with torch.no_grad():
        head.weight.copy_(initial_weight(inputs.shape[1], 3, grid.seed))
        head.bias.zero_()
    optimiser = torch.optim.SGD(head.parameters(), lr=rate, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, grid.iterations)
    for batch in batches(len(vectors), grid):
        optimiser.zero_grad()
        cross_entropy(head(inputs[batch]), targets[batch]).backward()
        optimiser.step()
        schedule.step()
    return head


@pytest.mark.parametrize(("images", "width"), [(20, 9), (150, 2)])  # fewer images than features, and more
def test_each_setting_of_the_grid_is_what_it_is_alone(images: int, width: int) -> None:
    vectors, targets = drawn(images, width)
    grid = ProbeGrid(learning_rates=(1e-3, 0.02, 0.1), iterations=60, batch_size=16, seed=4)
    probes = train_probes(vectors, targets, 3, cross_entropy, grid)
    assert [probe.setting for probe in probes] == grid.settings and len(probes) == 24
    for probe in probes:
        setting = probe.setting
        alone = trained_alone(vectors, targets, grid, setting.layers, setting.mean_patch, setting.learning_rate)
        torch.testing.assert_close(probe.weight, alone.weight.data, atol=1e-9, rtol=1e-7)
        torch.testing.assert_close(probe.bias, alone.bias.data, atol=1e-9, rtol=1e-7)
        inputs = vectors.joined(setting.layers, setting.mean_patch)
        torch.testing.assert_close(probe.scores(vectors), alone(inputs).detach(), atol=1e-8, rtol=1e-7)
    first, fast = probes[0].weight, probes[2].weight
    assert (first - fast).abs().max() > 0.05  # learning rates make a difference


def test_the_published_grid_has_104_settings() -> None:
    assert len(ProbeGrid().settings) == 104
    with pytest.raises(SettingsError):
        ProbeGrid(layers=(1, 1))


def test_a_setting_that_diverges_harms_no_other() -> None:
    def squared(scores: torch.Tensor, target: torch.Tensor, annotated: None = None) -> torch.Tensor:
        return F.mse_loss(scores[:, 0], target[:, 0])

    vectors, targets = drawn(30, 12)
    both = ProbeGrid(learning_rates=(1e-3, 50.0), layers=(4,), iterations=300)
    calm = ProbeGrid(learning_rates=(1e-3,), layers=(4,), iterations=300)
    together, alone = (train_probes(vectors, targets, 1, squared, grid) for grid in (both, calm))
    assert not together[1].weight.isfinite().all()
    torch.testing.assert_close(together[0].weight, alone[0].weight)


def test_it_reports_and_can_be_stopped() -> None:
    vectors, targets = drawn(20, 3)
    events: list[Progress] = []
    grid = ProbeGrid(iterations=250)
    train_probes(vectors, targets, 3, cross_entropy, grid, progress=events.append)
    assert [event.step for event in events] == [0, 100, 200, 250] and events[0].stage == "training 104 probes"
    with pytest.raises(Stopped):
        train_probes(vectors, targets, 3, cross_entropy, grid, should_stop=lambda: True)


def test_neighbours_vote_by_their_likeness() -> None:
    known = torch.tensor([[1.0, 0], [0, 2], [-3, 0]])
    answers = torch.tensor([[10.0], [20], [90]])
    asked = torch.tensor([[5.0, 5.0]])
    torch.testing.assert_close(neighbour_answers(known, answers, asked, 2), torch.tensor([[15.0]]))
    weights = torch.tensor([0.5**0.5, 0.5**0.5, -(0.5**0.5)]).div(0.07).exp()
    expected = (weights * answers[:, 0]).sum() / weights.sum()
    assert float(neighbour_answers(known, answers, asked, 20)) == pytest.approx(float(expected))


def test_scales_are_those_of_the_training_images() -> None:
    vectors, _ = drawn(40, 3)
    shifted = ImageVectors(tuple(7 * each + 3 for each in vectors.layers))
    scaled = shifted.scaled_like(shifted)
    assert float(scaled.layers[2].mean()) == pytest.approx(0, abs=1e-9)
    part = shifted.of([0, 5]).scaled_like(shifted)
    torch.testing.assert_close(part.layers[1], scaled.layers[1][[0, 5]])
