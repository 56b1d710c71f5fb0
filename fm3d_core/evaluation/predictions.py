"""Files of answers about whole volumes: JSON, which says what was asked, and CSV, which opens in a spreadsheet."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from fm3d_core.errors import CaseError, FM3DError, SettingsError
from fm3d_core.files import atomic_file

if TYPE_CHECKING:
    from fm3d_core.tasks import WholeVolumeTask

FORMAT = 1
_REMEDY = "Give a predictions.json or .csv as fm3d predict writes them"
_PREFIX = "probability "


@dataclass(frozen=True)
class Predictions:
    """Answers of one network about some volumes.

    Attributes:
        task: what was asked.
        names: of the cases.
        activated: (n, classes), what the task's ``activate`` gives.
        hashes: case -> sha256 of its image; may be empty.
        origin: what else is known of where they come from, as plain data.
    """

    task: WholeVolumeTask
    names: tuple[str, ...]
    activated: npt.NDArray[np.float64]
    hashes: Mapping[str, str] = field(default_factory=dict)
    origin: Mapping[str, Any] = field(default_factory=dict)

    def answers(self) -> dict[str, dict[str, Any]]:
        """Case -> the answer in plain data."""
        return {name: self.task.describe(row) for name, row in zip(self.names, self.activated.tolist(), strict=True)}


def columns_of(task: WholeVolumeTask) -> list[str]:
    """Names of the columns of ``activated`` in a CSV file."""
    if task.kind in ("classification", "multilabel"):
        return [f"{_PREFIX}{label}" for label in task.labels]
    if task.kind == "regression":
        return list(task.labels)
    return [f"survival beyond bin {index}" for index in range(1, task.classes + 1)]


def write_json(path: str | Path, predictions: Predictions) -> Path:
    """Write predictions with what was asked and where they come from, all or nothing.

    Raises:
        StorageError: disk full, no permission.
    """
    cases = {
        name: {
            "answer": answer,
            "activated": [round(float(value), 8) for value in row],
            **({"image_sha256": predictions.hashes[name]} if name in predictions.hashes else {}),
        }
        for (name, answer), row in zip(predictions.answers().items(), predictions.activated, strict=True)
    }
    content = {"format": FORMAT, "task": predictions.task.to_dict(), **predictions.origin, "cases": cases}
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")
    return Path(path)


def write_csv(path: str | Path, predictions: Predictions) -> Path:
    """Write a line per case: its name, the answer in a word, and the numbers behind it.

    Raises:
        StorageError: disk full, no permission.
    """
    with atomic_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["case", *_word_columns(predictions.task), *columns_of(predictions.task)])
        for (name, answer), row in zip(predictions.answers().items(), predictions.activated, strict=True):
            writer.writerow([name, *_words(predictions.task, answer), *(f"{value:.6g}" for value in row)])
    return Path(path)


def read_predictions(path: str | Path, task: WholeVolumeTask | None = None) -> Predictions:
    """Read a file of either kind.

    Args:
        path: ends in .json or .csv. A CSV file of another program needs a column "case", and for each class or finding
            one of its name, or "probability NAME"; for a value one of its name.
        task: what was asked; None: the JSON file says it.

    Raises:
        CaseError: unreadable, a case twice, or a number that is none.
        SettingsError: a CSV file without a task, or another task than the file's.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
        return _from_csv(text, path, task) if path.suffix.lower() == ".csv" else _from_json(text, path, task)
    except FM3DError:
        raise
    except (OSError, UnicodeDecodeError, ValueError, KeyError, TypeError, AttributeError, csv.Error) as error:
        raise CaseError(f"is no file of predictions ({error})", path=path, remedy=_REMEDY) from error


def _from_json(text: str, path: Path, task: WholeVolumeTask | None) -> Predictions:
    from fm3d_core.tasks import task_from_dict

    content = json.loads(text)
    own = cast("WholeVolumeTask", task_from_dict(content.pop("task")))
    if task is not None and (task.kind, task.labels) != (own.kind, own.labels):
        raise SettingsError(f"asks for {own.kind} of {', '.join(own.labels)}", path=path, remedy="Leave --task out")
    cases = content.pop("cases")
    hashes = {name: str(case["image_sha256"]) for name, case in cases.items() if "image_sha256" in case}
    rows = [case["activated"] for case in cases.values()]
    content.pop("format", None)
    return _checked(own, list(cases), rows, path, hashes, content)


def _from_csv(text: str, path: Path, task: WholeVolumeTask | None) -> Predictions:
    if task is None:
        raise SettingsError(
            "does not say what was asked", path=path, remedy="Give the task's YAML file with --task, or the JSON file"
        )
    reader = csv.DictReader(text.splitlines())
    known = [name.strip() for name in reader.fieldnames or ()]
    wanted = [[name, name.removeprefix(_PREFIX), name.replace(_PREFIX, "p_")] for name in columns_of(task)]
    chosen = [next((name for name in names if name in known), None) for names in wanted]
    if "case" not in known or None in chosen:
        missing = [names[0] for names, found in zip(wanted, chosen, strict=True) if found is None]
        raise CaseError(f"has no column {', '.join(missing) or 'case'}", path=path, remedy=f"It has {', '.join(known)}")
    lines = [{key.strip(): value for key, value in line.items() if key is not None} for line in reader]
    rows = [[float(line[str(name)]) for name in chosen] for line in lines]
    return _checked(task, [line["case"].strip() for line in lines], rows, path, {}, {})


def _checked(
    task: WholeVolumeTask,
    names: Sequence[str],
    rows: Sequence[Sequence[float]],
    path: Path,
    hashes: Mapping[str, str],
    origin: Mapping[str, Any],
) -> Predictions:
    if len(set(names)) < len(names):
        raise CaseError("has a case twice", path=path, remedy="Leave one of both out")
    for name, row in zip(names, rows, strict=True):
        if len(row) != task.classes or not all(math.isfinite(value) for value in row):
            raise CaseError(
                f"{name} has not {task.classes} finite number{'s' * (task.classes > 1)}", path=path, remedy=_REMEDY
            )
    activated = np.array(rows, np.float64).reshape(len(rows), task.classes)
    return Predictions(task, tuple(names), activated, hashes, origin)


def _word_columns(task: WholeVolumeTask) -> list[str]:
    return {"classification": ["class"], "multilabel": ["labels"], "survival": ["risk"]}.get(task.kind, [])


def _words(task: WholeVolumeTask, answer: Mapping[str, Any]) -> list[str]:
    found = [answer[name] for name in _word_columns(task)]
    return [";".join(value) if isinstance(value, list) else str(value) for value in found]
