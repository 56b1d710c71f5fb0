"""The clinician's clicks: the real panel (Qt, MRML) with a real server behind it that really learns.

One server and one panel go through the whole loop, test by test in the order of the file. With FM3D_SCREENSHOTS=FOLDER
each section is photographed there, as the tutorial shows it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from clicked_panel import choose, click, connected, press, slicer_env, wait

pytestmark = pytest.mark.slow
STRUCTURES = {"anterior": 1, "posterior": 2}
CASES = ("001", "003", "007", "011")  # no two of one subject


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory):
    """A running server without any volume."""
    from fm3d_core.cli.server_process import ServerProcess

    folder = tmp_path_factory.mktemp("server")
    os.environ["FM3D_HOME"] = str(folder / "home")
    with ServerProcess(folder / "studies", folder / "workspace", labels=tuple(STRUCTURES)) as running:
        yield running


@pytest.fixture(scope="module")
def widget(server):
    """The panel, connected."""
    with connected(server.address) as widget:
        yield widget


@pytest.fixture(scope="module")
def trained(widget, hippocampus):
    """Four volumes were uploaded; three of them fetched, drawn, submitted and learned from; the fourth segmented."""
    import slicer

    ui, session = widget.ui, widget.logic.session
    assert "FM3D" in ui.connectStatusLabel.text and ui.structuresLineEdit.text == "anterior, posterior"
    for number in CASES:
        volume = slicer.util.loadVolume(str(hippocampus / "images" / f"hippocampus_{number}.nii.gz"))
        ui.inputVolumeSelector.setCurrentNode(volume)
        press(widget, ui.uploadButton)
        assert ui.caseStatusLabel.text == f"Uploaded as hippocampus_{number}."
        slicer.mrmlScene.RemoveNode(volume)
    for _ in range(3):
        press(widget, ui.nextButton)
        draw_as_an_expert(widget, hippocampus)
        press(widget, ui.submitButton)
        assert "labelled" in ui.submitStatusLabel.text
    photograph(widget, "labels")
    press(widget, ui.nextButton)
    photograph(widget, "case")
    case = case_of(widget)
    choose(ui.versionComboBox, "untrained")
    press(widget, ui.segmentButton)
    before = dice(widget, hippocampus / "labels" / f"{case}.nii.gz")

    choose(ui.presetComboBox, "fast")
    click(ui.trainButton)
    moves: list[tuple[int, int, str]] = []
    pictures: list[None] = []

    def ended() -> bool:
        moves.append((ui.trainProgressBar.value, ui.trainProgressBar.maximum, ui.trainStatusLabel.text))
        if len(session.training.curve) > 15 and "version" in ui.trainStatusLabel.text and not pictures:
            pictures.append(photograph(widget, "train"))
        return not session.isRunning(operation("TRAIN"))

    assert slicer_env.process_events_until(ended, 900), moves[-1]  # on a machine that does much else
    choose(ui.versionComboBox, "active")
    press(widget, ui.segmentButton)
    photograph(widget, "segment")
    after = dice(widget, hippocampus / "labels" / f"{case}.nii.gz")
    return {"before": before, "after": after, "moves": moves, "case": case}


def test_a_clinician_teaches_a_structure_by_clicks(trained, widget):
    parts = [value / maximum for value, maximum, _ in trained["moves"] if maximum]
    assert max(parts) > 0.5 and len(set(parts)) > 5, "the bar moved, and far"
    assert widget.logic.session.info.hasLearned, widget.ui.trainStatusLabel.text
    assert trained["after"] > trained["before"] + 0.3, trained


def test_the_curve_of_the_training_is_there(trained, widget):
    points = widget.logic.session.training.curve
    assert len(points) > 5 and min(loss for _, loss in points) < points[0][1], "the loss has fallen"
    assert widget.ui.curveLabel.isVisible()


def test_versions_are_activated_rolled_back_and_compared(trained, widget):
    ui, table = widget.ui, widget.ui.versionsTableWidget
    versions = widget.logic.session.info.adapters
    assert len(versions) >= 2 and versions[0].labels == tuple(STRUCTURES), ui.trainStatusLabel.text
    active = next(version.number for version in versions if version.active)
    row = next(row for row, version in enumerate(versions) if not version.active)
    table.selectRow(row)
    press(widget, ui.activateButton)
    assert ui.modelsStatusLabel.text == f"Version {versions[row].number} is active."
    press(widget, ui.rollBackButton)
    assert ui.modelsStatusLabel.text == f"Version {active} is active."

    table.selectRow(0)
    choose(ui.compareComboBox, str(versions[1].number))
    click(ui.compareButton)
    assert slicer_env.process_events_until(lambda: not widget.logic.session.isRunning(operation("COMPARE")), 200)
    comparison = widget.logic.models.comparison
    assert comparison is not None, ui.compareStatusLabel.text
    assert len(comparison.cases) == 3 and set(comparison.learnedFrom) == set(comparison.cases)
    assert max(comparison.means) > 0.5
    photograph(widget, "models")


def test_two_versions_side_by_side(trained, widget):
    ui = widget.ui
    press(widget, ui.sideBySideButton, 120)
    assert ui.compareStatusLabel.text.startswith("Left: version")
    click(ui.sideBySideButton)


def test_a_structure_is_segmented_by_clicks(trained, widget, hippocampus):
    import slicer
    from SlicerFM3DLib import segments

    ui, node = widget.ui, widget._parameters()
    node.segmentation = None
    truth = expert(node.inputVolume, hippocampus, trained["case"])
    mask = segments.segmentVoxels(truth, node.inputVolume, "anterior")
    other = segments.segmentVoxels(truth, node.inputVolume, "posterior")
    slicer.mrmlScene.RemoveNode(truth)
    ui.structureComboBox.setEditText("anterior")
    inside, outside = middle_of(mask), middle_of(other)
    results = []
    for button, where in ((ui.includeButton, inside), (ui.excludeButton, outside)):
        click(button)
        place(node.inputVolume, where)
        wait(widget, 60)
        assert "segmented" in ui.promptsStatusLabel.text, ui.promptsStatusLabel.text
        results.append(segments.segmentVoxels(node.segmentation, node.inputVolume, "anterior"))
    photograph(widget, "clicks", "segment")
    assert results[0][inside] and results[1][inside] and not results[1][outside], "clicks mean where they were made"
    assert 0 < results[1].sum() < 0.5 * results[1].size
    click(ui.undoButton)
    wait(widget, 60)
    again = segments.segmentVoxels(node.segmentation, node.inputVolume, "anterior")
    np.testing.assert_array_equal(again, results[0])
    click(ui.clearButton)


@pytest.mark.parametrize("kind", ["pca", "uncertainty"])
def test_what_the_network_sees_lies_over_the_volume(trained, widget, kind):
    from SlicerFM3DLib import overlays

    choose(widget.ui.insightComboBox, kind)
    press(widget, widget.ui.insightButton, 120)
    [overlay] = overlays.shown()
    assert overlay.GetAttribute(overlays.KIND_ATTRIBUTE) == kind
    photograph(widget, "insight")
    click(widget.ui.hideInsightButton)


def test_a_network_without_attention_says_so(trained, widget):
    choose(widget.ui.insightComboBox, "attention")
    press(widget, widget.ui.insightButton, errors=True)
    assert "no transformer" in widget.ui.insightStatusLabel.text


def test_a_labelled_volume_is_opened_again(trained, widget):
    ui = widget.ui
    choose(ui.labelledComboBox, next(iter(widget.logic.session.info.labelledCases)))
    press(widget, ui.openButton)
    assert ui.caseStatusLabel.text.startswith("Opened") and ui.segmentationSelector.currentNode() is not None


def test_a_server_is_started_and_stopped_by_clicks(widget, tmp_path):
    """Last, because the panel talks to another server from here on."""
    ui, session = widget.ui, widget.logic.session
    ui.localServerGroupBox.collapsed = False
    program = Path(sys.executable).with_name("fm3d")
    ui.commandLineEdit.text = str(program)
    ui.folderPathLineEdit.currentPath = str(tmp_path / "images")
    click(ui.localServerButton)
    running = operation("LOCAL_SERVER")
    answers = lambda: "The server runs at" in ui.localServerStatusLabel.text  # noqa: E731
    assert slicer_env.process_events_until(lambda: answers() or not session.isRunning(running), 180)
    wait(widget, 30)
    assert "The server runs at" in ui.localServerStatusLabel.text and "Connected" in ui.connectStatusLabel.text
    photograph(widget, "server")
    click(ui.localServerButton)
    assert slicer_env.process_events_until(lambda: not session.isRunning(running), 60)
    press(widget, ui.connectButton, errors=True)
    assert "No server answers" in ui.connectStatusLabel.text, "it has ended with all that it started"


# -- hands and eyes


def photograph(widget, name: str, section: str = "") -> None:
    """Keep a picture of a section, if pictures are wanted."""
    if os.environ.get("FM3D_SCREENSHOTS"):
        folder = Path(os.environ["FM3D_SCREENSHOTS"])
        slicer_env.save_section(widget, section or name, folder / f"panel_{name}.png")
        if name == "train":
            slicer_env.save_screenshot(widget, folder / "panel.png")


def operation(name: str):
    from SlicerFM3DLib.operations import Operation

    return Operation[name]


def place(volume, index: tuple[int, int, int]) -> None:
    """A click in a view, at a voxel (k, j, i)."""
    import slicer
    import vtk

    matrix = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    position = matrix.MultiplyPoint([float(index[2]), float(index[1]), float(index[0]), 1.0])[:3]
    selection = slicer.app.applicationLogic().GetSelectionNode()
    slicer.mrmlScene.GetNodeByID(selection.GetActivePlaceNodeID()).AddControlPointWorld(*position)


def middle_of(mask: np.ndarray) -> tuple[int, int, int]:
    """The voxel of a mask that lies nearest to its centre."""
    voxels = np.argwhere(mask)
    return tuple(int(i) for i in voxels[np.abs(voxels - voxels.mean(0)).sum(1).argmin()])


def case_of(widget) -> str:
    from SlicerFM3DLib import scene

    return scene.imageId(widget._parameters().inputVolume, widget.logic.session.address)


def expert(volume, hippocampus: Path, case: str):
    """The published label of a volume."""
    from SlicerFM3DLib import scene

    return scene.readSegmentation(hippocampus / "labels" / f"{case}.nii.gz", volume, STRUCTURES, "truth")


def draw_as_an_expert(widget, hippocampus: Path) -> None:
    """What a clinician would draw in the Segment Editor: the published label of the volume shown."""
    node = widget._parameters()
    node.segmentation = expert(node.inputVolume, hippocampus, case_of(widget))
    node.segmentation.SetName(f"{case_of(widget)} label")


def dice(widget, truth: Path) -> float:
    """Mean Dice of the segmentation shown, voxel by voxel as it lies in the scene."""
    import slicer
    from SlicerFM3DLib import scene, segments

    node = widget._parameters()
    ours = scene.readSegmentation(truth, node.inputVolume, STRUCTURES, "truth")
    scores = []
    for name in STRUCTURES:
        masks = [segments.segmentVoxels(one, node.inputVolume, name) for one in (ours, node.segmentation)]
        scores.append(2 * np.logical_and(*masks).sum() / max(1, masks[0].sum() + masks[1].sum()))
    slicer.mrmlScene.RemoveNode(ours)
    return float(np.mean(scores))
