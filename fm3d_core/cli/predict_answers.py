"""Answers about whole volumes as ``fm3d predict`` collects and writes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from fm3d_core.cli.predict_inputs import AskedVolume
    from fm3d_core.inference.answering import Answer
    from fm3d_core.tasks import WholeVolumeTask

FILES = ("predictions.csv", "predictions.json")


@dataclass
class CollectedAnswers:
    """What was said of each volume.

    Attributes:
        task: what was asked; None: nothing about whole volumes.
        rows: name -> the numbers behind the answer.
        hashes: name -> sha256 of the image files.
    """

    task: WholeVolumeTask | None
    rows: dict[str, list[float]] = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)

    def add(self, asked: AskedVolume, answer: Answer) -> list[str]:
        """Keep an answer; returns it in words."""
        from fm3d_core.evaluation.probing.features import sha256_of_images

        if self.task is None or answer.activated is None:
            return []
        self.rows[asked.name] = answer.activated
        self.hashes[asked.name] = sha256_of_images(asked.images)
        said = self.task.describe(answer.activated)
        words = {name: value for name, value in said.items() if name in ("class", "labels", "value", "risk", "unit")}
        return [f"{asked.name}: {_in_words(words)}"]

    def write(self, folder: Path, run: Mapping[str, Any]) -> list[Path]:
        """CSV and JSON of all; nothing if there is no answer.

        Raises:
            StorageError: disk full, no permission.
        """
        from fm3d_core.evaluation.predictions import Predictions, write_csv, write_json

        if self.task is None or not self.rows:
            return []
        activated = np.array(list(self.rows.values()), np.float64)
        predictions = Predictions(self.task, tuple(self.rows), activated, self.hashes, {"run": dict(run)})
        return [write_csv(folder / FILES[0], predictions), write_json(folder / FILES[1], predictions)]


def _in_words(said: Mapping[str, Any]) -> str:
    unit = str(said.get("unit", ""))
    found = [value for name, value in said.items() if name != "unit"]
    texts = [", ".join(value) or "nothing" if isinstance(value, list) else str(value) for value in found]
    return f"{' '.join(texts)} {unit}".rstrip() if "value" in said else " ".join(texts)
