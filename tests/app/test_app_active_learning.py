"""Which image is labelled next: the strategies on known scores, and the scores of a real server."""

import shutil
import time

import numpy as np
import pytest
from served import ask, get, reason, submit, train, upload

from fm3d_core.cli.server_process import ServerProcess
from MonaiLabelApp.lib.predictors import Predictors
from MonaiLabelApp.lib.scoring import SCORES, ImageScoring
from MonaiLabelApp.lib.strategies import all_strategies, distances

IMAGES = ("a", "b", "c", "d")


@pytest.fixture
def scoring(tmp_path):
    return ImageScoring(Predictors(None, lambda: ()), tmp_path / "vectors")


@pytest.fixture
def filled(datastore, synthetic_cases, tmp_path):
    """Four images without a label."""
    for image in IMAGES:
        shutil.copy(synthetic_cases[0].image, tmp_path / "studies" / f"{image}.nii.gz")
    datastore.refresh()
    return datastore


def scored(datastore, **values):
    for image, scores in values.items():
        datastore.update_image_info(image, {SCORES: scores})


def choose(scoring, datastore, name):
    return all_strategies(scoring)[name]({"strategy": name}, datastore)


def test_the_least_sure_image_comes_first_then_the_next(scoring, filled):
    scored(filled, a={"uncertainty": 0.1}, b={"uncertainty": 0.9}, c={"uncertainty": 0.5})
    assert choose(scoring, filled, "uncertainty") == {"id": "b", "weight": 0.9}
    filled.update_image_info("b", {"strategy": {"uncertainty": {"ts": int(time.time())}}})  # somebody has it
    assert choose(scoring, filled, "uncertainty")["id"] == "c"
    filled.update_image_info("b", {"strategy": {"uncertainty": {"ts": int(time.time()) - 3600}}})  # and gave it up
    assert choose(scoring, filled, "uncertainty")["id"] == "b"


def test_without_scores_one_is_chosen_and_the_answer_says_so(scoring, filled):
    for name in ("uncertainty", "diversity", "hybrid", "foreground"):
        answer = choose(scoring, filled, name)
        assert answer["id"] in IMAGES and "not scored yet" in answer["note"]


def test_random_among_images_with_something_in_them(scoring, filled):
    scored(filled, a={"foreground": 0.0}, b={"foreground": 0.0}, c={"foreground": 0.02}, d={"foreground": 0.1})
    assert {choose(scoring, filled, "foreground")["id"] for _ in range(30)} == {"c", "d"}


def test_the_least_like_the_labelled_ones_is_farthest_from_the_nearest(scoring, filled, synthetic_cases):
    for image, angle in zip(IMAGES, (0.0, 0.1, 1.5, 0.8), strict=True):
        scoring._write(image, np.array([np.cos(angle), np.sin(angle)], np.float32))
    filled.save_label("a", str(synthetic_cases[0].label), "final", {})
    assert choose(scoring, filled, "diversity")["id"] == "c"
    filled.save_label("c", str(synthetic_cases[0].label), "final", {})
    assert choose(scoring, filled, "diversity")["id"] == "d"  # between both; b is beside a


def test_greedy_k_centres_cover_better_than_the_first_ones():
    random = np.random.default_rng(0)
    groups = [random.normal(centre, 0.05, (10, 2)) for centre in ((0, 0), (1, 0), (0, 1), (1, 1))]
    vectors = {str(i): vector.astype(np.float32) for i, vector in enumerate(np.concatenate(groups))}
    chosen = []
    for _ in range(4):
        rest = [image for image in vectors if image not in chosen]
        values = distances(vectors, rest, chosen)
        chosen.append(max(values, key=lambda image: values[image]))
    assert {int(image) // 10 for image in chosen} == {0, 1, 2, 3}  # one of each group
    assert len(chosen) == len(set(chosen))


def test_both_together_prefer_what_is_high_in_both(scoring, filled, synthetic_cases):
    for image, angle in zip(IMAGES, (0.0, 0.2, 0.8, 1.5), strict=True):
        scoring._write(image, np.array([np.cos(angle), np.sin(angle)], np.float32))
    filled.save_label("a", str(synthetic_cases[0].label), "final", {})
    scored(filled, b={"uncertainty": 0.9}, c={"uncertainty": 0.8}, d={"uncertainty": 0.1})
    assert choose(scoring, filled, "hybrid")["id"] in ("b", "c", "d")
    scored(filled, b={"uncertainty": 0.2}, c={"uncertainty": 0.3}, d={"uncertainty": 0.9})
    assert choose(scoring, filled, "hybrid")["id"] == "d"


def test_when_all_are_labelled_there_is_none(scoring, filled, synthetic_cases):
    for image in IMAGES:
        filled.save_label(image, str(synthetic_cases[0].label), "final", {})
    for name in ("random", "first", "foreground", "uncertainty", "diversity", "hybrid"):
        assert choose(scoring, filled, name) is None


def test_scores_are_there_soon_after_a_training_and_the_next_image_follows_them(tmp_path, synthetic_cases):
    with ServerProcess(tmp_path / "studies", tmp_path / "work", labels=("ellipsoid", "tube")) as server:
        submit(server, synthetic_cases[0])
        for image, case in (("second", synthetic_cases[1]), ("third", synthetic_cases[2])):
            assert upload(server, image, case)[0] == 200
        assert get(server, "/activelearning/uncertainty", "POST", {})["note"]
        told = train(server, steps=3, seed=0)
        assert told["state"] == "done", told
        deadline = time.monotonic() + 120
        while reason_or_state(server) not in ("done", "failed"):
            assert time.monotonic() < deadline
            time.sleep(0.3)
        result = get(server, "/scoring/")
        assert (result["status"], result["result"]["scored"], result["result"]["left_out"]) == ("DONE", 3, [])
        scores = {image: get(server, f"/datastore/image/info?image={image}")[SCORES] for image in ("second", "third")}
        assert all(
            each["version"] == str(told["version"]) and 0 <= each["uncertainty"] <= 1 for each in scores.values()
        )
        expected = max(scores, key=lambda image: scores[image]["uncertainty"])
        # both were given out a moment ago or not at all; the first question of all chose one at random
        sample = get(server, "/activelearning/uncertainty", "POST", {})
        given = [image for image in scores if get(server, f"/datastore/image/info?image={image}").get("strategy")]
        assert sample["id"] == expected or expected in given
        assert get(server, "/info/")["strategies"].keys() >= {"first", "random", "foreground", "diversity", "hybrid"}
        again = get(server, "/scoring/images", "POST", {})
        assert again["status"] in ("SUBMITTED", "RUNNING", "DONE")
        get(server, "/scoring/", "DELETE")
        assert reason(server, "POST", "/scoring/other", b"{}")[0] in (404, 422)


def reason_or_state(server):
    status, _ = ask(server, "GET", "/scoring/")
    return get(server, "/scoring/")["state"] if status == 200 else "none"
