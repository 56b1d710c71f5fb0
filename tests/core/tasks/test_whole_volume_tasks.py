"""Tasks about whole volumes: targets from data lists, losses against values worked out by hand, answers, files."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from fm3d_core.errors import CaseError, SettingsError
from fm3d_core.models.residual_unet import ResidualUNet
from fm3d_core.models.vit import VisionTransformer3D
from fm3d_core.tasks import (
    ClassificationTask,
    JointTask,
    MultilabelTask,
    RegionsTask,
    RegressionTask,
    SegmentationTask,
    SurvivalTask,
    WholeVolumeTask,
    task_from_dict,
)
from fm3d_core.volumes import Preprocessing

CLASSES = ClassificationTask(("N", "P"))
FINDINGS = MultilabelTask(("cyst", "stone", "fat"))
AGE = RegressionTask("age", unit="years")
SURVIVAL = SurvivalTask(bins=2, time_column="days")
EVERY = (
    SegmentationTask(("a", "b")),
    RegionsTask((("WT", (1, 2, 4)), ("TC", (1, 4)), ("ET", (4,))), channels=4),
    ClassificationTask(("N", "P"), "group", crop=(64, 64, 32), layers=2, mean_patch=True),
    FINDINGS,
    AGE.fit([(20.0,), (40.0,)]),
    SURVIVAL.fit([(1.0, 1.0), (2.0, 1.0), (3.0, 0.0)]),
    JointTask(("cavity", "infarct"), ("N", "P")),
)


@pytest.mark.parametrize("task", EVERY, ids=lambda task: task.kind)
def test_a_task_comes_back_from_plain_data_with_what_it_has_learned(task: Any) -> None:
    task = task.with_preprocessing(Preprocessing(spacing=(1, 1, 2)))
    assert task_from_dict(task.to_dict()) == task
    with pytest.raises(SettingsError):
        task_from_dict({**task.to_dict(), "lables": ["a"]})


def test_a_card_of_before_without_kind_is_a_segmentation_and_another_kind_is_refused() -> None:
    assert task_from_dict({"labels": ["a"]}) == SegmentationTask(("a",))
    with pytest.raises(SettingsError, match=r"unknown kind of task 'magic'.*classification"):
        task_from_dict({"kind": "magic"})


def test_classification_is_cross_entropy() -> None:
    loss = CLASSES.loss()(torch.tensor([[0.0, math.log(3)], [0.0, 0.0]]), torch.tensor([[1.0], [0.0]]))
    assert float(loss) == pytest.approx((math.log(4 / 3) + math.log(2)) / 2)


def test_multilabel_is_binary_cross_entropy() -> None:
    scores = torch.tensor([[math.log(3), 0.0, -math.log(3)]])
    loss = FINDINGS.loss()(scores, torch.tensor([[1.0, 1.0, 1.0]]))
    assert float(loss) == pytest.approx((math.log(4 / 3) + math.log(2) + math.log(4)) / 3)


def test_regression_learns_the_standardised_value_and_answers_in_its_unit() -> None:
    fitted = AGE.fit([(20.0,), (40.0,), (60.0,)])
    assert fitted.mean == 40 and fitted.sd == pytest.approx(math.sqrt(800 / 3))
    loss = fitted.loss()(torch.zeros(1, 1), torch.tensor([[60.0]]))
    assert float(loss) == pytest.approx(400 / (800 / 3))
    assert fitted.activate(torch.tensor([[1.0]])).item() == pytest.approx(40 + math.sqrt(800 / 3))
    assert fitted.describe([41.0]) == {"value": 41.0, "unit": "years"}


def test_survival_bins_hold_equally_many_events_and_the_loss_is_their_likelihood() -> None:
    fitted = SURVIVAL.fit([(1.0, 1.0), (2.0, 1.0), (3.0, 1.0), (4.0, 1.0), (9.0, 0.0)])
    assert fitted.edges is not None and fitted.edges[1] == 2.5 and fitted.edges[2] > 9
    scores = torch.tensor([[0.0, math.log(3)]])  # hazards 1/2 and 3/4
    event = float(fitted.loss()(scores, torch.tensor([[3.0, 1.0]])))
    assert event == pytest.approx(-math.log(1 / 2 * 3 / 4))
    censored = float(fitted.loss()(scores, torch.tensor([[3.0, 0.0]])))
    assert censored == pytest.approx(-math.log(1 / 2 * 1 / 4))
    curve = fitted.activate(scores)[0].tolist()
    assert curve == pytest.approx([0.5, 0.125])
    assert fitted.describe(curve)["risk"] == pytest.approx(-0.625)


def test_regions_are_unions_of_label_values_and_their_dice_is_as_worked_out_by_hand() -> None:
    task = RegionsTask((("WT", (1, 2, 4)), ("TC", (1, 4)), ("ET", (4,))))
    assert task.values == {"WT": 2, "TC": 1, "ET": 4} and task.drawn == {"label 1": 1, "label 2": 2, "label 4": 4}
    target = torch.tensor([0, 1, 2, 3]).view(1, 1, 4, 1, 1)  # the places of 0, 1, 2, 4 among what is drawn
    scores = torch.zeros(1, 3, 4, 1, 1)  # probability 1/2 everywhere
    # squared: 1 - 2 * sum(p y) / (sum(p^2) + sum(y)), p^2 sums to 1
    expected = np.mean([1 - 2 * 0.5 * n / (1 + n) for n in (3, 2, 1)])
    assert float(task.loss()(scores, target)) == pytest.approx(expected, abs=1e-5)
    unknown = torch.tensor([[True, True, False, True]])  # nobody looked for value 2: WT counts nowhere
    expected = np.mean([1 - 2 * 0.5 * n / (1 + n) for n in (2, 1)])
    assert float(task.loss()(scores, target, unknown)) == pytest.approx(expected, abs=1e-5)
    masks = np.array([[1, 1, 1], [1, 0, 1], [1, 0, 0]], bool).reshape(3, 3, 1, 1)
    assert task.painted(masks).ravel().tolist() == [4, 2, 1]


def test_the_class_of_a_joint_task_counts_only_where_the_crop_shows_enough() -> None:
    task = JointTask(("infarct",), ("N", "P"))
    target = torch.zeros(2, 1, 10, 10, 10)
    target[0, 0, :2, :5, :2] = 1  # 2 % of the first crop, nothing of the second
    voxels, whole = torch.zeros(2, 2, 10, 10, 10), torch.tensor([[0.0, math.log(3)], [50.0, 0.0]])
    both = float(task.loss()((voxels, whole), target, None, torch.tensor([[1.0], [1.0]])))
    alone = float(task.segmentation.loss()(voxels, target))
    assert both - alone == pytest.approx(math.log(4 / 3), abs=1e-4)
    nothing = float(task.loss()((voxels, whole), target * 0, None, torch.tensor([[1.0], [1.0]])))
    assert nothing == pytest.approx(float(task.segmentation.loss()(voxels, target * 0)))


@pytest.mark.parametrize(
    ("task", "fields", "expected"),
    [
        (CLASSES, {"label": "P"}, (1.0,)),
        (CLASSES, {"label": " 1 "}, (1.0,)),
        (CLASSES, {"label": 0}, (0.0,)),
        (ClassificationTask(("2", "1")), {"label": "1"}, (1.0,)),
        (FINDINGS, {"label": [1, 0, 1]}, (1.0, 0.0, 1.0)),
        (FINDINGS, {"label": "stone; fat"}, (0.0, 1.0, 1.0)),
        (FINDINGS, {"label": ""}, (0.0, 0.0, 0.0)),
        (FINDINGS, {"cyst": "1", "stone": "0", "fat": 0}, (1.0, 0.0, 0.0)),
        (AGE, {"age": "61.5"}, (61.5,)),
        (SURVIVAL, {"days": 5, "event": "0"}, (5.0, 0.0)),
        (SurvivalTask(event_column=None), {"time": 5}, (5.0, 1.0)),
    ],
)
def test_targets_are_read_by_name_or_number(task: WholeVolumeTask, fields: dict[str, Any], expected: Any) -> None:
    assert task.read_target(fields) == expected


@pytest.mark.parametrize(
    ("task", "fields", "said"),
    [
        (CLASSES, {}, r"has no label .*Fill it in"),
        (CLASSES, {"label": math.nan}, "has no label"),
        (CLASSES, {"label": "Q"}, r"'Q', which is no class.*0 N, 1 P"),
        (CLASSES, {"label": 2}, "no class"),
        (CLASSES, {"label": 0.5}, "no class"),
        (CLASSES, {"label": True}, "no class"),
        (CLASSES, {"label": "inf"}, "no class"),
        (FINDINGS, {"label": [1, 0]}, "neither findings nor 3 times"),
        (FINDINGS, {"label": [1, 0, 2]}, "fat is 2"),
        (FINDINGS, {"label": "stone, tumour"}, "tumour"),
        (FINDINGS, {"cyst": 1, "stone": 0}, "has no fat"),
        (AGE, {"age": "NaN"}, "has no age"),
        (AGE, {"age": "old"}, "no number"),
        (AGE, {"age": "inf"}, "no number"),
        (SURVIVAL, {"days": 5}, "has no event"),
        (SURVIVAL, {"days": 5, "event": 2}, "event is 2"),
        (SURVIVAL, {"days": -1, "event": 1}, "days is -1"),
        (SURVIVAL, {"event": 1}, "has no days"),
    ],
)
def test_targets_that_make_no_sense_are_refused(task: WholeVolumeTask, fields: dict[str, Any], said: str) -> None:
    with pytest.raises(CaseError, match=said):
        task.read_target(fields)


@pytest.mark.parametrize(
    ("task", "targets"),
    [(CLASSES, [(1.0,), (1.0,)]), (AGE, [(40.0,), (40.0,)]), (SURVIVAL, [(5.0, 0.0), (6.0, 0.0)])],
)
def test_targets_that_teach_nothing_are_refused(task: WholeVolumeTask, targets: list[tuple[float, ...]]) -> None:
    with pytest.raises((CaseError, SettingsError)):
        task.fit(targets)


@pytest.mark.parametrize("task", EVERY, ids=lambda task: task.kind)
@pytest.mark.parametrize("kind", ["vit", "pyramid"])
@pytest.mark.parametrize("linear", [True, False])
def test_every_task_has_a_network_on_every_kind_of_backbone(task: Any, kind: str, linear: bool) -> None:
    channels = task.channels
    backbone: Any = (
        VisionTransformer3D(image_size=32, width=24, depth=4, heads=3, input_channels=channels)
        if kind == "vit"
        else ResidualUNet(channels=(4, 8), input_channels=channels)
    )
    network = task.build_network(backbone, linear=linear).eval()
    with torch.no_grad():
        scores = network(torch.zeros(2, channels, 20, 16, 16))
    if task.whole_volume:
        assert scores.shape == (2, task.classes) and task.activate(scores).shape == (2, task.classes)
        assert task.describe(task.activate(scores)[0].tolist())
    elif task.kind == "joint":
        assert scores[0].shape == (2, 3, 20, 16, 16) and scores[1].shape == (2, 2)
    else:
        assert scores.shape == (2, task.classes, 20, 16, 16)


@pytest.mark.parametrize(("task", "head"), [(CLASSES, "unetr"), (EVERY[0], "mlp"), (EVERY[-1], "vit_adapter")])
def test_a_head_of_another_kind_of_task_is_refused(task: Any, head: str) -> None:
    with pytest.raises(SettingsError, match="Choose head"):
        task.build_network(VisionTransformer3D(image_size=32, width=24, depth=4, heads=3), head)
