"""The clinician's clicks: the real panel (Qt, MRML) with a real server behind it that really learns."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("PySide6", reason="the panel needs Qt: pip install -e .[dev]")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import slicer_env

STRUCTURES = {"anterior": 1, "posterior": 2}
CASES = ("001", "003", "007", "011")  # no two of one subject
TRAINING_SECONDS = 25


@pytest.fixture
def server(hippocampus: Path, tmp_path: Path):
    """A running server with four volumes and no label."""
    from SlicerFM3DLib.client import ServerClient

    from fm3d_core.cli.server_process import ServerProcess

    with ServerProcess(tmp_path / "studies", tmp_path / "server", labels=tuple(STRUCTURES)) as running:
        client = ServerClient(running.address)
        for number in CASES:
            client.uploadImage(hippocampus / "images" / f"hippocampus_{number}.nii.gz", f"hippocampus_{number}")
        yield running


@pytest.fixture
def widget():
    try:
        slicer_env.install()
    except ImportError as error:
        pytest.skip(f"the panel needs slicer-core: pip install -e .[dev] ({error})")
    slicer_env.clear_scene()
    widget = slicer_env.make_widget()
    widget.parent.show()
    widget.enter()
    yield widget
    widget.cleanup()
    widget.parent.deleteLater()
    slicer_env.clear_scene()


def test_a_clinician_teaches_a_structure_by_clicks(widget, server, hippocampus, tmp_path):
    ui, session = widget.ui, widget.logic.session
    picture = Path(os.environ.get("FM3D_SCREENSHOT") or tmp_path / "panel.png")
    picture.unlink(missing_ok=True)
    ui.addressLineEdit.text = server.address
    press(widget, ui.connectButton)
    assert "FM3D" in ui.connectStatusLabel.text
    assert ui.structuresLineEdit.text == "anterior, posterior"

    for _ in range(3):  # fetch, draw, submit
        press(widget, ui.nextButton)
        draw_as_an_expert(widget, hippocampus)
        press(widget, ui.submitButton)
        assert "labelled" in ui.submitStatusLabel.text
    press(widget, ui.nextButton)
    case = case_of(widget)
    choose(ui.versionComboBox, "untrained")
    press(widget, ui.segmentButton)
    before = dice(widget, hippocampus / "labels" / f"{case}.nii.gz")

    widget._parameters().seconds = TRAINING_SECONDS
    click(ui.trainButton)
    moves = []

    def trained() -> bool:
        moves.append((ui.trainProgressBar.value, ui.trainProgressBar.maximum, ui.trainStatusLabel.text))
        if "loss" in ui.trainStatusLabel.text and not picture.exists():
            slicer_env.save_screenshot(widget, picture)
        return not session.isRunning(session_train())

    assert slicer_env.process_events_until(trained, 300), moves[-1]
    assert session.info.versions == ("active", "untrained", "1", "2"), ui.trainStatusLabel.text
    parts = [value / maximum for value, maximum, _ in moves if maximum]
    assert picture.is_file()
    assert max(parts) > 0.5 and len(set(parts)) > 5  # the bar moved, and far

    choose(ui.versionComboBox, "active")
    press(widget, ui.segmentButton)
    after = dice(widget, hippocampus / "labels" / f"{case}.nii.gz")
    assert after > before + 0.3, f"mean Dice {before:.3f} before, {after:.3f} after"


def press(widget, button) -> None:
    """Click and wait until what was started has ended well."""
    click(button)
    session = widget.logic.session
    assert slicer_env.process_events_until(lambda: session.waitedFor is None, 60)
    errors = [message.text for message in session.messages.values() if message.isError]
    assert not errors, errors


def click(button) -> None:
    """A real mouse click, which a hidden or disabled button does not take."""
    import qt
    from PySide6.QtTest import QTest

    assert button.enabled and button.isVisible(), button.text
    QTest.mouseClick(button, qt.Qt.LeftButton)


def choose(box, version: str) -> None:
    """Pick an entry of a combo box by what it stands for."""
    box.setCurrentIndex(next(index for index in range(box.count) if box.itemData(index) == version))


def session_train():
    from SlicerFM3DLib.operations import Operation

    return Operation.TRAIN


def case_of(widget) -> str:
    from SlicerFM3DLib import scene

    return scene.imageId(widget._parameters().inputVolume, widget.logic.session.address)


def draw_as_an_expert(widget, hippocampus: Path) -> None:
    """What a clinician would draw in the Segment Editor: the published label of the volume shown."""
    from SlicerFM3DLib import scene

    node = widget._parameters()
    truth = hippocampus / "labels" / f"{case_of(widget)}.nii.gz"
    node.segmentation = scene.readSegmentation(truth, node.inputVolume, STRUCTURES, "drawn")


def dice(widget, truth: Path) -> float:
    """Mean Dice of the segmentation shown, voxel by voxel as it lies in the scene."""
    import slicer
    from SlicerFM3DLib import scene

    node = widget._parameters()
    expert = scene.readSegmentation(truth, node.inputVolume, STRUCTURES, "truth")
    scores = []
    for name in STRUCTURES:
        masks = []
        for segmentation in (expert, node.segmentation):
            segment = segmentation.GetSegmentation().GetSegmentIdBySegmentName(name)
            masks.append(slicer.util.arrayFromSegmentBinaryLabelmap(segmentation, segment, node.inputVolume) > 0)
        scores.append(2 * np.logical_and(*masks).sum() / max(1, masks[0].sum() + masks[1].sum()))
    slicer.mrmlScene.RemoveNode(expert)
    return float(np.mean(scores))
