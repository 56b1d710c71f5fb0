"""Learning from partial labels: what was not annotated is never drawn, never counted; learning works all the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fm3d_core.adaptation import AdapterCard, FinetuneSettings, LabeledCase, finetune
from fm3d_core.adaptation.batches import Batch, CropSource, FeatureSource
from fm3d_core.adaptation.cases import TrainingCase, load_cases
from fm3d_core.adaptation.closed_form import Voxels, usable
from fm3d_core.errors import CaseError, FM3DError, LabelError
from fm3d_core.evaluation import dice_per_label, mean_dice
from fm3d_core.inference import Predictor
from fm3d_core.models.heads import LinearHead
from fm3d_core.models.network import DenseNetwork
from fm3d_core.models.voxel_features import draw_voxels
from fm3d_core.models.zoo import BackboneSpec, create_backbone
from fm3d_core.progress import ignore_progress, never_stop
from fm3d_core.tasks import SegmentationTask
from fm3d_core.volumes import (
    COMPLETE,
    IGNORED,
    SYNTHETIC_LABELS,
    Annotation,
    Preprocessing,
    read_label,
    read_volume,
    write_nifti,
    write_synthetic_cases,
)

Change = Callable[[np.ndarray], np.ndarray]  # type: ignore[type-arg]


def _changed(case: LabeledCase, folder: Path, change: Change, annotation: Annotation = COMPLETE) -> LabeledCase:
    """The case with its label changed."""
    label = read_label(case.label)
    write_nifti(folder / case.label.name, change(label.array.copy()).astype(np.uint8), label.affine)
    return replace(case, label=folder / case.label.name, annotation=annotation)


def _every_fifth_slice(array: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
    array[:, :, np.arange(array.shape[2]) % 5 != 2] = 0
    return array


def _scribbles(background: bool) -> Change:
    def draw(array: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
        """A few lines of each structure, and of the background if wanted."""
        kept = np.full_like(array, 255)
        kept[::4, ::5] = array[::4, ::5]
        return kept if background else np.where(kept == 0, 255, kept)

    return draw


def _one_voxel(array: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
    for value in (1, 2):
        x, y, z = np.argwhere(array == value)[0]
        array[array == value] = 0
        array[x, y, z] = value
    return array


def _at_the_border(array: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
    array[:] = 0
    array[0, :, 0], array[-1, -1, -4:] = 1, 2
    return array


@pytest.mark.parametrize(("method", "steps"), [("full", 20), ("linear_probe", 40)])
def test_every_fifth_slice_teaches_nearly_as_much_as_all(method: str, steps: int, tmp_path: Path) -> None:
    """Dice within 0.05 of complete labels, and at least 0.3 above taking the undrawn slices for background."""
    drawn = write_synthetic_cases(tmp_path / "data", 5, seed=5, shape=(32, 32, 24))
    complete = [LabeledCase(case.name, case.image, case.label) for case in drawn[:3] if case.label is not None]
    mistaken = [_changed(case, tmp_path, _every_fifth_slice) for case in complete]
    partial = [replace(case, annotation=Annotation(slices="drawn")) for case in mistaken]

    def dice(cases: list[LabeledCase]) -> float:
        settings = FinetuneSettings(method=method, steps=steps, device="cpu")
        predictor = Predictor(finetune(cases, SegmentationTask(SYNTHETIC_LABELS), settings))
        scores = []
        for case in drawn[3:]:
            assert case.label is not None
            found, truth = predictor.segment(read_volume(case.image)), read_label(case.label).array
            scores.append(mean_dice(dice_per_label(found, truth, SYNTHETIC_LABELS)))
        return float(np.mean(scores))

    with_all, with_fifth, with_mistake = dice(complete), dice(partial), dice(mistaken)
    assert with_fifth > with_all - 0.05, (with_all, with_fifth, with_mistake)
    assert with_fifth > with_mistake + 0.3, (with_all, with_fifth, with_mistake)


def test_the_card_records_what_was_annotated_and_old_cards_load(
    synthetic_cases: list[LabeledCase], task: SegmentationTask, quick: FinetuneSettings, tmp_path: Path
) -> None:
    slices = _changed(synthetic_cases[0], tmp_path, _every_fifth_slice, Annotation(slices="drawn"))
    only = Annotation(structures=("tube",))
    tube = _changed(synthetic_cases[1], tmp_path, lambda array: np.where(array == 2, 2, 0), only)
    card = finetune([slices, tube, synthetic_cases[2]], task, quick).card
    assert [case.annotation for case in card.cases] == [{"slices": "axial"}, {"structures": ["tube"]}, {}]
    assert any("Labelled in part" in note and slices.name in note and tube.name in note for note in card.notes)
    assert AdapterCard.from_dict(card.to_dict()) == card
    old = card.to_dict()
    for case in old["cases"]:
        del case["annotation"]
    assert [case.annotation for case in AdapterCard.from_dict(old).cases] == [{}, {}, {}]


@pytest.mark.parametrize("method", ["full", "linear_probe"])
@pytest.mark.parametrize("change", [_one_voxel, _at_the_border, _scribbles(True)])
def test_hardly_any_label_is_enough_to_train(
    method: str, change: Change, synthetic_cases: list[LabeledCase], task: SegmentationTask, tmp_path: Path
) -> None:
    """The two cases differ in spacing and orientation."""
    cases = [_changed(case, tmp_path, change, Annotation(unlabelled_value=255)) for case in synthetic_cases[:2]]
    first, second = (read_volume(case.image).source for case in cases)
    assert not np.allclose(first.affine, second.affine, atol=0.1)
    as_it_is = replace(task, preprocessing=Preprocessing(crop_foreground=False))
    adapter = finetune(cases, as_it_is, FinetuneSettings(method=method, steps=2, device="cpu"))
    assert np.isfinite(adapter.card.training["loss"])
    assert all(tensor.isfinite().all() for tensor in adapter.tensors.values())


def test_a_structure_lost_in_resampling_is_refused_by_name(
    synthetic_cases: list[LabeledCase], task: SegmentationTask, quick: FinetuneSettings, tmp_path: Path
) -> None:
    cases = [_changed(case, tmp_path, _one_voxel) for case in synthetic_cases[:2]]
    coarse = replace(task, preprocessing=Preprocessing(spacing=(9.0, 9.0, 9.0)))
    with pytest.raises(CaseError, match=r"no voxel of .*(ellipsoid|tube).* is left after resampling"):
        finetune(cases, coarse, quick)


def test_structures_missing_in_some_volumes_are_learned_from_the_others(
    synthetic_cases: list[LabeledCase], task: SegmentationTask, quick: FinetuneSettings, tmp_path: Path
) -> None:
    cases = [
        _changed(case, tmp_path, lambda array, value=value: np.where(array == value, value, 0), Annotation((name,)))
        for value, (name, case) in enumerate(zip(task.labels, synthetic_cases[:2], strict=True), start=1)
    ]
    loaded, refused = load_cases(cases, task)
    assert [case.annotated for case in loaded] == [(0, 1), (0, 2)] and not refused
    adapter = finetune(cases, task, quick)
    assert all(tensor.isfinite().all() for tensor in adapter.tensors.values())
    # a single case that is only annotated for one structure cannot teach the other
    with pytest.raises(CaseError, match="no case contains tube"):
        load_cases(cases[:1], task)


def test_labels_that_can_teach_nothing_are_refused(
    synthetic_cases: list[LabeledCase], task: SegmentationTask, tmp_path: Path
) -> None:
    case, unlabelled = synthetic_cases[0], Annotation(unlabelled_value=255)
    nothing = _changed(case, tmp_path, lambda array: np.full_like(array, 255), unlabelled)
    with pytest.raises(LabelError, match="none of ellipsoid, tube is labelled"):
        load_cases([nothing], task)
    background = _changed(case, tmp_path, np.zeros_like)
    with pytest.raises(LabelError, match="every voxel is background"):
        load_cases([background], task)
    scribbles = _changed(case, tmp_path, _scribbles(False), unlabelled)
    with pytest.raises(CaseError, match="no voxel is annotated as background"):
        load_cases([scribbles], task)
    # another volume may teach the background
    assert len(load_cases([scribbles, synthetic_cases[1]], task)[0]) == 2
    # without saying what 255 means it is an unknown value
    with pytest.raises(FM3DError, match="unknown label values 255"):
        load_cases([replace(scribbles, annotation=COMPLETE)], task)


def test_a_volume_given_twice_is_used_once_and_contradictions_are_stated(
    synthetic_cases: list[LabeledCase], task: SegmentationTask, quick: FinetuneSettings, tmp_path: Path
) -> None:
    case = synthetic_cases[0]
    other = replace(_changed(case, tmp_path, lambda array: np.roll(array, 1, 0)), name="second rater")
    card = finetune([case, replace(case, name="copy"), other], task, quick).card
    assert [used.name for used in card.cases] == [case.name, "second rater"]
    assert card.left_out == (f"copy: is the same image with the same label as {case.name}. It is used once.",)
    assert any(f"second rater is the same image as {case.name} with another label" in note for note in card.notes)


def _sparse() -> TrainingCase:
    """Unknown but for two slices at one end, with three voxels of structures."""
    label = torch.full((1, 40, 40, 40), IGNORED, dtype=torch.uint8)
    label[..., 1:3] = 0
    label[0, 3, 3, 1], label[0, 3:5, 30, 2] = 2, 1
    return TrainingCase("case", torch.rand((1, 40, 40, 40)) * 2 - 1, label, (1.0, 1.0, 1.0), (0, 1, 2))


def test_crops_always_show_something_known() -> None:
    generator = torch.Generator().manual_seed(0)
    case = _sparse()
    source = CropSource(None, [case], (8, 8, 8), 1, generator, torch.device("cpu"), None)  # type: ignore[arg-type]
    for _ in range(40):
        batch = source.draw()
        assert (batch.target != IGNORED).any()
        assert set(batch.target.unique().tolist()) <= {0, 1, 2, IGNORED}
        assert batch.annotated is not None and batch.annotated.tolist() == [[True, True, True]]


def test_windows_in_which_nothing_is_known_are_left_out() -> None:
    backbone = create_backbone(BackboneSpec("residual_unet_small"))
    network = DenseNetwork(backbone, LinearHead(backbone.feature_channels, 3))
    generator = torch.Generator().manual_seed(0)
    source = FeatureSource(
        network,
        [_sparse()],
        (24, 24, 8),
        generator,
        torch.device("cpu"),
        progress=ignore_progress,
        should_stop=never_stop,
    )
    targets = [batch.target for batch in source._items]
    assert len(targets) == 4 and all((target != IGNORED).any() for target in targets)
    found = [int(((target > 0) & (target != IGNORED)).sum()) for target in targets]
    assert found == sorted(found, reverse=True)


def test_no_voxel_is_drawn_that_is_not_known() -> None:
    label = _sparse().label[0].long()
    known = label != IGNORED
    drawn = draw_voxels(label, 500, torch.Generator().manual_seed(0), known)
    assert set(label.flatten()[drawn].tolist()) == {0, 1, 2}
    everything = torch.ones_like(known)
    first, second = (draw_voxels(label, 500, torch.Generator().manual_seed(1), each) for each in (None, everything))
    assert torch.equal(first, second)


def test_doubtful_background_is_solved_with_only_if_there_is_no_other() -> None:
    def voxels(labels: list[int]) -> Voxels:
        return Voxels(torch.arange(len(labels)).float()[:, None], torch.tensor(labels), torch.ones(len(labels)))

    partial = (voxels([0, 1, 0]), torch.tensor([True, False, True]))
    complete = (voxels([0, 2, 2]), torch.tensor([False] * 3))
    unknown = (voxels([IGNORED] * 3), torch.tensor([False] * 3))
    assert [each.labels.tolist() for each in usable([partial, complete, unknown])] == [[1], [0, 2, 2]]
    assert [each.labels.tolist() for each in usable([partial, unknown])] == [[0, 1, 0]]
    assert usable([unknown]) == []


def test_a_batch_needs_no_annotation_if_all_is_annotated(synthetic_cases: list[LabeledCase]) -> None:
    assert Batch((), torch.zeros(1, 1, 2, 2, 2), ("a",)).annotated is None
    loaded, _ = load_cases(synthetic_cases[:1], SegmentationTask(SYNTHETIC_LABELS))
    assert loaded[0].annotated is None and loaded[0].annotation.complete
