"""Volumes and segments between a real MRML scene and files, judged by nibabel and by the voxels themselves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import slicer
import vtk
from SlicerFM3DLib import scene, segments
from SlicerFM3DLib.errors import SceneError

nibabel = pytest.importorskip("nibabel")

NAMES = ["anterior", "posterior"]


def oblique_affine() -> np.ndarray:
    """RAS affine, rotated about two axes, anisotropic."""
    a, b = np.deg2rad(17.0), np.deg2rad(-8.0)
    about_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    affine = np.eye(4)
    affine[:3, :3] = about_z @ about_x @ np.diag([0.8, 1.1, 2.5])
    affine[:3, 3] = [-31.7, 12.3, -250.9]
    return affine


AFFINES = {
    "RAS": np.array([[1.0, 0, 0, 5], [0, 1.5, 0, -7], [0, 0, 3, 11], [0, 0, 0, 1]]),
    "LAS": np.array([[-1.0, 0, 0, 50], [0, 1.5, 0, -7], [0, 0, 3, 11], [0, 0, 0, 1]]),
    "axes swapped, left-handed": np.array([[0, -2.0, 0, 50], [-1, 0, 0, 90], [0, 0, 3, 11], [0, 0, 0, 1]]),
    "oblique": oblique_affine(),
}


@pytest.fixture(params=list(AFFINES))
def file(request, tmp_path) -> Path:
    """A NIfTI volume as a scanner would send it; every voxel value occurs once."""
    array = np.arange(12 * 9 * 7, dtype=np.int16).reshape(12, 9, 7)
    path = tmp_path / "case.nii.gz"
    nibabel.save(nibabel.Nifti1Image(array, AFFINES[request.param]), path)
    return path


def label_array(shape: tuple[int, ...]) -> np.ndarray:
    """Two structures that touch, neither symmetric."""
    label = np.zeros(shape, np.uint8)
    label[2:7, 1:5, 2:6] = 1
    label[7:10, 2:8, 1:5] = 2
    label[2, 1, 2] = 2
    return label


def read_nrrd(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Array and RAS affine of a .nrrd file, by SimpleITK (LPS)."""
    sitk = pytest.importorskip("SimpleITK")
    image = sitk.ReadImage(str(path))
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) @ np.diag(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    return sitk.GetArrayFromImage(image).transpose(), np.diag([-1, -1, 1, 1]) @ affine


def assert_same_in_space(one: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray]) -> None:
    """Two (array, affine) hold the same voxels at the same places.

    Compared in the closest RAS order, because Slicer turns a left-handed grid (LAS, for one) into a right-handed
    one when it reads a file: array and affine together stay true.
    """
    images = [nibabel.as_closest_canonical(nibabel.Nifti1Image(array, affine)) for array, affine in (one, other)]
    np.testing.assert_array_equal(*(np.asarray(image.dataobj) for image in images))
    np.testing.assert_allclose(images[0].affine, images[1].affine, atol=1e-4)


def ijk_to_ras(volume) -> np.ndarray:
    matrix = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    return slicer.util.arrayFromVTKMatrix(matrix)


def segment_voxels(segmentation, name: str, volume) -> np.ndarray:
    segment = segmentation.GetSegmentation().GetSegmentIdBySegmentName(name)
    return slicer.util.arrayFromSegmentBinaryLabelmap(segmentation, segment, volume).transpose()


def test_a_volume_goes_through_the_scene_unchanged(file, tmp_path):
    volume = scene.readVolume(file, "case")
    original = nibabel.load(file)
    written = read_nrrd(scene.writeVolume(volume, tmp_path / "out.nrrd"))
    assert_same_in_space(written, (np.asarray(original.dataobj), original.affine))
    assert volume.GetName() == "case" and volume.GetStorageNode() is None


def test_a_segmentation_from_the_server_lies_where_the_label_file_says(file, tmp_path):
    volume = scene.readVolume(file, "case")
    label = label_array((12, 9, 7))
    nibabel.save(nibabel.Nifti1Image(label, nibabel.load(file).affine), tmp_path / "label.nii.gz")
    values = {"anterior": 1, "posterior": 2, "amygdala": 3}
    segmentation = scene.readSegmentation(tmp_path / "label.nii.gz", volume, values, "result")
    affine = ijk_to_ras(volume)
    for name, value in list(values.items())[:2]:
        voxels = segment_voxels(segmentation, name, volume)
        assert_same_in_space((voxels, affine), ((label == value).astype(np.uint8), nibabel.load(file).affine))
    names = [
        segmentation.GetSegmentation().GetSegment(s).GetName() for s in segmentation.GetSegmentation().GetSegmentIDs()
    ]
    assert names == list(values), "a structure that was not found is there to be painted"
    assert not slicer.util.getNodesByClass("vtkMRMLLabelMapVolumeNode")


def test_segments_come_back_voxel_exact_on_the_volumes_grid(file, tmp_path):
    """File -> scene -> segments -> file: what a clinician submits unedited is what the server sent."""
    volume = scene.readVolume(file, "case")
    label = label_array((12, 9, 7))
    nibabel.save(nibabel.Nifti1Image(label, nibabel.load(file).affine), tmp_path / "label.nii.gz")
    segmentation = scene.readSegmentation(tmp_path / "label.nii.gz", volume, {"anterior": 1, "posterior": 2}, "r")
    written = scene.writeLabel(segmentation, volume, NAMES, tmp_path / "back.nrrd")
    array, affine = read_nrrd(written.path)
    assert_same_in_space((array, affine), (label, nibabel.load(file).affine))
    assert array.dtype == np.uint8 and (written.empty, written.ignored, written.overlap) == ([], [], 0)


@pytest.fixture
def volume():
    volume = slicer.util.addVolumeFromArray(np.zeros((7, 9, 12), np.int16), name="case")
    volume.SetSpacing(1, 1.5, 3)
    volume.SetOrigin(5, -7, 11)
    return volume


def draw(segmentation, name: str, voxels: tuple[slice, ...], volume) -> None:
    mask = np.zeros((7, 9, 12), np.uint8)
    mask[voxels] = 1
    segment = segmentation.GetSegmentation().GetSegmentIdBySegmentName(name)
    slicer.util.updateSegmentBinaryLabelmapFromArray(mask, segmentation, segment, volume)


def test_values_follow_the_names_and_not_the_order_of_the_segments(volume, tmp_path):
    segmentation = scene.createSegmentation(volume, ["scribble", "anterior", "posterior"], "s")
    draw(segmentation, "scribble", np.s_[6:, :, :], volume)
    draw(segmentation, "posterior", np.s_[:2, :4, :4], volume)
    draw(segmentation, "anterior", np.s_[3:5, :4, :4], volume)
    written = scene.writeLabel(segmentation, volume, ["posterior", "anterior"], tmp_path / "label.nrrd")
    array, _ = read_nrrd(written.path)
    expected = np.zeros((7, 9, 12), np.uint8)
    expected[:2, :4, :4], expected[3:5, :4, :4] = 1, 2
    np.testing.assert_array_equal(array.transpose(), expected)
    assert written.labelInfo == [{"name": "posterior", "idx": 1}, {"name": "anterior", "idx": 2}]
    assert written.ignored == ["scribble"]


def test_a_structure_left_out_keeps_its_value_free(volume, tmp_path):
    segmentation = scene.createSegmentation(volume, ["posterior"], "s")
    draw(segmentation, "posterior", np.s_[:2, :4, :4], volume)
    written = scene.writeLabel(segmentation, volume, NAMES, tmp_path / "label.nrrd")
    assert set(np.unique(read_nrrd(written.path)[0])) == {0, 2} and written.empty == ["anterior"]


def test_voxels_of_two_structures_are_counted(volume, tmp_path):
    segmentation = scene.createSegmentation(volume, NAMES, "s")
    draw(segmentation, "anterior", np.s_[:3, :2, :2], volume)
    draw(segmentation, "posterior", np.s_[2:4, :2, :2], volume)
    assert scene.writeLabel(segmentation, volume, NAMES, tmp_path / "label.nrrd").overlap == 4


def test_a_moved_volume_and_its_segments_stay_on_their_own_grid(volume, tmp_path):
    """A transform (registration) moves both in the scene; files hold the grid as it was scanned."""
    shift = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    matrix = vtk.vtkMatrix4x4()
    matrix.SetElement(0, 3, 17.3)
    shift.SetMatrixTransformToParent(matrix)
    volume.SetAndObserveTransformNodeID(shift.GetID())
    segmentation = scene.createSegmentation(volume, ["anterior"], "s")
    draw(segmentation, "anterior", np.s_[1:3, 2:6, 3:9], volume)
    written = scene.writeLabel(segmentation, volume, ["anterior"], tmp_path / "label.nrrd")
    array, affine = read_nrrd(written.path)
    expected = np.zeros((7, 9, 12), np.uint8)
    expected[1:3, 2:6, 3:9] = 1
    np.testing.assert_array_equal(array.transpose(), expected)
    np.testing.assert_allclose(affine, read_nrrd(scene.writeVolume(volume, tmp_path / "image.nrrd"))[1])
    back = scene.readSegmentation(written.path, volume, {"anterior": 1}, "back")
    np.testing.assert_array_equal(segment_voxels(back, "anterior", volume), array)


def test_a_segmentation_of_another_volume_is_not_sent_for_this_one(volume, tmp_path):
    other = slicer.util.addVolumeFromArray(np.zeros((7, 9, 12), np.int16), name="another patient")
    segmentation = scene.createSegmentation(other, NAMES, "s")
    with pytest.raises(SceneError, match="'s' was made for 'another patient'"):
        scene.writeLabel(segmentation, volume, NAMES, tmp_path / "label.nrrd")


def test_a_segmentation_without_a_voxel_is_not_sent(volume, tmp_path):
    segmentation = scene.createSegmentation(volume, NAMES, "s")
    with pytest.raises(SceneError, match="None of the structures anterior, posterior is drawn"):
        scene.writeLabel(segmentation, volume, NAMES, tmp_path / "label.nrrd")
    assert not list(tmp_path.iterdir())


def test_two_segments_of_one_name_are_refused(volume, tmp_path):
    segmentation = scene.createSegmentation(volume, ["liver", "liver"], "s")
    with pytest.raises(SceneError, match="Two segments are called 'liver'"):
        scene.writeLabel(segmentation, volume, ["liver"], tmp_path / "label.nrrd")


def test_a_segmentation_on_another_grid_is_refused(volume, tmp_path):
    for name, affine, shape in [
        ("shifted", np.diag([-1, -1.5, 3, 1.0]), (12, 9, 7)),
        ("smaller", np.diag([1, 1.5, 3, 1.0]), (11, 9, 7)),
    ]:
        path = tmp_path / f"{name}.nii.gz"
        nibabel.save(nibabel.Nifti1Image(np.ones(shape, np.uint8), affine), path)
        with pytest.raises(SceneError, match="does not lie on the grid of 'case'"):
            scene.readSegmentation(path, volume, {"liver": 1}, "r")
    assert not slicer.util.getNodesByClass("vtkMRMLSegmentationNode")


def test_a_value_without_a_name_is_refused(volume, tmp_path):
    affine = np.array([[1, 0, 0, 5], [0, 1.5, 0, -7], [0, 0, 3, 11], [0, 0, 0, 1.0]])
    nibabel.save(nibabel.Nifti1Image(np.full((12, 9, 7), 7, np.uint8), affine), tmp_path / "l.nii.gz")
    with pytest.raises(SceneError, match="the value 7, which has no name"):
        scene.readSegmentation(tmp_path / "l.nii.gz", volume, {"liver": 1}, "r")


def test_a_broken_file_is_refused_in_words(volume, tmp_path):
    (tmp_path / "broken.nii.gz").write_bytes(b"\x1f\x8b not really")
    with pytest.raises(SceneError, match="Cannot read the volume case-7"):
        scene.readVolume(tmp_path / "broken.nii.gz", "case-7")
    with pytest.raises(SceneError, match="Cannot read the segmentation"):
        scene.readSegmentation(tmp_path / "broken.nii.gz", volume, {"liver": 1}, "r")


def test_a_colour_picture_is_not_sent(tmp_path):
    picture = slicer.util.addVolumeFromArray(
        np.zeros((3, 4, 5, 3), np.uint8), name="photo", nodeClassName="vtkMRMLVectorVolumeNode"
    )
    with pytest.raises(SceneError, match="'photo' has several values per voxel"):
        scene.writeVolume(picture, tmp_path / "photo.nrrd")


def test_a_volume_is_known_only_to_the_server_it_was_sent_to(volume):
    scene.rememberImageId(volume, "http://127.0.0.1:8000", "case-1")
    assert scene.imageId(volume, "http://127.0.0.1:8000") == "case-1"
    assert scene.imageId(volume, "http://127.0.0.1:9000") == "" == scene.imageId(None, "http://127.0.0.1:8000")


@pytest.mark.parametrize(
    ("name", "identifier"),
    [("CT 2: abdomen", "CT_2_abdomen"), ("../../etc", "etc"), ("腹部", "volume"), ("taken", "taken-3"), ("a.b", "a_b")],
)
def test_an_image_id_is_safe_and_unique(name, identifier):
    assert scene.newImageId(name, {"taken", "taken-2"}) == identifier


def test_structure_names_are_read_as_typed():
    assert scene.parseNames(" liver ,left   kidney,, ") == ["liver", "left kidney"]
    with pytest.raises(SceneError, match="at least one"):
        scene.parseNames(" , ")
    with pytest.raises(SceneError, match="'liver' is listed twice"):
        scene.parseNames("liver, spleen, liver")


def oblique_volume():
    volume = slicer.util.addVolumeFromArray(np.zeros((12, 16, 18), np.int16), name="oblique")
    volume.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(oblique_affine()))
    return volume


@pytest.mark.parametrize("transformed", [False, True], ids=["as it is", "under a transform"])
def test_segments_are_drawn_and_read_as_slicer_itself_does_it(transformed):
    """The short way over the drawn part of the volume gives the voxels of slicer.util's way over the whole."""
    volume = oblique_volume()
    if transformed:
        transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
        volume.SetAndObserveTransformNodeID(transform.GetID())
    segmentation = scene.createSegmentation(volume, ["a", "b"], "drawn")
    masks = {}
    for number, name in enumerate(("a", "b", "a")):  # "a" is drawn anew at last
        masks[name] = np.random.default_rng(number).random(slicer.util.arrayFromVolume(volume).shape) > 0.9
        masks[name][: 1 + number] = masks[name][:, -2:] = False
        segments.setSegment(segmentation, volume, name, masks[name])
    for name, mask in masks.items():
        identifier = segments.segmentsByName(segmentation)[name]
        theirs = slicer.util.arrayFromSegmentBinaryLabelmap(segmentation, identifier, volume) > 0
        np.testing.assert_array_equal(theirs, mask)
        np.testing.assert_array_equal(segments.segmentVoxels(segmentation, volume, name), mask)
    segments.setSegment(segmentation, volume, "a", np.zeros_like(masks["a"]))
    assert not segments.segmentVoxels(segmentation, volume, "a").any()
    np.testing.assert_array_equal(segments.segmentVoxels(segmentation, volume, "b"), masks["b"])


def test_a_segment_drawn_on_another_grid_is_resampled():
    volume = oblique_volume()
    finer = slicer.util.addVolumeFromArray(np.zeros((24, 32, 36), np.int16), name="finer")
    segmentation = scene.createSegmentation(finer, ["a"], "drawn")
    segments.setSegment(segmentation, finer, "a", np.ones((24, 32, 36), bool))
    identifier = segments.segmentsByName(segmentation)["a"]
    theirs = slicer.util.arrayFromSegmentBinaryLabelmap(segmentation, identifier, volume) > 0
    np.testing.assert_array_equal(segments.segmentVoxels(segmentation, volume, "a"), theirs)
