"""Folders of cases."""

from __future__ import annotations

from pathlib import Path

import pytest

from fm3d_core.errors import CaseError
from fm3d_core.volumes import Case, case_name, find_cases


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("a.nii.gz", "a"),
        ("a.b.nii", "a.b"),
        ("A.NRRD", "A"),
        ("x/scan.seg.nrrd", "scan"),
        ("1.2.840.113", "1.2.840.113"),
        (".nii", ".nii"),
    ],
)
def test_a_case_is_named_after_its_file_without_the_image_suffix(file: str, name: str) -> None:
    assert case_name(file) == name


@pytest.mark.parametrize(("images", "labels"), [("images", "labels"), ("imagesTr", "labelsTr")])
def test_images_and_labels_of_one_name_belong_together_whatever_the_format(
    tmp_path: Path, images: str, labels: str
) -> None:
    touch(tmp_path / images / "b.nrrd", tmp_path / images / "a.nii.gz", tmp_path / labels / "b.nii.gz")
    touch(tmp_path / images / "._a.nii.gz", tmp_path / images / "notes.txt", tmp_path / "labels.json")
    assert find_cases(tmp_path) == [
        Case("a", tmp_path / images / "a.nii.gz", None),
        Case("b", tmp_path / images / "b.nrrd", tmp_path / labels / "b.nii.gz"),
    ]
    assert [case.name for case in find_cases(tmp_path, labelled=False)] == ["a"]


def test_a_folder_may_hold_the_images_directly(tmp_path: Path) -> None:
    touch(tmp_path / "x.nii", tmp_path / "pair.img", tmp_path / "pair.hdr", tmp_path / "results" / "log.txt")
    assert [case.image.name for case in find_cases(tmp_path)] == ["pair.hdr", "x.nii"]


def test_a_folder_of_dicom_slices_is_one_case(tmp_path: Path) -> None:
    touch(tmp_path / "images" / "p.01" / "IM1", tmp_path / "labels" / "p.01.nii.gz")
    (tmp_path / "images" / "p.01" / "IM1").write_bytes(bytes(128) + b"DICM")
    (case,) = find_cases(tmp_path, labelled=True)
    assert (case.name, case.image.name) == ("p.01", "p.01")


def test_orphans_are_named_when_every_case_must_be_labelled(tmp_path: Path) -> None:
    touch(*(tmp_path / "images" / f"{name}.nii" for name in "abc"), tmp_path / "labels" / "a.nii")
    with pytest.raises(CaseError, match="images without a label: b, c"):
        find_cases(tmp_path, labelled=True)
    touch(*(tmp_path / "labels" / f"{name}.nii" for name in "bcz"))
    with pytest.raises(CaseError, match="labels without an image: z"):
        find_cases(tmp_path, labelled=True)


@pytest.mark.parametrize("second", ["a.nrrd", "A.nii.gz"])
def test_two_files_of_one_name_are_refused(tmp_path: Path, second: str) -> None:
    touch(tmp_path / "images" / "a.nii.gz", tmp_path / "images" / second)
    with pytest.raises(CaseError, match="same case name"):
        find_cases(tmp_path)


def test_links_that_lead_outside_are_not_followed(tmp_path: Path) -> None:
    touch(tmp_path / "secret.nii", tmp_path / "study" / "images" / "a.nii")
    (tmp_path / "study" / "images" / "b.nii").symlink_to(tmp_path / "secret.nii")
    (tmp_path / "study" / "images" / "c.nii").symlink_to(tmp_path / "study" / "images" / "a.nii")
    assert [case.name for case in find_cases(tmp_path / "study")] == ["a", "c"]


@pytest.mark.parametrize("name", ["images", "nowhere"])
def test_a_folder_without_images_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "images").mkdir()
    with pytest.raises(CaseError, match=r"holds no images|is no folder"):
        find_cases(tmp_path / name)


def test_the_real_hippocampus_set_is_found_complete(shared_data: Path) -> None:
    cases = find_cases(shared_data / "hippocampus", labelled=True)
    assert len(cases) == 174
    assert all(case.image.name == case.label.name for case in cases if case.label)
