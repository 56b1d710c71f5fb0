"""What becomes active: the better one on the same held-out volumes; every other case is decided and said."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fm3d_core.adaptation import AdapterCard, UsedCase
from fm3d_core.adaptation.expected_dice import expected_dice
from fm3d_core.models.zoo import BackboneSpec
from fm3d_core.tasks import SegmentationTask
from fm3d_core.teaching import verdict
from fm3d_core.teaching.verdict import verdict_on_learned


def _card(dice: dict[str, float] | None, labels: tuple[str, ...] = ("liver",), stage: str = "final") -> AdapterCard:
    """Of an adapter that has learned from volumes a, b and c, or from those of ``dice``."""
    names = ("a", "b", "c") if dice is None else tuple(dice)
    expected = expected_dice({name: {labels[0]: value} for name, value in dice.items()}, "") if dice else None
    cases = tuple(UsedCase(name, "", "", voxels_sha256=f"voxels of {name}") for name in names)
    spec = BackboneSpec("residual_unet_small")
    return AdapterCard(
        SegmentationTask(labels), "full", spec, "", (8, 8, 8), cases, expected_dice=expected, stage=stage
    )


def test_the_higher_dice_on_the_same_volumes_decides() -> None:
    # the mean over all volumes would say the opposite: d is easy and only one was measured on it
    old = _card({"a": 0.6, "b": 0.6, "d": 0.99})
    better, worse = _card({"a": 0.65, "b": 0.61}), _card({"a": 0.55, "b": 0.61})
    assert verdict(better, old).activate and "same 2 held-out volumes" in verdict(better, old).why
    answer = verdict(worse, old)
    assert not answer.activate and "0.580" in answer.why and "0.600" in answer.why


def test_a_volume_of_the_same_name_with_other_voxels_is_not_the_same() -> None:
    old = _card({"a": 0.9})
    other = replace(old, cases=(UsedCase("a", "", "", voxels_sha256="other"),))
    answer = verdict(_card({"a": 0.5}), other)
    assert not answer.activate and "volumes of its own" in answer.why


@pytest.mark.parametrize(("dice", "activate"), [(0.72, True), (0.66, True), (0.60, False)])
def test_with_more_volumes_a_little_lower_is_not_worse(dice: float, activate: bool) -> None:
    old, new = _card({"a": 0.7}), _card({"a": dice, "b": 0.1})
    assert verdict(new, old).activate is activate


def test_the_active_version_is_measured_on_what_it_has_not_seen() -> None:
    old, new = _card({"a": 0.5}), _card({"a": 0.6, "b": 0.6})
    assert verdict(new, old).activate
    assert not verdict(new, old, unseen={"b": 0.9}).activate


def test_other_structures_are_named_and_what_is_common_is_compared() -> None:
    old = _card({"a": 0.7})
    more, other = _card({"a": 0.6}, ("liver", "spleen")), _card({"a": 0.6}, ("spleen",))
    for card, words in (
        (more, ("does not know spleen", "on liver", "worse")),
        (other, ("spleen", "cannot be compared")),
    ):
        answer = verdict(card, old)
        assert answer.activate and all(word in answer.why for word in words), answer.why
    answer = verdict(old, more)
    assert answer.activate and "spleen was not asked for" in answer.why


def test_what_was_not_measured_is_said() -> None:
    unmeasured = _card(None)
    assert verdict(unmeasured, None).why == "the first version"
    for card, active in ((unmeasured, _card({"a": 0.7})), (_card({"a": 0.7}), unmeasured)):
        answer = verdict(card, active)
        assert answer.activate and "not measured" in answer.why
    early = verdict(replace(unmeasured, stage="linear_probe"), unmeasured)
    assert not early.activate and "nothing shows" in early.why
    assert verdict(unmeasured, replace(unmeasured, cases=())).activate


def test_what_was_cut_short_must_be_clearly_better_on_volumes_both_have_learned_from() -> None:
    early = verdict(replace(_card(None), stage="cut_short"), _card({"a": 0.7}))
    assert not early.activate
    for ours, activate in (({"a": 0.8, "b": 0.8}, True), ({"a": 0.72, "b": 0.72}, False), ({}, False)):
        answer = verdict_on_learned(ours, dict.fromkeys(ours, 0.7))
        assert answer.activate is activate and "cut short" in answer.why
