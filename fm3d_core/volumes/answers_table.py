"""A table of what is known of images that lie in one folder: who they are stands in it by id, not by path."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fm3d_core.errors import CaseError
from fm3d_core.volumes.data_list import DataList, ListedCase, rows_of_csv
from fm3d_core.volumes.names import case_name


def read_answers(path: str | Path, images: Mapping[str, Path], asked: str = "") -> tuple[DataList, list[str]]:
    """Read a CSV table about images that are at hand.

    A column "id" names the image, or "image" its file (of several channels: files separated by ";"); "split" and any
    other column as of :func:`fm3d_core.volumes.read_data_list`.

    Args:
        path: of the table.
        images: id -> file.
        asked: the columns that are needed besides, for the messages.

    Returns:
        The cases, called by their id; and the rows whose image is not at hand, in words.

    Raises:
        CaseError: there is no table, it cannot be read, an image is in it twice, or none is at hand.
    """
    path = Path(path)
    remedy = f"Write {path.name} with the columns id{', ' + asked if asked else ''}, one line for each image"
    try:
        rows = rows_of_csv(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise CaseError("there is no table of answers", path=path, remedy=remedy) from error
    except (OSError, UnicodeDecodeError, ValueError, csv.Error) as error:
        raise CaseError(f"is no table of answers ({error})", path=path, remedy=remedy) from error
    cases: dict[str, list[ListedCase]] = {"training": [], "validation": [], "test": []}
    left_out, seen = [], set[str]()
    for number, (split, fields) in enumerate(rows, start=2):
        ids = _ids(fields)
        if not ids:
            raise CaseError(f"line {number} names no image", path=path, remedy=remedy)
        if unknown := [each for each in ids if each not in images]:
            left_out.append(f"{path.name}, line {number}: there is no image {', '.join(unknown)[:128]}")
            continue
        if ids[0] in seen:
            raise CaseError(f"has {ids[0]} twice", path=path, remedy="Give each image one line")
        seen.add(ids[0])
        others = {key: value for key, value in fields.items() if key not in ("image", "id", "fold")}
        cases[split].append(ListedCase(ids[0], tuple(images[each] for each in ids), others, None, path.parent))
    if not seen:
        first = left_out[0] if left_out else "it has no line but the head"
        raise CaseError(f"is about no image that is here ({first})", path=path, remedy=remedy)
    return DataList(path, *(tuple(cases[split]) for split in ("training", "validation", "test"))), left_out


def _ids(fields: Mapping[str, Any]) -> list[str]:
    """The ids of a row's images, one per file."""
    own = str(fields.get("id") or "").strip()
    files = fields.get("image") or []
    return [own] if own else [case_name(Path(file.strip())) for file in files if file.strip()]
