"""A new case is judged without its truth: a bad segmentation gets a lower score, with the reason in words."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from fm3d_core.adaptation import Adapter, FinetuneSettings, LabeledCase, finetune
from fm3d_core.adaptation.size_prior import size_prior
from fm3d_core.errors import SettingsError, Stopped
from fm3d_core.evaluation import dice_per_label, mean_dice
from fm3d_core.inference import CaseQuality, Predictor, case_quality, references_of
from fm3d_core.inference.prediction import normalised_entropy
from fm3d_core.inference.quality import judge
from fm3d_core.inference.quality_model import fit_quality_model
from fm3d_core.inference.quality_signals import Signals
from fm3d_core.inference.variants import VARIANTS
from fm3d_core.progress import Progress
from fm3d_core.tasks import SegmentationTask
from fm3d_core.volumes import SYNTHETIC_LABELS, Volume, read_label, read_volume, write_map


@pytest.fixture(scope="module")
def predictor(synthetic_cases: list[LabeledCase]) -> Predictor:
    settings = FinetuneSettings(steps=40, device="cpu")
    return Predictor(finetune(synthetic_cases[:2], SegmentationTask(SYNTHETIC_LABELS), settings), "cpu")


def _noise(like: Volume) -> Volume:
    """An image without anything to find."""
    array = np.random.default_rng(0).normal(0, 100, like.array.shape).astype(np.float32)
    return replace(like, array=array)


def _judged(predictor: Predictor, volume: Volume, references: object = None) -> CaseQuality:
    return case_quality(predictor, predictor.predict(volume, variants=1), references=references)  # type: ignore[arg-type]


def test_noise_is_judged_worse_than_a_volume_like_the_labelled_ones(
    predictor: Predictor, synthetic_cases: list[LabeledCase]
) -> None:
    references = references_of(predictor, synthetic_cases[:2])
    volume = read_volume(synthetic_cases[2].image)
    good, bad = (_judged(predictor, each, references) for each in (volume, _noise(volume)))
    assert bad.value < good.value - 0.2 and bad.high < 1
    assert bad.reasons and len(bad.reasons) > len(good.reasons)
    assert 0 <= good.low < good.value < good.high <= 1
    truth = read_label(synthetic_cases[2].label).array
    true = mean_dice(dice_per_label(predictor.segment(volume), truth, SYNTHETIC_LABELS))
    assert true == pytest.approx(good.value, abs=0.25)
    assert set(good.signals["ellipsoid"]) == {"confidence", "agreement", "stability", "size", "reverse"}


def test_each_signal_alone_sees_a_wrong_mask(predictor: Predictor, synthetic_cases: list[LabeledCase]) -> None:
    """The prediction of a good volume is exchanged for its mirror image: only what looks at the image can tell."""
    references = references_of(predictor, synthetic_cases[:2])
    prediction = predictor.predict(read_volume(synthetic_cases[2].image))
    mirrored = replace(prediction, labels=prediction.labels[::-1, ::-1], scores=prediction.scores.flip(1, 2))
    right, wrong = (case_quality(predictor, each, references=references) for each in (prediction, mirrored))
    for name in SYNTHETIC_LABELS:
        assert wrong.signals[name]["agreement"] < right.signals[name]["agreement"] - 0.2
        assert wrong.signals[name]["reverse"] < right.signals[name]["reverse"] - 0.1
        assert wrong.signals[name]["confidence"] == pytest.approx(right.signals[name]["confidence"])
    assert wrong.value < right.value - 0.02
    assert any("linear stage" in reason for reason in wrong.reasons)


def test_an_unusual_size_lowers_the_score_and_is_said() -> None:
    priors = {"liver": size_prior([1500.0, 1400.0, 1600.0])}
    signals = {"liver": Signals(0.9, size=0.9)}
    usual = judge(signals, {"liver": 1500.0}, priors)  # type: ignore[arg-type]
    small = judge({"liver": replace(signals["liver"], size=0.2)}, {"liver": 900.0}, priors)  # type: ignore[arg-type]
    assert not usual.reasons and small.value < usual.value
    assert small.reasons[0].startswith("liver is 40% smaller than in the labelled volumes")


def test_a_structure_that_is_missing_counts_unless_labelled_volumes_miss_it_too() -> None:
    signals = {"liver": Signals(0.9), "gallbladder": Signals(0.0)}
    sizes = {"liver": 1500.0, "gallbladder": 0.0}
    everywhere = {"gallbladder": size_prior([30.0, 25.0])}
    in_some = {"gallbladder": size_prior([30.0, 0.0])}
    counted, not_counted = (judge(signals, sizes, priors) for priors in (everywhere, in_some))  # type: ignore[arg-type]
    assert counted.value == pytest.approx(not_counted.value / 2)
    assert "gallbladder was not found" in counted.reasons[0]
    nothing = judge({"liver": Signals(0.0)}, {"liver": 0.0}, {})
    assert nothing.value == nothing.high == 0


def test_without_a_linear_stage_the_other_signals_are_used(
    predictor: Predictor, synthetic_cases: list[LabeledCase]
) -> None:
    bare = Predictor(replace(predictor.adapter, first_head={}), "cpu")
    assert references_of(bare, synthetic_cases[:1]) is None
    quality = _judged(bare, read_volume(synthetic_cases[2].image))
    assert set(quality.signals["tube"]) == {"confidence", "stability", "size"} and 0 < quality.value < 1


def test_the_first_head_and_the_sizes_are_kept_in_the_file_and_are_small(
    predictor: Predictor, synthetic_cases: list[LabeledCase], tmp_path: Path
) -> None:
    again = Adapter.load(predictor.adapter.save(tmp_path / "a"))
    assert again.card == predictor.card and again.first_head.keys() == predictor.adapter.first_head.keys()
    assert sum(tensor.nbytes for tensor in again.first_head.values()) < 20_000
    truth = read_label(synthetic_cases[0].label)
    measured = (truth.array == 1).sum() * np.prod(truth.spacing) / 1000
    assert again.card.sizes["ellipsoid"][0] == pytest.approx(measured, rel=1e-3)
    first = again.first_stage()
    assert first is not None and first.card.method == "linear_probe" and not first.first_head
    volume = read_volume(synthetic_cases[2].image)
    np.testing.assert_array_equal(Predictor(again, "cpu").segment(volume), predictor.predict(volume).labels)


def test_uncertainty_lies_on_the_grid_of_an_oblique_file(
    predictor: Predictor, shared_data: Path, tmp_path: Path
) -> None:
    path = shared_data / "robustness" / "ok_oblique39_hitachi_4slices.nii.gz"
    volume = read_volume(path)
    prediction = predictor.predict(volume)
    written = nib.load(write_map(tmp_path / "map.nii.gz", prediction.uncertainty, like=volume))
    original = nib.load(path)
    assert written.shape == original.shape[:3] and written.get_data_dtype() == np.float32
    np.testing.assert_allclose(written.affine, original.affine, atol=1e-4)
    back = read_volume(tmp_path / "map.nii.gz")
    np.testing.assert_allclose(back.array, prediction.uncertainty, atol=1e-6)
    assert prediction.uncertainty.min() >= 0 and prediction.uncertainty.max() <= 1


def test_uncertainty_is_highest_where_classes_meet(predictor: Predictor, synthetic_cases: list[LabeledCase]) -> None:
    prediction = predictor.predict(read_volume(synthetic_cases[2].image), variants=2)
    border = np.zeros(prediction.labels.shape, bool)
    border[1:] = prediction.labels[1:] != prediction.labels[:-1]
    assert prediction.uncertainty[border].mean() > 3 * prediction.uncertainty[~border].mean()


def test_entropy_is_zero_for_the_sure_and_one_for_the_clueless() -> None:
    probabilities = torch.tensor([[1.0, 0.25], [0.0, 0.25], [0.0, 0.25], [0.0, 0.25]]).reshape(4, 2, 1, 1)
    torch.testing.assert_close(normalised_entropy(probabilities).flatten(), torch.tensor([0.0, 1.0]))


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_comes_back_to_where_it_was(variant: object) -> None:
    image = torch.rand(1, 9, 8, 7) * 2 - 1
    back = variant.undo(variant.change(image))  # type: ignore[attr-defined]
    torch.testing.assert_close(back, ((image + 1) / 2).pow(variant.gamma) * 2 - 1)  # type: ignore[attr-defined]


def test_variants_and_the_check_report_and_can_be_stopped(
    predictor: Predictor, synthetic_cases: list[LabeledCase]
) -> None:
    events: list[Progress] = []
    volume = read_volume(synthetic_cases[2].image)
    prediction = predictor.predict(volume, variants=2, progress=events.append)
    case_quality(predictor, prediction, progress=events.append)
    stages = list(dict.fromkeys(event.stage for event in events))
    assert stages == ["segmenting", "segmenting variant 1 of 2", "segmenting variant 2 of 2", "checking"]
    with pytest.raises(Stopped):
        case_quality(predictor, prediction, should_stop=lambda: True)
    with pytest.raises(SettingsError, match="variants is 9"):
        predictor.predict(volume, variants=9)


def test_the_model_finds_a_known_regression_though_some_signals_are_missing() -> None:
    random = np.random.default_rng(0)
    first, second = random.normal(0, 1, (2, 2000))
    logits = np.stack([0.2 + 0.8 * first + 0.4 * second + random.normal(0, 0.2, 2000), first, second], axis=1)
    rows = 1 / (1 + np.exp(-logits))
    rows[random.uniform(size=2000) < 0.4, 2] = np.nan
    model = fit_quality_model(("dice", "first", "second"), rows, [f"{i // 2}" for i in range(2000)], {"set": ("a",)})
    both = model.estimate({"first": 0.7311, "second": 0.5})  # logits 1 and 0
    assert both.dice == pytest.approx(1 / (1 + np.exp(-1.0)), abs=0.01) and both.mean == pytest.approx(1.0, abs=0.05)
    assert both.deviation == pytest.approx(0.2, abs=0.03)
    assert model.estimate({"first": 0.8}).deviation == pytest.approx(np.hypot(0.2, 0.4), abs=0.05)
    assert model.together < 0.1 and model.widening == pytest.approx(1, abs=0.15)
    value, low, high = model.together_in([both, both])
    one = model.together_in([both])
    assert one[1] < low < value < high < one[2]  # the errors of two structures partly cancel


def test_sizes_of_few_volumes_are_believed_less_than_those_of_many() -> None:
    one, many = size_prior([100.0]), size_prior([100.0, 101.0, 99.0, 100.0, 102.0, 98.0, 100.0])
    assert one is not None and many is not None and one.spread > 2 * many.spread
    assert one.ordinary(125) and not one.ordinary(60)
    outlier = size_prior([100.0, 101.0, 99.0, 100.0, 300.0])
    assert outlier is not None and outlier.mean == pytest.approx(100, rel=0.01)
    assert size_prior([0.0, 0.0]) is None
