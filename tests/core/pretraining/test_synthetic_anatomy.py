"""Made-up anatomies: stable labels, images that follow from a number, a loss that tells structures apart."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from fm3d_core.errors import SettingsError
from fm3d_core.models.voxel_features import draw_voxels, features_at
from fm3d_core.pretraining.objective import Place
from fm3d_core.pretraining.synthetic_anatomy.anatomy import Anatomy, Blob, Tube, draw_anatomy
from fm3d_core.pretraining.synthetic_anatomy.contrast import supervised_contrast
from fm3d_core.pretraining.synthetic_anatomy.loading import PairSettings, draw_pair, pair_loader
from fm3d_core.pretraining.synthetic_anatomy.objective import Settings, build
from fm3d_core.pretraining.synthetic_anatomy.patient import draw_patient
from fm3d_core.pretraining.synthetic_anatomy.random_numbers import generator_of
from fm3d_core.pretraining.synthetic_anatomy.scan import blurred, draw_scanner, scan

SMALL = PairSettings(sizes=((24, 32, 24), (32, 24, 24)), voxels=64)


def test_labels_stay_within_the_anatomys_number_and_most_of_them_appear() -> None:
    shares = []
    for seed in range(12):
        generator = generator_of(seed)
        anatomy = draw_anatomy(generator)
        label = draw_patient(anatomy, (40, 48, 32), generator)
        assert label.shape == (40, 48, 32) and int(label.min()) >= 0 and int(label.max()) < anatomy.labels
        shares.append(len(label.unique()) / anatomy.labels)
    assert sum(shares) / len(shares) > 0.5


def test_a_structure_keeps_its_label_and_about_its_place_from_patient_to_patient() -> None:
    ball = Blob(
        centre=torch.tensor([0.3, -0.2, 0.1]),
        radii=torch.tensor([0.4, 0.4, 0.4]),
        turn=torch.eye(3),
        power=2.0,
        bumps=0.0,
        bump_field=torch.zeros(1, 2, 2, 2),
        wall=0.0,
        cut_axis=0,
    )
    tube = Tube(torch.tensor([[-1.0, 0, 0], [0, 0, 0], [1.0, 0, 0]]), 0.1, wall=0.3)
    anatomy = Anatomy(torch.zeros(1, 2, 2, 2), (ball, tube), None)
    assert anatomy.labels == 5
    for seed in range(4):
        label = draw_patient(anatomy, (48, 48, 48), generator_of(seed))
        assert sorted(label.unique().tolist()) == [0, 1, 2, 3, 4]
        halves = [(label == value).nonzero().float().mean(0) for value in (1, 2)]
        assert halves[1][0] > halves[0][0] + 3  # the half beyond the cut lies further along the axis
        # where label 1 of 2 should be, give or take the patient's own shift, stretch and bend
        middle = (halves[0] + halves[1]) / 2 / 23.5 - 1
        assert torch.linalg.norm(middle - ball.centre) < 0.6
        assert (label == 4).sum() > 0 and (label == 3).sum() > 0  # lumen and wall


def test_the_air_around_a_body_is_the_last_label_and_dark_as_a_rule() -> None:
    dark = 0
    for seed in range(30):
        generator = generator_of(seed)
        anatomy = draw_anatomy(generator)
        if anatomy.air is None:
            continue
        assert anatomy.air == anatomy.labels - 1
        scanner = draw_scanner(anatomy.labels, anatomy.air, generator)
        dark += int(scanner.brightness[anatomy.air] == 0)
        assert scanner.texture[anatomy.air] == 0
    assert dark > 5


def test_a_scan_shows_the_structures_and_stays_in_range() -> None:
    label = torch.zeros(32, 32, 32, dtype=torch.int64)
    label[8:24, 8:24, 8:24] = 1
    generator = generator_of(3)
    scanner = draw_scanner(2, None, generator)
    bright = type(scanner)(
        **{**vars(scanner), "brightness": torch.tensor([0.2, 0.8]), "texture": torch.zeros(2), "noise": 0.01}
    )
    image = scan(label, bright, generator)
    assert image.dtype == torch.float32 and image.min() >= -1 and image.max() <= 1
    assert image[12:20, 12:20, 12:20].mean() > image[:4].mean() + 1


def test_blurring_keeps_the_sum_of_a_point_and_has_the_stated_deviation() -> None:
    point = torch.zeros(21, 21, 21)
    point[10, 10, 10] = 1
    for deviation in (0.7, 1.3):
        result = blurred(point, deviation)
        assert float(result.sum()) == pytest.approx(1, abs=1e-4)
        profile = result.sum((1, 2))
        spread = math.sqrt(float((profile * (torch.arange(21) - 10) ** 2).sum()))
        assert spread == pytest.approx(deviation, rel=0.08)
    assert blurred(point, 0.1) is point


def test_a_sample_follows_from_its_number() -> None:
    first, again, other = (draw_pair(7, number, (24, 24, 24), SMALL) for number in (5, 5, 6))
    assert torch.equal(first.images, again.images) and torch.equal(first.voxels, again.voxels)
    assert not torch.equal(first.images, other.images)
    assert not torch.equal(first.images[0], first.images[1])  # two patients


def test_small_structures_are_drawn_more_often_than_their_volume_says() -> None:
    label = torch.zeros(20, 20, 20, dtype=torch.int64)
    label[:2, :2, :2] = 1  # 8 of 8000 voxels
    drawn = label.flatten()[draw_voxels(label, 4000, generator_of(0))]
    # weights go with the square root of the size: sqrt(8) against sqrt(7992)
    assert float(drawn.float().mean()) == pytest.approx(8**0.5 / (8**0.5 + 7992**0.5), rel=0.3)


def test_features_at_voxels_are_those_of_the_maps() -> None:
    fine, coarse = torch.randn(2, 3, 8, 6, 4), torch.randn(2, 5, 4, 3, 2)
    voxels = torch.tensor([[0, 50, 191], [7, 100, 3]])
    found = features_at([fine, coarse], voxels, (8, 6, 4))
    assert found.shape == (2, 3, 8)
    for image, column in itertools.product(range(2), range(3)):
        expected = fine[image].flatten(1)[:, voxels[image, column]]
        assert torch.allclose(found[image, column, :3], expected, atol=1e-5)
    upsampled = torch.nn.functional.interpolate(coarse, size=(8, 6, 4), mode="trilinear", align_corners=False)
    expected = upsampled[0].flatten(1)[:, 50]
    assert torch.allclose(found[0, 1, 3:], expected, atol=1e-5)


def test_contrast_is_the_published_formula() -> None:
    embedded, label = torch.randn(5, 4), torch.tensor([0, 1, 0, 1, 2])
    unit = embedded / embedded.norm(dim=1, keepdim=True)
    losses = []
    for i in range(4):  # voxel 4 has no partner
        others = [j for j in range(5) if j != i]
        total = sum(math.exp(float(unit[i] @ unit[j]) / 0.2) for j in others)
        partners = [j for j in others if label[j] == label[i]]
        logs = [math.log(math.exp(float(unit[i] @ unit[j]) / 0.2) / total) for j in partners]
        losses.append(-sum(logs) / len(logs))
    assert float(supervised_contrast(embedded, label, 0.2)) == pytest.approx(sum(losses) / 4, rel=1e-5)


def test_contrast_without_any_partner_is_zero_and_has_no_infinite_gradient() -> None:
    embedded = torch.randn(3, 4, requires_grad=True)
    loss = supervised_contrast(embedded, torch.tensor([0, 1, 2]), 0.1)
    loss.backward()
    assert float(loss) == 0 and embedded.grad is not None and bool(embedded.grad.isfinite().all())


def test_the_loader_resumes_exactly_and_ranks_share_one_sequence() -> None:
    whole = pair_loader(SMALL, Place(batch_size=2, seed=4))
    batches = list(itertools.islice(whole, 4))
    resumed = pair_loader(SMALL, Place(batch_size=2, seed=4))
    state = pair_loader(SMALL, Place(batch_size=2, seed=4))
    list(itertools.islice(state, 2))
    resumed.load_state_dict(state.state_dict())
    following = next(iter(resumed))
    assert following.names == batches[2].names and torch.equal(following.images, batches[2].images)
    halves = [next(iter(pair_loader(SMALL, Place(rank, 2, 1, seed=4)))) for rank in range(2)]
    assert {name for half in halves for name in half.names} == set(batches[0].names)
    with pytest.raises(SettingsError, match="seed"):
        pair_loader(SMALL, Place(seed=5)).load_state_dict(state.state_dict())


def test_workers_change_nothing() -> None:
    alone = next(iter(pair_loader(SMALL, Place(batch_size=2, seed=1))))
    helped = next(iter(pair_loader(SMALL, Place(batch_size=2, seed=1, workers=1))))
    assert torch.equal(alone.images, helped.images) and torch.equal(alone.voxels, helped.voxels)


def test_some_steps_bring_voxels_of_a_structure_together() -> None:
    """On one and the same batch, so that the loss must fall."""
    built = build(Settings(pairs=SMALL, warmup_steps=0, steps=30, learning_rate=3e-3), None, Place(batch_size=1))
    objective, batch = built.objective, next(iter(built.loader))
    optimiser = torch.optim.AdamW(objective.parameter_groups())
    losses = []
    for step in range(15):
        values = objective.before_step(step, optimiser.param_groups)
        loss = sum(objective(batch).values())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        objective.after_step(step)
        losses.append(float(loss))
    assert values["learning_rate"] < 3e-3
    assert losses[-1] < losses[0] - 0.3
    assert objective.pretrained() is objective.backbone


def test_any_backbone_can_be_pretrained() -> None:
    built = build(Settings(backbone="vit_tiny", pairs=PairSettings(sizes=((32, 32, 32),), voxels=32)), None, Place())
    terms = built.objective(next(iter(built.loader)))
    terms["contrast"].backward()
    assert all(parameter.grad is not None for parameter in built.objective.projection.parameters())


def test_data_is_refused_and_settings_are_checked(tmp_path) -> None:
    with pytest.raises(SettingsError, match="no data"):
        build(Settings(), tmp_path, Place())
    with pytest.raises(SettingsError):
        Settings(warmup_steps=10, steps=5)
    with pytest.raises(SettingsError):
        PairSettings(sizes=())
    sizes = ((32, 32, 32), (32, 32, 24))
    with pytest.raises(SettingsError, match=r"crops of \(32, 32, 24\) voxels do not suit vit_tiny.*multiples of"):
        build(Settings(backbone="vit_tiny", pairs=PairSettings(sizes=sizes)), None, Place())
