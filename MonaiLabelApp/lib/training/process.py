"""The training process: ``python -m MonaiLabelApp.lib.training.process FOLDER``.

It knows nothing of MONAI Label and of HTTP: its folder says what to learn, and it writes there where it stands.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from fm3d_core.errors import CaseError, FM3DError, MemoryShortageError, Stopped
from MonaiLabelApp.lib.progress_file import ProgressFile
from MonaiLabelApp.lib.training.memory import bind
from MonaiLabelApp.lib.training.record import STOP_FILE, Work

if TYPE_CHECKING:
    from fm3d_core.adaptation import LabeledCase
    from fm3d_core.teaching import Taught

logger = logging.getLogger(__name__)
SERVER_STOPPED = "The server was stopped meanwhile."


class StopQuestion:
    """Whether to end: somebody cancelled (a file), or the whole server is being stopped (SIGTERM)."""

    def __init__(self, folder: Path) -> None:
        self._file, self.terminated = folder / STOP_FILE, False
        signal.signal(signal.SIGTERM, self._note)

    def __call__(self) -> bool:
        """The question itself."""
        return self.terminated or self._file.exists()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.terminated = True


def main(folder: Path) -> int:
    """Train; the exit code is 0 unless it failed."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    work = Work.read(folder)
    progress = ProgressFile(folder / "progress.json", work.run_id)
    progress.waiting()
    if hasattr(os, "nice"):
        os.nice(5)  # segmenting goes on while a training runs
    bind(work.memory)
    should_stop = StopQuestion(folder)
    try:
        taught = learn(work, progress, should_stop)
    except Stopped:
        _stopped(progress, should_stop)
        return 0
    except FM3DError as error:
        progress.failed(_words(error, work) if isinstance(error, MemoryShortageError) else str(error))
        logger.error(error)
        return error.exit_code
    except Exception as error:
        logger.exception("The training failed")
        progress.failed(_words(error, work))
        return 1
    if taught.cancelled:
        _stopped(progress, should_stop)
    else:
        progress.done()
    return 0


def learn(work: Work, progress: ProgressFile, should_stop: StopQuestion) -> Taught:
    """Teach what the work says.

    Raises:
        FM3DError: a mistake in labels, images or settings.
        Stopped: it was ended before any version had landed.
    """
    if work.recipe:
        from MonaiLabelApp.lib.training.recipe import learn_recipe

        return learn_recipe(work, progress, should_stop)
    from fm3d_core.adaptation import AdapterStore, FinetuneSettings
    from fm3d_core.tasks import SegmentationTask
    from fm3d_core.teaching import teach

    task = SegmentationTask(work.structures)
    settings = FinetuneSettings(**work.settings)
    cases, left_out = cases_of(work.cases)
    progress.left_out((*work.left_out, *left_out))
    return teach(
        cases,
        task,
        settings,
        AdapterStore(work.store),
        progress=progress,
        should_stop=should_stop,
        on_version=progress.version_there,
    )


def cases_of(entries: tuple[Mapping[str, Any], ...]) -> tuple[list[LabeledCase], list[str]]:
    """The cases with the meaning of their voxel values; and those that cannot be understood, with the reason.

    Raises:
        CaseError: none is left.
    """
    import numpy as np

    from fm3d_core.adaptation import LabeledCase
    from fm3d_core.volumes import read_label
    from MonaiLabelApp.lib.errors import told_as
    from MonaiLabelApp.lib.labels import read_label_info

    cases, left_out = [], []
    for entry in entries:
        name, label, values = str(entry["name"]), Path(entry["label"]), None
        try:
            if entry["info"].get("label_info"):
                with told_as(f"label of {name}", always=True):
                    present = set(np.unique(read_label(label).array).tolist()) - {0}
                    values = read_label_info(entry["info"], present)
            cases.append(LabeledCase(name, Path(entry["image"]), label, values))
        except FM3DError as error:
            logger.warning("Case %s is left out: %s", name, error)
            left_out.append(str(error))
    if not cases:
        first = left_out[0] if left_out else "they were removed meanwhile"
        raise CaseError("none of the labelled volumes can be used", remedy=f"The first: {first}")
    return cases, left_out


def _stopped(progress: ProgressFile, should_stop: StopQuestion) -> None:
    if should_stop.terminated:
        progress.interrupted(SERVER_STOPPED)
    else:
        progress.cancelled()


def _words(error: BaseException, work: Work) -> str:
    from fm3d_core.adaptation.memory import is_shortage

    if not is_shortage(error):
        return "The training failed unexpectedly. The server's log says more."
    bound = f" of {work.memory / 2**30:.1f} GB" if work.memory else ""
    return (
        f"The memory{bound} is not enough for this training. What it had kept is there. Close other programs, choose"
        " method linear_probe or a smaller backbone, or start the server with a higher --training-memory."
    )


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
