"""The panel's window while volumes go to and fro: longest freeze of the Qt loop, beside a blocking client's.

    python benchmarks/loop_panel.py                       # 20 MB to and from a real server on this computer

A timer of 5 ms runs in the Qt loop; the longest gap between two of its beats is how long the window was dead. The first
row is what other work on this computer adds. Measured on PySide6 and slicer-core (tests/slicer_env), where a Python
thread runs beside the loop; inside Slicer the thread runs only in the pump of SlicerFM3DLib/background.py, whose turns
were measured with PythonQt and stand there. The peer is MONAI Label's own client called on the window's thread, as its
Slicer plugin does.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
import slicer_env

BEAT_MS = 5


@dataclass(frozen=True)
class LoopPanel:
    """What is measured.

    Attributes:
        megabytes: size of the volume, int16.
        repeats: of each transfer; the worst counts.
    """

    megabytes: float = 20.0
    repeats: int = 3


class Heartbeat:
    """Beats in the Qt loop and keeps the gaps, in seconds."""

    def __init__(self) -> None:
        import qt

        self.gaps: list[float] = []
        self._last = time.perf_counter()
        self._timer = qt.QTimer()
        self._timer.setInterval(BEAT_MS)
        self._timer.timeout.connect(self._beat)
        self._timer.start()

    def stop(self) -> None:
        """No further beats."""
        self._beat()
        self._timer.stop()

    def _beat(self) -> None:
        now = time.perf_counter()
        self.gaps.append(now - self._last)
        self._last = now


def measured(start: Callable[[], None], isOver: Callable[[], bool]) -> tuple[float, float]:
    """Seconds until ``isOver`` and the longest gap meanwhile; ``start`` is called within the loop."""
    import qt

    heart, began, click = Heartbeat(), time.perf_counter(), qt.QTimer()
    click.setSingleShot(True)
    click.timeout.connect(start)
    click.start(0)
    slicer_env.process_events_until(lambda: time.perf_counter() - began > 0.05 and isOver(), 300)
    heart.stop()
    return time.perf_counter() - began, max(heart.gaps)


def after(seconds: float) -> Callable[[], bool]:
    """Whether so much time has passed."""
    until = time.perf_counter() + seconds
    return lambda: time.perf_counter() > until


def volume_of(megabytes: float) -> object:
    """A volume of the scene with voxels that no compression makes small."""
    import slicer

    side = round((megabytes * 1e6 / 2 / 80) ** 0.5)
    array = np.random.default_rng(0).integers(-1000, 1000, (80, side, side), dtype=np.int16)
    return slicer.util.addVolumeFromArray(array, name="large")


def main(settings: LoopPanel) -> None:
    """Measure and print."""
    slicer_env.install()
    import slicer
    from monailabel.client import MONAILabelClient
    from SlicerFM3DLib import scene

    from fm3d_core.cli.server_process import ServerProcess

    rows: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as folder, ServerProcess(f"{folder}/studies", f"{folder}/server") as server:
        widget = slicer_env.make_widget()
        widget.parent.show()
        ui, session = widget.ui, widget.logic.session
        ui.addressLineEdit.text = server.address
        measured(ui.connectButton.click, lambda: session.waitedFor is None)
        client = MONAILabelClient(server.address)
        for number in range(settings.repeats):
            slicer_env.clear_scene()
            volume = volume_of(settings.megabytes)
            ui.inputVolumeSelector.setCurrentNode(volume)
            idle = lambda: session.waitedFor is None  # noqa: E731
            rows.setdefault("nothing, for a second", []).append(measured(lambda: None, after(1.0)))
            rows.setdefault("panel: upload", []).append(measured(ui.uploadButton.click, idle))
            assert scene.imageId(volume, session.address), session.messages
            slicer.mrmlScene.RemoveNode(volume)
            rows.setdefault("panel: next volume", []).append(measured(ui.nextButton.click, idle))
            volume = ui.inputVolumeSelector.currentNode()
            assert volume is not None, session.messages

            def blocking(volume: object = volume, number: int = number) -> None:
                path = scene.writeVolume(volume, Path(folder) / "peer.nrrd")
                client.upload_image(path, f"peer{number}")

            rows.setdefault("peer: upload", []).append(measured(blocking, lambda: True))
        widget.cleanup()
    table = Table(
        "transfer", "seconds (median)", "longest freeze, ms (median)", "(worst)", title=f"{settings.megabytes:g} MB"
    )
    for name, values in rows.items():
        seconds, freezes = np.array(values).T
        table.add_row(
            name, f"{np.median(seconds):.2f}", f"{1000 * np.median(freezes):.0f}", f"{1000 * freezes.max():.0f}"
        )
    Console().print(table)


if __name__ == "__main__":
    main(tyro.cli(LoopPanel, description=__doc__))
