"""A published recipe by clicks: the real panel (Qt, MRML) with a real server behind it."""

from __future__ import annotations

import os
import re

import pytest
from clicked_panel import choose, connected, finish, press

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory):
    """A running server with four volumes, and answers about them."""
    from fm3d_core.cli.server_process import ServerProcess
    from fm3d_core.volumes import write_synthetic_cases

    folder = tmp_path_factory.mktemp("recipes")
    os.environ["FM3D_HOME"] = str(folder / "home")
    studies = folder / "studies"
    studies.mkdir()
    rows = ["id,label"]
    for place, case in enumerate(write_synthetic_cases(folder / "made", 4, shape=(24, 24, 20))):
        (studies / case.image.name).write_bytes(case.image.read_bytes())
        rows.append(f"{case.name},{('negative', 'positive')[place % 2]}")
    (studies / "answers.csv").write_text("\n".join(rows) + "\n")
    with ServerProcess(studies, folder / "workspace") as running:
        yield running


@pytest.fixture(scope="module")
def widget(server):
    """The panel, connected."""
    with connected(server.address) as widget:
        yield widget


def test_a_recipe_is_refused_in_words_then_trained_with_other_weights_and_its_version_is_there(widget):
    ui = widget.ui
    choose(ui.presetComboBox, "none")
    ui.advancedGroupBox.collapsed = False
    choose(ui.recipeComboBox, "MRI_endo_classify")
    assert "answers.csv" in ui.recipeComboBox.toolTip and "not on the server" in ui.recipeComboBox.toolTip
    ui.secondsSpinBox.value = 2
    finish(widget, ui.trainButton)
    assert "the weights 3dino_vit are not on this computer" in ui.trainStatusLabel.text

    choose(ui.weightsComboBox, "shipped")
    choose(ui.methodComboBox, "linear_probe")
    finish(widget, ui.trainButton, 600)
    assert "Version 1 is ready. It is not the active one." in ui.trainStatusLabel.text
    (version,) = widget.logic.session.info.adapters
    assert version.recipe == "MRI_endo_classify" and version.labels == ("negative", "positive")
    assert ui.versionsTableWidget.rowCount == 1
    assert "Recipe: MRI_endo_classify" in ui.versionsTableWidget.item(0, 0).toolTip()


def test_the_version_answers_about_the_next_volume_by_a_click(widget):
    """Follows the training above: nothing is segmented, the real server's answer is said in words."""
    ui, info = widget.ui, widget.logic.session.info
    assert info.answering, "the training above has left no version"
    press(widget, ui.nextButton)
    choose(ui.versionComboBox, info.answering[-1])
    assert ui.segmentButton.text == "Answer" and not ui.uncertaintyCheckBox.enabled
    press(widget, ui.segmentButton)
    name, text = ui.inputVolumeSelector.currentNode().GetName(), ui.segmentStatusLabel.text
    said = re.fullmatch(rf"Version 1, research use, on '{name}': (\w+) (0\.\d\d|1\.00) \((\w+) (\d\.\d\d)\)\..*", text)
    assert said, text
    assert {said[1], said[3]} == {"negative", "positive"} and float(said[2]) >= float(said[4])
    assert abs(float(said[2]) + float(said[4]) - 1) < 0.011 and ui.segmentationSelector.currentNode() is None

    choose(ui.versionComboBox, "active")
    assert ui.segmentButton.text == "Segment"
    press(widget, ui.segmentButton, errors=True)
    assert "color" in ui.segmentStatusLabel.styleSheet, ui.segmentStatusLabel.text
