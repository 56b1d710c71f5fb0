"""The app without HTTP: inference, training and what clients are told."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest

from fm3d_core.adaptation import FinetuneSettings, untrained_adapter
from fm3d_core.errors import CaseError, SettingsError
from fm3d_core.tasks import SegmentationTask
from MonaiLabelApp.lib.cases import labelled_cases
from MonaiLabelApp.lib.errors import Conflict, NotServed, UnknownImage
from MonaiLabelApp.lib.training.process import cases_of

STRUCTURES = "ellipsoid,tube"


def segment(app, image_id, **parameters):
    answer = app.infer({"model": "segmentation", "image": image_id, **parameters})
    return Path(answer["file"]), answer["params"]


def save_adapter(app, *labels):
    return app.adapters.store.save(untrained_adapter(SegmentationTask(labels), FinetuneSettings()))


def test_monai_label_finds_the_app_in_main_py():
    from monailabel.utils.others.class_utils import get_class_of_subclass_from_file

    main = Path(__file__).resolve().parents[2] / "MonaiLabelApp" / "main.py"
    found = get_class_of_subclass_from_file("main", str(main), "MONAILabelApp")
    assert found.__name__ == "FM3DApp"
    assert len(main.read_text().splitlines()) < 40


def test_the_active_version_before_any_training_is_a_conflict_with_a_remedy(make_app, submit, synthetic_cases):
    app = make_app(labels=STRUCTURES)
    submit(app.datastore(), 0)
    with pytest.raises(Conflict, match="press Train") as refusal:
        segment(app, synthetic_cases[0].name)
    assert refusal.value.http_status == 409


def test_an_unknown_image_is_not_looked_for_as_a_path(make_app, synthetic_cases):
    app = make_app(labels=STRUCTURES)
    with pytest.raises(UnknownImage) as refusal:
        segment(app, str(synthetic_cases[0].image), version="untrained")
    assert refusal.value.http_status == 404


def test_the_untrained_network_answers_on_the_images_own_grid(make_app, submit, synthetic_cases):
    app = make_app(labels=STRUCTURES)
    submit(app.datastore(), 0)
    file, answer = segment(app, synthetic_cases[0].name, version="untrained")
    image, result = nibabel.load(synthetic_cases[0].image), nibabel.load(file)
    file.unlink()
    assert file.name.endswith(".nii.gz")
    assert result.shape == image.shape
    assert np.allclose(result.affine, image.affine, atol=1e-6)
    assert result.get_data_dtype() == np.uint8
    assert answer["label_names"] == {"ellipsoid": 1, "tube": 2}
    assert answer["version"] == "untrained" and answer["seconds"] > 0 and answer["warnings"] == []


def test_slicers_plugin_gets_nrrd(make_app, submit, synthetic_cases):
    app = make_app(labels=STRUCTURES)
    submit(app.datastore(), 0)
    file, _ = segment(app, synthetic_cases[0].name, version="untrained", result_extension=".nrrd")
    assert file.read_bytes()[:4] == b"NRRD"
    file.unlink()


def test_voxels_that_are_no_numbers_are_replaced_and_the_client_is_told(make_app, synthetic_cases, tmp_path):
    app = make_app(labels=STRUCTURES)
    image = nibabel.load(synthetic_cases[0].image)
    array = np.asarray(image.dataobj, dtype=np.float32)
    array[5, 5, 5] = np.nan
    nibabel.save(nibabel.Nifti1Image(array, image.affine), tmp_path / "nan.nii.gz")
    app.datastore().add_image("nan", str(tmp_path / "nan.nii.gz"), {})
    file, answer = segment(app, "nan", version="untrained")
    file.unlink()
    (warning,) = answer["warnings"]
    assert "NaN" in warning and str(tmp_path) not in warning


def test_the_active_adapter_answers_and_its_network_is_built_once(make_app, submit, synthetic_cases):
    app = make_app()
    submit(app.datastore(), 0)
    save_adapter(app, "tube", "ellipsoid")
    answers = [segment(app, synthetic_cases[0].name) for _ in range(2)]
    for file, answer in answers:
        file.unlink()
        assert answer["version"] == "1" and answer["label_names"] == {"tube": 1, "ellipsoid": 2}
    _, kept = app.tools.predictors.get("1")
    save_adapter(app, "tube", "ellipsoid")
    file, answer = segment(app, synthetic_cases[0].name)
    file.unlink()
    assert answer["version"] == "2"
    assert app.tools.predictors.get("1")[1] is kept


def test_an_unknown_version_names_those_that_exist(make_app, submit, synthetic_cases):
    app = make_app()
    submit(app.datastore(), 0)
    save_adapter(app, "tube")
    with pytest.raises(NotServed, match="Versions here: 1"):
        segment(app, synthetic_cases[0].name, version="7")


def test_a_version_about_whole_volumes_answers_in_json_and_is_no_segmentation(make_app, synthetic_cases):
    from fm3d_core.adaptation import ImageCase, finetune_images
    from fm3d_core.tasks import ClassificationTask

    app = make_app(labels=STRUCTURES)
    case = synthetic_cases[0]
    app.datastore().add_image(case.name, str(case.image), {})
    save_adapter(app, "tube")
    with pytest.raises(Conflict, match="no version answers about whole volumes"):
        app.run_inference("whole_volume", case.name, {})
    with pytest.raises(SettingsError, match="about voxels"):
        app.run_inference("whole_volume", case.name, {"version": "1"})
    cases = [ImageCase(each.name, (each.image,), (float(i),)) for i, each in enumerate(synthetic_cases[:2])]
    task = ClassificationTask(("healthy", "ill"), crop=(32, 32, 32))
    app.adapters.store.save(finetune_images(cases, task, FinetuneSettings(steps=1, device="cpu")), activate=False)
    result = app.run_inference("whole_volume", case.name, {})
    assert result.file is None and result.params["kind"] == "classification" and result.params["version"] == "2"
    json.dumps(result.params)
    assert "healthy" in str(result.params["answer"]) and "ill" in str(result.params["answer"])
    with pytest.raises(SettingsError, match="about whole volumes"):
        segment(app, case.name, version="2")
    models = app.info()["models"]
    assert "2" not in models["segmentation"]["config"]["version"]
    assert models["whole_volume"]["config"]["version"] == ["active", "2"]
    app.adapters.activate(2)
    assert make_app().structures() == ()


def test_structures_come_from_the_configuration_then_the_active_adapter_then_the_labels(make_app, submit):
    app = make_app()
    assert app.structures() == ()
    submit(app.datastore(), 0)
    assert app.structures() == ("ellipsoid", "tube")
    save_adapter(app, "tube", "ellipsoid")
    assert app.structures() == ("tube", "ellipsoid")
    assert make_app(labels="a, b").structures() == ("a", "b")


def test_info_numbers_the_structures_without_gaps(make_app):
    info = make_app(labels="a,b,c").info()
    assert info["models"]["segmentation"]["labels"] == {"a": 1, "b": 2, "c": 3}
    assert info["labels"] == ["a", "b", "c"]
    assert info["models"]["segmentation"]["config"]["version"][:2] == ["active", "untrained"]


def test_a_training_without_labelled_volumes_is_a_conflict(make_app):
    with pytest.raises(Conflict, match="no labelled volume"):
        make_app(labels=STRUCTURES).start_training("segmentation", {})


def test_fewer_labelled_volumes_than_asked_for_is_a_conflict(make_app, submit):
    app = make_app(labels=STRUCTURES)
    submit(app.datastore(), 0)
    with pytest.raises(Conflict, match="3 labelled volumes were asked for, but there are 1"):
        app.start_training("segmentation", {"shots": 3})


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({"seconds": -1}, "seconds"),
        ({"steps": 10**9}, "steps"),
        ({"method": "magic"}, "magic"),
        ({"preset": "quick"}, "preset"),
        ({"backbone": "../x"}, "x"),
        ({"labels": ["a", "a"]}, "a"),
    ],
)
def test_an_impossible_training_is_refused_before_anything_starts(make_app, submit, params, field):
    app = make_app(labels=STRUCTURES)
    submit(app.datastore(), 0)
    with pytest.raises(SettingsError, match=field) as refusal:
        app.start_training("segmentation", params)
    assert refusal.value.http_status == 422
    assert app.trainings.all() == []


def test_a_case_that_is_unknown_or_unlabelled_is_refused(make_app, submit, synthetic_cases):
    app = make_app(labels=STRUCTURES)
    submit(app.datastore(), 0)
    app.datastore().add_image("unlabelled", str(synthetic_cases[1].image), {})
    with pytest.raises(UnknownImage):
        app.start_training("segmentation", {"cases": ["nobody"]})
    with pytest.raises(Conflict, match="unlabelled has no submitted label"):
        app.start_training("segmentation", {"cases": ["unlabelled"]})


def test_an_accepted_training_waits_with_its_cases_fixed(make_app, submit, synthetic_cases):
    app = make_app(labels=STRUCTURES)
    for index in range(3):
        submit(app.datastore(), index)
    task = app.start_training("segmentation", {"shots": 2, "run_id": "r1"})
    assert (task["status"], task["state"], task["run_id"]) == ("SUBMITTED", "waiting", "r1")
    assert (task["queue_position"], task["message"]) == (1, "It begins now.")
    assert task["request"]["cases"] == [case.name for case in synthetic_cases[:2]]
    stats = app.info()["train_stats"]["segmentation"]
    assert (stats["state"], stats["stage"], stats["run_id"], stats["position"]) == ("waiting", "waiting", "r1", 1)
    second = app.start_training("segmentation", {})
    assert (second["queue_position"], second["message"]) == (2, "It waits for 1 other training.")
    assert [each["position"] for each in app.info()["train_stats"]["segmentation"]["queue"]] == [1, 2]


def test_all_models_at_once_means_the_only_one(make_app, submit):
    app = make_app(labels=STRUCTURES)
    submit(app.datastore(), 0)
    assert app.start_training("segmentation", {"segmentation": {"steps": 3}})["request"]["steps"] == 3


def test_what_a_training_learns_from_is_fixed_when_it_begins(make_app, submit, synthetic_cases, tmp_path):
    app = make_app(labels=STRUCTURES)
    for index in range(2):
        submit(app.datastore(), index)
    app.start_training("segmentation", {})
    (training,) = app.trainings.all()
    gone, kept = (case.name for case in synthetic_cases[:2])
    app.datastore().remove_image(gone)
    work = app._work_of(training)
    assert [case["name"] for case in work.cases] == [kept]
    assert len(work.left_out) == 1 and gone in work.left_out[0]
    before = Path(work.cases[0]["label"]).read_bytes()
    _swap_values(app.datastore(), kept)  # submitted again, numbered in another way
    assert Path(work.cases[0]["label"]).read_bytes() == before
    cases, _ = cases_of(work.cases)
    assert cases[0].values == {"ellipsoid": 1, "tube": 2}
    cases, _ = cases_of(app._work_of(training).cases)
    assert cases[0].values == {"ellipsoid": 2, "tube": 1}


def test_when_no_case_can_be_used_the_first_reason_is_told(make_app, submit, synthetic_cases):
    app = make_app(labels=STRUCTURES)
    submit(app.datastore(), 0)
    Path(app.datastore().get_label_uri(synthetic_cases[0].name, "final")).write_bytes(b"")
    with pytest.raises(CaseError, match=f"label of {synthetic_cases[0].name}"):
        labelled_cases([synthetic_cases[0].name], app.datastore())


def _swap_values(datastore, image_id):
    """The same label as another client would send it: values 1 and 2 exchanged, and said so."""
    file = Path(datastore.get_label_uri(image_id, "final"))
    label = nibabel.load(file)
    array = np.asarray(label.dataobj)
    swapped = np.where(array > 0, 3 - array, 0).astype(np.uint8)
    other = file.with_name(f"swapped-{file.name}")
    nibabel.save(nibabel.Nifti1Image(swapped, label.affine), other)
    info = [{"name": "tube", "idx": 1}, {"name": "ellipsoid", "idx": 2}]
    datastore.save_label(image_id, str(other), "final", {"label_info": info})
    other.unlink()
