"""What a clinician does with the panel in the tests: clicks, and a volume to work on."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import qt
import slicer
from slicer_env import process_events_until


def click(button) -> None:
    """A real mouse click, which a hidden or disabled button does not take."""
    assert button.enabled and button.isVisible(), button.text
    from PySide6.QtTest import QTest

    QTest.mouseClick(button, qt.Qt.LeftButton)


def idle(widget) -> bool:
    return widget.logic.session.waitedFor is None


def on_grid_of(image: tuple[str, bytes], compute) -> tuple[str, bytes]:
    """A file of what ``compute(array)`` makes of an image's voxels, on the image's grid."""
    import SimpleITK as sitk

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"image{image[0]}"
        path.write_bytes(image[1])
        volume = sitk.ReadImage(str(path))
        result = sitk.GetImageFromArray(compute(sitk.GetArrayFromImage(volume)))
        result.CopyInformation(volume)
        sitk.WriteImage(result, str(Path(folder) / "result.nii.gz"))
        return ".nii.gz", (Path(folder) / "result.nii.gz").read_bytes()


def bright_and_dark(image: tuple[str, bytes]) -> tuple[str, bytes]:
    """What the peer "segments": above 200 is 1, 100 to 200 is 2."""
    return on_grid_of(image, lambda array: np.where(array > 200, 1, np.where(array > 100, 2, 0)).astype(np.uint8))


def add_volume(name: str = "MR head", seed: int = 0):
    """An oblique volume with some voxels above 100 and above 200."""
    array = np.random.default_rng(seed).integers(0, 255, (14, 16, 18)).astype(np.int16)
    volume = slicer.util.addVolumeFromArray(array, name=name)
    volume.SetIJKToRASDirections(0.8, -0.6, 0, 0.6, 0.8, 0, 0, 0, 1)
    volume.SetSpacing(0.7, 0.9, 2.5)
    volume.SetOrigin(-40, 12, 3)
    return volume


def voxels(segmentation, name, volume) -> np.ndarray:
    segment = segmentation.GetSegmentation().GetSegmentIdBySegmentName(name)
    return slicer.util.arrayFromSegmentBinaryLabelmap(segmentation, segment, volume)


def finish(widget, button, seconds: float = 10.0) -> None:
    """Click and wait until what was started has ended, well or not."""
    click(button)
    assert process_events_until(lambda: not widget.logic.session._jobs, seconds)


def uploaded(widget, peer, name: str = "MR head", seed: int = 0):
    """A volume of the scene that the server has, selected."""
    volume = add_volume(name, seed)
    widget.ui.inputVolumeSelector.setCurrentNode(volume)
    finish(widget, widget.ui.uploadButton)
    return volume
