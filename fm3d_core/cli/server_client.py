"""The loop over HTTP with MONAI Label's own client: upload, submit, train, segment."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fm3d_core.errors import ServerError
from fm3d_core.progress import Progress, ProgressCallback, ignore_progress

MODEL = "segmentation"
SECONDS_BETWEEN_QUESTIONS = 0.5


class LoopClient:
    """What the demo does with a server.

    Args:
        address: of the server.
        folder: where segmentations are kept.
    """

    def __init__(self, address: str, folder: Path) -> None:
        from monailabel.client import MONAILabelClient

        folder.mkdir(parents=True, exist_ok=True)
        self._client, self._folder = MONAILabelClient(address, tmpdir=str(folder)), folder

    def upload(self, image: Path, name: str) -> None:
        """Send an image under an id.

        Raises:
            ServerError: refused, with the server's reason.
        """
        self._ask(self._client.upload_image, str(image), name)

    def submit(self, name: str, label: Path, names: Mapping[int, str]) -> None:
        """Send the label map of an image; ``names`` says what each voxel value means.

        Raises:
            ServerError: refused, with the server's reason.
        """
        entries = [{"name": structure, "idx": value} for value, structure in names.items()]
        self._ask(self._client.save_label, name, str(label), "final", {"label_info": entries})

    def segment(self, name: str, version: str) -> tuple[Path, dict[str, Any]]:
        """Segment an image of the server.

        Returns:
            The label map's file, ``NAME-VERSION.nii.gz``, and the server's answer (``label_names`` and more).

        Raises:
            ServerError: refused, with the server's reason.
        """
        received, answer = self._ask(self._client.infer, MODEL, name, {"version": version})
        file = self._folder / f"{name}-{version}.nii.gz"
        shutil.move(str(received), file)
        return file, dict(answer)

    def train(self, parameters: Mapping[str, Any], progress: ProgressCallback = ignore_progress) -> dict[str, Any]:
        """Train and wait for the end.

        Returns:
            The last training figures, with the adapter's ``version``.

        Raises:
            ServerError: refused or failed, with the server's reason.
        """
        self._ask(self._client.train_start, MODEL, dict(parameters))
        while True:
            status = self._ask(self._client.train_status)["status"]
            figures: dict[str, Any] = self._ask(self._client.info)["train_stats"][MODEL]
            if status not in ("SUBMITTED", "RUNNING"):
                break
            progress(
                Progress(
                    figures["stage"],
                    figures["step"],
                    figures["total"],
                    figures["elapsed"],
                    figures["eta"],
                    figures["loss"],
                    figures["metrics"],
                )
            )
            time.sleep(SECONDS_BETWEEN_QUESTIONS)
        if "version" not in figures:
            raise ServerError(
                f"the training failed: {figures.get('error', status)}", remedy="The server's log says more"
            )
        return figures

    def _ask(self, method: Callable[..., Any], *arguments: Any) -> Any:
        from monailabel.client.client import MONAILabelClientException

        try:
            return method(*arguments)
        except MONAILabelClientException as error:
            raise ServerError(f"the server refused: {_reason(error.msg)}", remedy="Change the request") from error
        except OSError as error:
            raise ServerError(f"the server does not answer ({error})", remedy="Is it still running?") from error


def _reason(message: str) -> str:
    """The server's words in the client's "Status: 422; Response: {...}"."""
    found = re.search(r"Response: (\{.*\})", message, re.DOTALL)
    try:
        return str(json.loads(found[1])["detail"]) if found else message
    except (ValueError, KeyError):
        return message
