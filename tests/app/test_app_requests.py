"""What a client may ask."""

import pytest

from fm3d_core.errors import SettingsError
from MonaiLabelApp.lib.requests import SegmentationRequest, TrainRequest, check_name, parse


def test_what_monai_labels_slicer_plugin_sends_is_accepted():
    request = parse(
        SegmentationRequest,
        {"client_id": "x", "result_extension": ".nrrd", "result_dtype": "uint8", "result_compress": False},
    )
    assert request.version == "active"
    assert request.result_extension == ".nrrd"


def test_a_version_may_come_as_a_number():
    assert parse(SegmentationRequest, {"version": 3}).version == "3"


@pytest.mark.parametrize(
    "key", ["device", "model_filename", "image", "label", "save_label", "label_tag", "bundle_path", "gpus"]
)
def test_paths_devices_and_files_cannot_be_chosen_by_a_client(key):
    for kind in (SegmentationRequest, TrainRequest):
        with pytest.raises(SettingsError, match=f"{key}: unknown parameter"):
            parse(kind, {key: "/etc/passwd"})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("version", "../1"),
        ("version", "0"),
        ("version", {"a": 1}),
        ("result_extension", ".exe"),
        ("result_extension", "/../x.nii.gz"),
    ],
)
def test_an_impossible_inference_names_the_field(key, value):
    with pytest.raises(SettingsError, match=rf"\({key}: "):
        parse(SegmentationRequest, {key: value})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seconds", "soon"),
        ("steps", 1.5),
        ("shots", 0),
        ("shots", -3),
        ("labels", []),
        ("labels", "liver"),
        ("cases", [1.5, {}]),
        ("run_id", "../x"),
        ("method", {"a": 1}),
    ],
)
def test_an_impossible_training_names_the_field(key, value):
    with pytest.raises(SettingsError, match=rf"\({key}"):
        parse(TrainRequest, {key: value})


def test_every_fault_is_named_at_once():
    with pytest.raises(SettingsError, match=r"seconds: .*; lr: unknown parameter"):
        parse(TrainRequest, {"seconds": "soon", "lr": 1})


def test_an_unpicked_list_of_methods_means_its_first():
    assert parse(TrainRequest, {"method": ["lora", "full"]}).method == "lora"


def test_only_what_was_asked_for_reaches_the_core():
    assert parse(TrainRequest, {"steps": 5, "client_id": "x"}).finetune_settings() == {"steps": 5}


@pytest.mark.parametrize("name", ["case_1", "A-b.c", "0", "x" * 128])
def test_plain_names_are_allowed(name):
    assert check_name(name, "the image id") == name


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../../x", "a/b", "a\\b", ".hidden", "a b", "ä", "x" * 129, "a\0", "a\n", "/etc/passwd", None, 3],
)
def test_names_that_could_leave_the_folder_are_refused(name):
    with pytest.raises(SettingsError, match=r"the image id .* is not allowed"):
        check_name(name, "the image id")
