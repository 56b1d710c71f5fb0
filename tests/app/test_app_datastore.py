"""The study folder: nothing unsafe or unusable is ever kept."""

import gzip
import json
import shutil

import nibabel
import numpy as np
import pytest

from fm3d_core.errors import LabelError, SettingsError, VolumeError
from MonaiLabelApp.lib.datastore import CheckedDatastore
from MonaiLabelApp.lib.errors import Conflict, UnknownImage

NAMED = [{"name": "ellipsoid", "idx": 1}, {"name": "tube", "idx": 2}]


def files_in(folder):
    return sorted(
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.name != ".lock"
    )


def test_an_uploaded_image_is_found_by_its_id(datastore, synthetic_cases):
    assert datastore.add_image("case_1", str(synthetic_cases[0].image), {}) == "case_1"
    assert datastore.image_file("case_1").read_bytes() == synthetic_cases[0].image.read_bytes()


@pytest.mark.parametrize("image_id", ["../../x", "..", ".hidden", "a/b", "", "a b", "x" * 200])
def test_ids_that_could_leave_the_folder_are_refused(datastore, synthetic_cases, tmp_path, image_id):
    before = files_in(tmp_path)
    with pytest.raises(SettingsError, match="the image id"):
        datastore.add_image(image_id, str(synthetic_cases[0].image), {})
    assert files_in(tmp_path) == before


@pytest.mark.parametrize("tag", ["..", "../../../x", ".x", "a/b", ""])
def test_tags_that_could_leave_the_folder_are_refused(datastore, synthetic_cases, tmp_path, tag):
    case = synthetic_cases[0]
    datastore.add_image(case.name, str(case.image), {})
    before = files_in(tmp_path)
    with pytest.raises(SettingsError, match="the tag"):
        datastore.save_label(case.name, str(case.label), tag, {"label_info": NAMED})
    assert files_in(tmp_path) == before


@pytest.mark.parametrize("suffix", [".exe", ".py", ".npy", ".pt", ".json", ""])
def test_other_kinds_of_files_are_refused(datastore, synthetic_cases, tmp_path, suffix):
    upload = tmp_path / f"upload{suffix}"
    shutil.copy(synthetic_cases[0].image, upload)
    with pytest.raises(SettingsError, match="is not accepted"):
        datastore.add_image("case_1", str(upload), {})
    assert datastore.list_images() == []


def test_a_truncated_image_is_refused_by_its_id_and_not_by_a_server_path(datastore, synthetic_cases, tmp_path):
    upload = tmp_path / "upload.nii.gz"
    upload.write_bytes(synthetic_cases[0].image.read_bytes()[:-2000])
    with pytest.raises(VolumeError) as refusal:
        datastore.add_image("case_1", str(upload), {})
    assert str(refusal.value).startswith("case_1: ")
    assert str(tmp_path) not in str(refusal.value)
    assert datastore.list_images() == []


def test_a_header_that_claims_a_huge_volume_is_refused(datastore, tmp_path):
    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.int16)
    header.set_data_shape((30000, 30000, 30000))
    header["magic"], header["vox_offset"] = b"n+1", 352
    header.set_sform(np.eye(4), 1)
    upload = tmp_path / "upload.nii.gz"
    upload.write_bytes(gzip.compress(header.binaryblock + bytes(4)))
    with pytest.raises(VolumeError):
        datastore.add_image("case_1", str(upload), {})
    assert datastore.list_images() == []


def test_an_id_that_ends_like_a_file_is_refused(datastore, synthetic_cases):
    with pytest.raises(SettingsError, match="without the suffix"):
        datastore.add_image("case_1.nii.gz", str(synthetic_cases[0].image), {})


def test_the_same_image_may_be_sent_again_and_keeps_its_label(datastore, synthetic_cases, submit):
    submit(datastore, 0)
    name = synthetic_cases[0].name
    assert datastore.add_image(name, str(synthetic_cases[0].image), {}) == name
    assert datastore.get_labeled_images() == [name]
    assert datastore.values_of(name) == {"ellipsoid": 1, "tube": 2}


def test_another_image_does_not_take_the_place_of_a_labelled_one(datastore, synthetic_cases, submit):
    submit(datastore, 0)
    name = synthetic_cases[0].name
    with pytest.raises(Conflict, match=name):
        datastore.add_image(name, str(synthetic_cases[1].image), {})
    assert datastore.image_file(name).read_bytes() == synthetic_cases[0].image.read_bytes()


def test_another_image_takes_the_place_of_an_unlabelled_one(datastore, synthetic_cases):
    for case in synthetic_cases[:2]:
        datastore.add_image("case_1", str(case.image), {})
    assert datastore.image_file("case_1").read_bytes() == synthetic_cases[1].image.read_bytes()


def test_a_label_of_an_unknown_image_is_refused(datastore, synthetic_cases):
    with pytest.raises(UnknownImage, match="no image 'nobody'"):
        datastore.save_label("nobody", str(synthetic_cases[0].label), "final", {})


def test_a_label_on_another_grid_is_refused_and_the_earlier_one_stays(datastore, synthetic_cases, submit, tmp_path):
    submit(datastore, 0)
    case = synthetic_cases[0]
    label = nibabel.load(case.label)
    moved = label.affine.copy()
    moved[0, 3] += 1
    nibabel.save(nibabel.Nifti1Image(np.asarray(label.dataobj), moved), tmp_path / "moved.nii.gz")
    with pytest.raises(LabelError, match=f"label of {case.name}: .* mm"):
        datastore.save_label(case.name, str(tmp_path / "moved.nii.gz"), "final", {"label_info": NAMED})
    kept = nibabel.load(datastore.get_label_uri(case.name, "final"))
    assert np.array_equal(kept.affine, label.affine)


def test_an_empty_label_is_refused(datastore, synthetic_cases, tmp_path):
    case = synthetic_cases[0]
    datastore.add_image(case.name, str(case.image), {})
    label = nibabel.load(case.label)
    nibabel.save(nibabel.Nifti1Image(np.zeros(label.shape, np.uint8), label.affine), tmp_path / "empty.nii.gz")
    with pytest.raises(LabelError, match="empty"):
        datastore.save_label(case.name, str(tmp_path / "empty.nii.gz"), "final", {})


def test_a_value_without_a_name_is_refused_at_once(datastore, synthetic_cases):
    case = synthetic_cases[0]
    datastore.add_image(case.name, str(case.image), {})
    with pytest.raises(LabelError, match="voxel values 1, 2"):
        datastore.save_label(case.name, str(case.label), "final", {"label_info": NAMED[:1]})
    assert datastore.get_labeled_images() == []


def test_a_label_without_names_is_kept_and_has_the_order_of_the_task(datastore, synthetic_cases, submit):
    submit(datastore, 0, info={})
    assert datastore.values_of(synthetic_cases[0].name) is None


def test_the_training_process_reads_what_the_server_wrote(datastore, synthetic_cases, submit, tmp_path):
    submit(datastore, 0)
    seen = CheckedDatastore(str(tmp_path / "studies"))
    assert seen.values_of(synthetic_cases[0].name) == {"ellipsoid": 1, "tube": 2}


def test_the_index_is_replaced_as_a_whole(datastore, submit, tmp_path):
    submit(datastore, 0)
    submit(datastore, 1)
    index = json.loads((tmp_path / "studies" / "datastore_v2.json").read_text())
    assert len(index["objects"]) == 2
    assert not [path for path in (tmp_path / "studies").rglob("*") if path.name.startswith(".writing")]


def test_files_put_into_the_folder_are_found_on_refresh_but_hidden_ones_are_not(datastore, synthetic_cases, tmp_path):
    shutil.copy(synthetic_cases[0].image, tmp_path / "studies" / "my scan.nii.gz")
    shutil.copy(synthetic_cases[0].image, tmp_path / "studies" / "._my scan.nii.gz")
    datastore.refresh()
    assert datastore.list_images() == ["my scan"]
    assert datastore.image_file("my scan").is_file()


def test_a_link_that_leads_out_of_the_folder_is_not_followed(datastore, synthetic_cases, tmp_path):
    (tmp_path / "studies" / "link.nii.gz").symlink_to(synthetic_cases[0].image)
    datastore.refresh()
    with pytest.raises(UnknownImage):
        datastore.image_file("link")


def test_removing_what_is_not_there_says_so(datastore):
    for removal in (lambda: datastore.remove_image("nobody"), lambda: datastore.remove_label("nobody", "final")):
        with pytest.raises(UnknownImage):
            removal()


def test_a_label_whose_server_was_killed_before_the_index_was_written_keeps_its_names(
    datastore, synthetic_cases, submit, tmp_path, monkeypatch
):
    submit(datastore, 0)
    name = synthetic_cases[0].name
    swapped = [{"name": "tube", "idx": 1}, {"name": "ellipsoid", "idx": 2}]
    label = nibabel.load(synthetic_cases[0].label)
    values = np.asarray(label.dataobj)
    other = np.where(values > 0, 3 - values, 0).astype(np.uint8)
    nibabel.save(nibabel.Nifti1Image(other, label.affine), tmp_path / "s.nii.gz")

    def killed(lock=True):
        raise KeyboardInterrupt

    monkeypatch.setattr(datastore, "_update_datastore_file", killed)
    with pytest.raises(KeyboardInterrupt):
        datastore.save_label(name, str(tmp_path / "s.nii.gz"), "final", {"label_info": swapped})
    again = CheckedDatastore(str(tmp_path / "studies"))
    assert again.values_of(name) == {"ellipsoid": 1, "tube": 2}  # the index of before, the file of now
    assert again.recover() == [name]
    assert again.values_of(name) == {"tube": 1, "ellipsoid": 2}
    assert again.recover() == []


def test_a_label_whose_server_was_killed_before_the_file_was_written_stays_the_earlier_one(
    datastore, synthetic_cases, submit, tmp_path, monkeypatch
):
    submit(datastore, 0)
    name = synthetic_cases[0].name
    before = (tmp_path / "studies" / "labels" / "final" / f"{name}.nii.gz").read_bytes()

    def killed(upload, target):
        raise KeyboardInterrupt

    label = nibabel.load(synthetic_cases[0].label)
    changed = np.where(np.asarray(label.dataobj) > 0, 1, 0).astype(np.uint8)
    nibabel.save(nibabel.Nifti1Image(changed, label.affine), tmp_path / "changed.nii.gz")
    monkeypatch.setattr(datastore, "_keep", killed)
    with pytest.raises(KeyboardInterrupt):
        datastore.save_label(name, str(tmp_path / "changed.nii.gz"), "final", {"label_info": [{"name": "a", "idx": 1}]})
    again = CheckedDatastore(str(tmp_path / "studies"))
    assert again.recover() == []
    assert again.values_of(name) == {"ellipsoid": 1, "tube": 2}
    assert (tmp_path / "studies" / "labels" / "final" / f"{name}.nii.gz").read_bytes() == before


def test_what_is_removed_lies_in_the_bin(datastore, synthetic_cases, submit, tmp_path):
    submit(datastore, 0)
    name = synthetic_cases[0].name
    datastore.remove_image(name)
    folder = tmp_path / "studies" / "bin"
    kept = {path.relative_to(folder).parts[:-1] for path in folder.rglob("*.nii.gz")}
    assert kept == {("images",), ("labels", "final")}
    assert datastore.list_images() == [] and not (tmp_path / "studies" / f"{name}.nii.gz").exists()
