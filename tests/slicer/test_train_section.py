"""Train: what is asked of the server, and what is shown of what it does."""

from __future__ import annotations

import qt
from monailabel_peer import jsonReply
from panel_clicks import click, finish
from slicer_env import process_events_until
from SlicerFM3DLib import curve
from SlicerFM3DLib.train_status import EarlyVersion, parseOwnStatus, parseStatus
from SlicerFM3DLib.wording import trained, training


def with_cases(connected, peer):
    """Three labelled cases and a server that offers presets."""
    peer.labels |= {f"case-{n}": ({}, b"") for n in (1, 2, 3)}
    peer.trainingConfig = {"method": ["lora", "full"], "preset": ["fast", "balanced", "thorough", "auto"]}
    finish(connected, connected.ui.connectButton)
    return connected.ui


def test_preset_structures_and_cases_are_chosen_by_clicks(connected, peer):
    ui = with_cases(connected, peer)
    assert ui.presetComboBox.isVisible() and ui.presetComboBox.currentText.startswith("Automatic")
    ui.presetComboBox.setCurrentIndex(ui.presetComboBox.findData("balanced"))
    ui.labelsListWidget.item(1).setCheckState(qt.Qt.Unchecked)
    ui.casesListWidget.item(0).setCheckState(qt.Qt.Unchecked)
    finish(connected, ui.trainButton)
    assert peer.trainings[0]["params"] == {
        "preset": "balanced",
        "labels": ["anterior"],
        "cases": ["case-2", "case-3"],
    }
    finish(connected, ui.connectButton)
    assert ui.presetComboBox.currentData == "balanced", "the wish is kept"


def test_with_all_ticked_the_server_takes_what_is_submitted_meanwhile(connected, peer):
    ui = with_cases(connected, peer)
    finish(connected, ui.trainButton)
    assert peer.trainings[0]["params"] == {"preset": "auto"}


def test_method_and_time_of_ones_own_are_sent_only_without_a_preset(connected, peer):
    ui = with_cases(connected, peer)
    assert not ui.advancedGroupBox.enabled
    ui.presetComboBox.setCurrentIndex(ui.presetComboBox.findData("none"))
    assert ui.advancedGroupBox.enabled and "Advanced" in ui.presetComboBox.currentText
    ui.secondsSpinBox.value = 45
    ui.methodComboBox.setCurrentIndex(ui.methodComboBox.findData("full"))
    finish(connected, ui.trainButton)
    assert peer.trainings[0]["params"] == {"preset": "none", "method": "full", "seconds": 45}


def test_nothing_ticked_is_nothing_to_learn(connected, peer):
    ui = with_cases(connected, peer)
    for row in range(3):
        ui.casesListWidget.item(row).setCheckState(qt.Qt.Unchecked)
    assert not ui.trainButton.enabled
    ui.casesListWidget.item(2).setCheckState(qt.Qt.Checked)
    assert ui.trainButton.enabled


def test_a_tick_taken_away_stays_away_when_a_case_is_added(connected, peer):
    ui = with_cases(connected, peer)
    ui.casesListWidget.item(0).setCheckState(qt.Qt.Unchecked)
    peer.labels["case-4"] = ({}, b"")
    finish(connected, ui.connectButton)
    states = [ui.casesListWidget.item(row).checkState() for row in range(ui.casesListWidget.count)]
    assert [state == qt.Qt.Checked for state in states] == [False, True, True, True]


def test_an_interrupted_training_is_told_at_the_next_connection_and_started_again_by_a_click(connected, peer):
    task = {"id": "t1", "run_id": "r1", "state": "interrupted", "status": "ERROR", "message": "The computer went down."}
    stats = {"run_id": "r1", "state": "interrupted", "message": "The computer went down.", "stage": "interrupted"}
    peer.overrides["GET /train/"] = lambda request: jsonReply(task)
    peer._stats = lambda: stats
    ui = with_cases(connected, peer)
    assert "The computer went down." in ui.trainStatusLabel.text and ui.trainAgainButton.isVisible()
    again = {"id": "t2", "run_id": "r2", "state": "done", "status": "DONE", "message": ""}

    def started(request):
        assert request.query == {"id": "t1"}
        peer.overrides["GET /train/"] = lambda request: jsonReply([task, again] if request.query else again)
        return jsonReply({**again, "status": "SUBMITTED", "state": "waiting"})

    peer.overrides["POST /train/again"] = started
    finish(connected, ui.trainAgainButton)
    assert "finished" in ui.trainStatusLabel.text and not ui.trainAgainButton.isVisible()
    assert not peer.trainings  # by its id, not as a new one


def test_the_curve_is_drawn_and_marks_a_version_that_came_out(connected, peer):
    ui = with_cases(connected, peer)
    peer.trainingSeconds = 2.0
    stats = {"stage": "decoder", "step": 5, "total": 10, "eta": 60, "loss": 0.5, "state": "running", "run_id": "r"}
    stats |= {"curve": [[0, 1.0], [10, 0.7], [20, 0.5]], "dice": 0.61}
    stats |= {"versions": [{"version": 1, "stage": "linear_probe", "seconds": 8, "active": True}]}
    peer._stats = lambda: stats if peer.trainings else {}
    click(ui.trainButton)
    assert process_events_until(lambda: ui.curveLabel.isVisible())
    assert (
        ui.trainStatusLabel.text
        == "Decoder · about 1 min left · loss 0.500 · Dice 0.610 · version 1 can be used already"
    )
    image = ui.curveLabel.pixmap.toImage()
    colors = {image.pixelColor(x, y).name() for x in range(image.width()) for y in range(image.height())}
    assert curve.LINE_COLOR in colors and curve.MARK_COLOR in colors
    assert process_events_until(lambda: ui.trainButton.text == "Train")
    assert ui.curveLabel.isVisible() and not ui.trainProgressBar.isVisible(), "the curve stays to be looked at"


def test_the_curve_falls_from_left_to_right(connected):
    image = curve.paint([(0, 1.0), (10, 0.0)], [], 300, 100, qt.QColor("black")).toImage()
    drawn = [(x, y) for x in range(300) for y in range(100) if image.pixelColor(x, y).name() == curve.LINE_COLOR]
    left, right = min(drawn), max(drawn)
    assert left[1] < 20 and right[1] > 80 and right[0] > 285


def test_a_training_that_waits_in_the_queue_says_so():
    queue = [{"id": "a"}, {"id": "mine"}]
    task = {"id": "mine", "run_id": "m", "status": "SUBMITTED", "state": "waiting", "message": ""}
    waits = parseOwnStatus(task, {"run_id": "other", "state": "running", "loss": 0.1, "queue": queue})
    assert waits.isActive and training(waits) == "Waiting in the queue. 2 trainings come first."
    next_one = parseOwnStatus(task, {"run_id": "other", "state": "running", "loss": 0.1, "queue": queue[1:]})
    assert training(next_one) == "Waiting in the queue. Another training comes first."
    assert next_one.loss is None, "the figures of another training are not shown"
    ended = parseOwnStatus({**task, "state": "cancelled", "message": "Cancelled before it began."}, {"run_id": "other"})
    assert trained(ended) == "Cancelled before it began."


def test_how_a_training_ended_is_said_in_words():
    early = EarlyVersion(4, "linear_probe")
    cancelled = parseStatus({"status": "STOPPED"}, {"versions": [{"version": 4}]})
    assert cancelled.versions == (EarlyVersion(4),) and "kept as version 4" in trained(cancelled)
    interrupted = parseStatus({"status": "interrupted"}, {"state": "interrupted"})
    assert trained(interrupted).startswith("The server was restarted")
    killed = parseStatus({"status": "ERROR"}, {"state": "interrupted", "message": "Killed: out of memory."})
    assert trained(killed) == "Killed: out of memory."
    assert early.stage == "linear_probe"


def test_a_refused_training_says_why(connected, peer):
    ui = with_cases(connected, peer)
    peer.overrides["POST /train/segmentation"] = jsonReply({"detail": "case-1: label is empty. Draw it."}, status=422)
    finish(connected, ui.trainButton)
    assert ui.trainStatusLabel.text == "case-1: label is empty. Draw it." and ui.trainButton.enabled


RECIPES = [
    {"name": "LA_SEG", "about": "left atrium", "needs": "MR: submitted labels of left atrium", "whole_volume": False}
    | {"at_hand": False, "remedy": "Get it with fm3d weights fetch 3dino_vit"},
    {"name": "AGE", "about": "age", "needs": "MR T1: answers.csv", "whole_volume": True, "at_hand": True},
]


def with_recipes(connected, peer):
    peer.images["case-9"] = (".nii.gz", b"")
    peer.overrides["GET /recipes/"] = lambda request: jsonReply({"recipes": RECIPES})
    ui = with_cases(connected, peer)
    peer.trainingConfig |= {"recipe": ["none", "LA_SEG", "AGE"], "weights": ["recipe", "shipped", "random"]}
    finish(connected, ui.connectButton)
    ui.presetComboBox.setCurrentIndex(ui.presetComboBox.findData("none"))
    ui.advancedGroupBox.collapsed = False
    return ui


def test_recipes_wait_under_advanced_and_none_is_chosen_at_first(connected, peer):
    ui = with_recipes(connected, peer)
    assert ui.recipeComboBox.isVisible() and ui.recipeComboBox.currentText == "None"
    assert not ui.weightsComboBox.enabled and ui.methodComboBox.enabled and "published" in ui.recipeComboBox.toolTip
    finish(connected, ui.trainButton)
    assert "recipe" not in peer.trainings[0]["params"] and "weights" not in peer.trainings[0]["params"]


def test_a_recipe_about_voxels_is_asked_for_with_the_weights_that_were_chosen(connected, peer):
    ui = with_recipes(connected, peer)
    ui.recipeComboBox.setCurrentIndex(ui.recipeComboBox.findData("LA_SEG"))
    tip = ui.recipeComboBox.toolTip
    assert "left atrium" in tip and "fm3d weights fetch 3dino_vit" in tip
    assert not ui.labelsListWidget.isVisible() and ui.casesListWidget.isVisible()
    assert not ui.methodComboBox.enabled and ui.weightsComboBox.enabled
    assert ui.secondsSpinBox.specialValueText == "as published"
    ui.secondsSpinBox.value = 60
    finish(connected, ui.trainButton)
    assert peer.trainings[-1]["params"] == {"preset": "none", "recipe": "LA_SEG", "seconds": 60}
    ui.weightsComboBox.setCurrentIndex(ui.weightsComboBox.findData("shipped"))
    ui.methodComboBox.setCurrentIndex(ui.methodComboBox.findData("lora"))
    finish(connected, ui.trainButton)
    asked = {"preset": "none", "recipe": "LA_SEG", "weights": "shipped", "method": "lora", "seconds": 60}
    assert peer.trainings[-1]["params"] == asked


def test_a_recipe_about_whole_volumes_needs_no_label(connected, peer):
    ui = with_recipes(connected, peer)
    peer.labels.clear()
    finish(connected, ui.connectButton)
    ui.presetComboBox.setCurrentIndex(ui.presetComboBox.findData("none"))
    assert not ui.trainButton.enabled
    ui.recipeComboBox.setCurrentIndex(ui.recipeComboBox.findData("AGE"))
    assert ui.trainButton.enabled and not ui.casesListWidget.isVisible()
    finish(connected, ui.trainButton)
    assert peer.trainings[-1]["params"]["recipe"] == "AGE"


def test_under_a_preset_no_recipe_is_asked_for(connected, peer):
    ui = with_recipes(connected, peer)
    ui.recipeComboBox.setCurrentIndex(ui.recipeComboBox.findData("LA_SEG"))
    ui.presetComboBox.setCurrentIndex(ui.presetComboBox.findData("fast"))
    finish(connected, ui.trainButton)
    assert peer.trainings[-1]["params"] == {"preset": "fast"}


def test_a_version_that_is_not_the_active_one_is_not_called_active():
    told = {"state": "done", "version": 3, "versions": [{"version": 3, "stage": "final", "active": False}]}
    assert "It is not the active one" in trained(parseStatus({"status": "DONE"}, told))
    told["versions"][0]["active"] = True
    assert "ready and active" in trained(parseStatus({"status": "DONE"}, told))
