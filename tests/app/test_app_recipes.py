"""Published recipes on a real server: listed, checked, trained cut short, asked afterwards, and refused in words."""

import json

import pytest
from served import JSON, ask, form, get, infer, reason, train, upload, wait_for_job

from fm3d_core.cli.server_process import ServerProcess

LEFT_ATRIUM = [{"name": "left atrium", "idx": 1}, {"name": "tube", "idx": 2}]
SMALL = {"weights": "shipped", "method": "linear_probe", "steps": 2}


@pytest.fixture(scope="module")
def server(tmp_path_factory, synthetic_cases):
    """Three images, two of them with a label of the left atrium."""
    folder = tmp_path_factory.mktemp("recipes")
    with ServerProcess(folder / "studies", folder / "work") as running:
        for case in synthetic_cases:
            assert upload(running, case.name, case)[0] == 200
        for case in synthetic_cases[:2]:
            label = ("label", "label.nii.gz", case.label.read_bytes())
            fields = form({"params": json.dumps({"label_info": LEFT_ATRIUM})}, label)
            assert ask(running, "PUT", f"/datastore/label?image={case.name}", *fields)[0] == 200
        yield running


def refused(server, **params):
    return reason(server, "POST", "/train/segmentation", json.dumps(params).encode(), JSON)


def write_answers(server, lines):
    path = server.studies / "answers.csv"
    path.unlink(missing_ok=True)
    if lines:
        path.write_text("\n".join(lines) + "\n")


def test_recipes_are_listed_with_what_they_need_and_whether_their_weights_are_here(server):
    listed = {each["name"]: each for each in get(server, "/recipes/")["recipes"]}
    atrium, endo = listed["LA_SEG"], listed["MRI_endo_classify"]
    assert (atrium["kind"], atrium["labels"], atrium["whole_volume"]) == ("segmentation", ["left atrium"], False)
    assert "answers.csv" in endo["needs"] and endo["columns"] == ["label"] and endo["whole_volume"]
    assert not atrium["at_hand"] and "fm3d weights fetch 3dino_vit" in atrium["remedy"]
    assert "LA_SEG:linear" in listed
    config = get(server, "/info/")["trainers"]["segmentation"]["config"]
    assert config["recipe"][0] == "none" and set(config["recipe"][1:]) == set(listed)
    assert get(server, "/recipes/LA_SEG")["recipe"]["crop"] == [112, 112, 112]


@pytest.mark.parametrize(
    ("params", "status", "said"),
    [
        ({"recipe": "NO_SUCH", **SMALL}, 404, "no recipe 'NO_SUCH'"),
        ({"recipe": "../etc/passwd"}, 422, "recipe"),
        ({"recipe": "LA_SEG"}, 409, "the weights 3dino_vit are not on this computer"),
        ({"recipe": "LA_SEG", "weights": "mine", "steps": 2}, 422, "no weights 'mine'"),
        ({"recipe": "LA_SEG", **SMALL, "epochs": 1}, 422, "steps and epochs are given"),
        ({"recipe": "LA_SEG", **SMALL, "preset": "fast"}, 422, "preset does not go with recipe"),
        ({"recipe": "LA_SEG", **SMALL, "labels": ["tube"]}, 422, "labels does not go with recipe"),
        ({"recipe": "LA_SEG", **SMALL, "cases": ["nobody"]}, 404, "nobody"),
        ({"recipe": "BTCV", **SMALL}, 409, "no submitted label has spleen"),
        ({"epochs": 2}, 422, "go with a recipe"),
    ],
)
def test_what_does_not_go_is_refused_in_words(server, params, status, said):
    got, words = refused(server, **params)
    assert (got, said in words) == (status, True), (got, words)


def test_missing_weights_say_what_else_can_be_chosen(server):
    _, words = refused(server, recipe="LA_SEG")
    assert "weights 'shipped'" in words and "fm3d weights fetch" in words


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([], "there is no table of answers"),
        (["id,label"], "it has no line but the head"),
        (["id,label", "nobody,positive"], "no image nobody"),
        (["id,diagnosis", "{0},positive", "{1},negative"], "has no label (it has diagnosis)"),
        (["id,label", "{0},perhaps"], "which is no class"),
        (["id,label", "{0},positive", "{0},negative"], "twice"),
        (["name,label", "{0},positive"], "line 2 names no image"),
    ],
)
def test_answers_that_are_missing_or_do_not_fit_are_said(server, synthetic_cases, lines, said):
    names = [case.name for case in synthetic_cases]
    write_answers(server, [line.format(*names) for line in lines])
    status, words = refused(server, recipe="MRI_endo_classify", **SMALL)
    assert (status, said in words) == (409, True), words
    assert str(server.studies) not in words


def test_a_check_says_what_does_not_fit_without_training(server, synthetic_cases):
    job = wait_for_job(server, get(server, "/recipes/LA_SEG/check", "POST")["job"])
    found = {each["text"]: each["wrong"] for each in job["result"]["findings"]}
    assert found["drawn in: left atrium 2"] is False, found
    assert found["tube counts as background: the recipe does not learn it"] is True
    write_answers(server, ["id,label", *(f"{case.name},positive" for case in synthetic_cases)])
    job = wait_for_job(server, get(server, "/recipes/MRI_endo_classify/check", "POST")["job"])
    assert {"wrong": True, "text": "class negative: no training case"} in job["result"]["findings"]
    assert reason(server, "POST", "/recipes/NO_SUCH/check")[0] == 404


@pytest.mark.slow  # crops as published: 112 and 128 voxels an edge
def test_a_recipe_about_voxels_is_learned_and_segments(server, synthetic_cases):
    told = train(server, 600, recipe="LA_SEG", **SMALL)
    assert told["state"] == "done", told
    assert (
        told["step"] == 2
        and told["recipe"] == "LA_SEG"
        and told["left_out"] == ["tube counts as background: the recipe does not learn it"]
    )
    newest = get(server, "/adapters/")["versions"][0]
    assert (newest["recipe"], newest["labels"], newest["kind"]) == ("LA_SEG", ["left atrium"], "segmentation")
    assert newest["active"] and newest["backbone"] == "residual_unet_small"
    status, params, file = infer(server, "segmentation", synthetic_cases[2].name)
    assert status == 200 and params["label_names"] == {"left atrium": 1} and file


@pytest.mark.slow
def test_a_recipe_about_whole_volumes_is_learned_and_answers(server, synthetic_cases):
    active = get(server, "/adapters/")["active"]
    classes = ("positive", "negative", "positive")
    rows = [f"{case.image.name},{name}" for case, name in zip(synthetic_cases, classes, strict=True)]
    write_answers(server, ["image,label", *rows, "gone.nii.gz,negative"])
    told = train(server, 600, recipe="MRI_endo_classify", **SMALL)
    assert told["state"] == "done" and told["left_out"] == ["answers.csv, line 5: there is no image gone"], told
    assert "whole volumes" in told["versions"][-1]["why"]
    assert get(server, "/adapters/")["active"] == active, "what segments stays"
    status, params, _ = infer(server, "whole_volume", synthetic_cases[0].name)
    assert status == 200 and params["version"] == str(told["version"]), params
    assert params["kind"] == "classification" and set(params["answer"]["probabilities"]) == {"negative", "positive"}


@pytest.mark.slow
def test_it_waits_in_the_queue_is_cancelled_in_order_and_can_be_asked_for_again(server):
    long = {"recipe": "LA_SEG", **SMALL, "steps": 100_000}
    first = get(server, "/train/segmentation", "POST", long)
    second = get(server, "/train/segmentation", "POST", {**long, "run_id": "later"})
    assert second["queue_position"] in (1, 2) and second["request"]["recipe"] == "LA_SEG"
    assert get(server, f"/train/?id={second['id']}", "DELETE")["status"] == "STOPPED"
    get(server, f"/train/?id={first['id']}", "DELETE")
    again = get(server, f"/train/again?id={second['id']}", "POST")
    assert again["request"] == second["request"]
    get(server, f"/train/?id={again['id']}", "DELETE")
