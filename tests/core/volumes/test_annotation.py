"""What was annotated: how it is said, found, kept through resampling, and refused where it contradicts the label."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from fm3d_core.errors import LabelError, SettingsError
from fm3d_core.volumes import (
    COMPLETE,
    IGNORED,
    Annotation,
    Case,
    Preprocessing,
    Volume,
    map_label,
    read_annotations,
    read_label,
    read_label_names,
    read_volume,
    write_nifti,
)
from fm3d_core.volumes.grids import nearest, nearest_known

VALUES = {"a": 1, "b": 2}


def _label(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> Volume:  # type: ignore[type-arg]
    write_nifti(path / "label.nii.gz", array.astype(np.uint8), np.eye(4) if affine is None else affine)
    return read_label(path / "label.nii.gz")


def _ball(step: int, axis: int = 2) -> np.ndarray:  # type: ignore[type-arg]
    """A ball of 1 in 20^3 voxels, drawn in every ``step``-th slice."""
    place = np.indices((20, 20, 20)) - 9.5
    ball = ((place**2).sum(0) < 60).astype(np.uint8)
    ball[np.indices(ball.shape)[axis] % step != 0] = 0
    return ball


@pytest.mark.parametrize(("axis", "name"), enumerate(("sagittal", "coronal", "axial")))
@pytest.mark.parametrize("step", [2, 5])
def test_the_direction_of_drawn_slices_is_found(axis: int, name: str, step: int, tmp_path: Path) -> None:
    label = _label(tmp_path, _ball(step, axis))
    mapped, found = map_label(label, VALUES, ("a", "b"), Annotation(slices="drawn"))
    assert found.slices == name
    across = np.moveaxis(mapped.array, axis, 0)
    drawn = np.moveaxis(label.array, axis, 0).any(axis=(1, 2))
    assert (across[~drawn] == IGNORED).all() and (across[drawn] != IGNORED).all()
    assert np.array_equal(across[drawn], np.moveaxis(label.array, axis, 0)[drawn])


def test_the_direction_is_that_of_the_body_not_of_the_file(tmp_path: Path) -> None:
    turned = np.eye(4)[[2, 0, 1, 3]]  # the file's first axis is the body's y
    assert nib.aff2axcodes(turned) == ("A", "S", "R")
    label = _label(tmp_path, _ball(5, axis=0), turned)
    assert map_label(label, VALUES, ("a",), Annotation(slices="drawn"))[1].slices == "coronal"


def test_a_block_of_slices_or_a_voxel_does_not_tell_the_direction(tmp_path: Path) -> None:
    voxel = np.zeros((8, 8, 8))
    voxel[0, 7, 3] = 1
    for array in (_ball(1), voxel):
        label = _label(tmp_path, array)
        with pytest.raises(LabelError, match=r"label\.nii\.gz: does not tell in which direction"):
            map_label(label, VALUES, ("a",), Annotation(slices="drawn"))
        mapped, _ = map_label(label, VALUES, ("a",), Annotation(slices="coronal"))
        drawn = array.any(axis=(0, 2))
        assert (mapped.array[:, ~drawn] == IGNORED).all() and (mapped.array[:, drawn] != IGNORED).all()


def test_a_value_may_mean_not_annotated_also_0(tmp_path: Path) -> None:
    array = np.zeros((6, 6, 6))
    array[0], array[1], array[2] = 9, 1, 2
    label = _label(tmp_path, array)
    mapped, _ = map_label(label, VALUES, ("b",), Annotation(unlabelled_value=9))
    assert [mapped.array[x, 0, 0] for x in range(4)] == [IGNORED, 0, 1, 0]
    mapped, _ = map_label(label, {"a": 1, "b": 2, "background": 9}, ("a", "b"), Annotation(unlabelled_value=0))
    assert [mapped.array[x, 0, 0] for x in range(4)] == [0, 1, 2, IGNORED]


def test_what_contradicts_the_label_is_refused(tmp_path: Path) -> None:
    label = _label(tmp_path, _ball(1))
    with pytest.raises(LabelError, match="shows a, said to be not annotated"):
        map_label(label, VALUES, ("a", "b"), Annotation(structures=("b",)))
    with pytest.raises(LabelError, match="annotated for spleen"):
        map_label(label, VALUES, ("a", "b"), Annotation(structures=("a", "spleen")))
    with pytest.raises(LabelError, match="2 means both b and not annotated"):
        Annotation(unlabelled_value=2).names_of(VALUES)
    with pytest.raises(LabelError, match="same voxel value"):
        COMPLETE.names_of({"a": 1, "b": 1})


@pytest.mark.parametrize("bad", [{"slices": "some"}, {"unlabelled_value": 300}, {"structures": "a"}, {"slice": "all"}])
def test_impossible_annotations_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(SettingsError):
        Annotation.from_dict(bad)


def test_an_annotation_survives_json() -> None:
    annotation = Annotation(("a",), 255, "axial")
    assert Annotation.from_dict(json.loads(json.dumps(annotation.to_dict()))) == annotation
    assert COMPLETE.to_dict() == {} and Annotation.from_dict({}) == COMPLETE


def test_resampling_keeps_single_slices_and_invents_no_value() -> None:
    values = np.full((4, 4, 30), IGNORED, np.uint8)
    values[..., ::5] = 0
    values[1:3, 1:3, ::5] = 2
    for shape in ((4, 4, 15), (2, 3, 11), (8, 8, 60), (4, 4, 30)):
        found = nearest_known(values, shape, IGNORED)
        assert set(np.unique(found)) == {0, 2, IGNORED}
        known = (found[0, 0] != IGNORED).sum()
        assert known == 6 * max(shape[2] // 30, 1), shape  # none of the six slices is lost
    complete = np.where(values == IGNORED, 1, values)
    assert np.array_equal(nearest_known(complete, (2, 3, 11), IGNORED), nearest(complete, (2, 3, 11)))


def test_prepared_labels_lie_where_their_image_does(tmp_path: Path) -> None:
    affine = np.diag([-1.5, 1.0, 3.0, 1.0])
    image = np.random.default_rng(0).normal(100, 5, (20, 20, 20)).astype(np.float32)
    write_nifti(tmp_path / "image.nii.gz", image, affine)
    label, _ = map_label(_label(tmp_path, _ball(5), affine), VALUES, ("a",), Annotation(slices="axial"))
    for spacing in (None, (1.0, 1.0, 1.0), (4.0, 4.0, 5.0)):
        preprocessing = Preprocessing(spacing=spacing)
        prepared = preprocessing.prepare(read_volume(tmp_path / "image.nii.gz"))
        found = preprocessing.prepare_label(label, prepared, ignored=IGNORED)
        assert found.shape == prepared.image.shape and set(found.unique().tolist()) == {0, 1, IGNORED}


def _cases(*names: str) -> list[Case]:
    return [Case(name, Path(name), None) for name in names]


def test_a_folder_says_what_was_annotated(tmp_path: Path) -> None:
    assert read_annotations(tmp_path, _cases("x")) == {"x": COMPLETE}
    (tmp_path / "labels.json").write_text('{"1": "a", "2": "b", "255": "ignore"}')
    content = {"slices": "axial", "cases": {"y": {"slices": "all", "structures": ["a"], "unlabelled_value": None}}}
    (tmp_path / "annotation.json").write_text(json.dumps(content))
    assert read_annotations(tmp_path, _cases("x", "y")) == {
        "x": Annotation(unlabelled_value=255, slices="axial"),
        "y": Annotation(structures=("a",)),
    }
    assert read_label_names(tmp_path) == {1: "a", 2: "b"}


@pytest.mark.parametrize("text", ["{", "[]", '{"cases": ["x"]}', '{"cases": {"z": {}}}', '{"slices": 5}', '{"no": 1}'])
def test_a_file_that_does_not_say_it_is_refused_by_name(text: str, tmp_path: Path) -> None:
    (tmp_path / "annotation.json").write_text(text)
    with pytest.raises(SettingsError, match=r"annotation\.json"):
        read_annotations(tmp_path, _cases("x"))


@pytest.mark.parametrize("text", ['{"1": "a", "2": "a"}', '{"1": "a", "2": " a"}', '{"a": 1, "b": 1}'])
def test_two_structures_of_one_name_or_value_are_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "labels.json").write_text(text)
    with pytest.raises(SettingsError, match="twice"):
        read_label_names(tmp_path)
