"""Lists of cases for training, validation and test, in MONAI's JSON or as CSV, with all that is known of each case."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fm3d_core.errors import CaseError, SettingsError
from fm3d_core.volumes.names import case_name

_SPLITS = {
    "training": "training",
    "train": "training",
    "validation": "validation",
    "val": "validation",
    "test": "test",
    "testing": "test",
}
_REMEDY = 'Write {"training": [{"image": "a.nii.gz", "label": "a_label.nii.gz"}], ...}, or CSV with a column image'


@dataclass(frozen=True)
class ListedCase:
    """One case of a list.

    Attributes:
        name: of the case: its field "name" or "id", else its first image file.
        images: one file per channel, or one file.
        fields: all that the list says of it, by name.
        fold: of a list in folds; None if it says nothing.
        folder: where the list's relative paths begin.
    """

    name: str
    images: tuple[Path, ...]
    fields: Mapping[str, Any]
    fold: int | None
    folder: Path

    def file(self, field: str = "label") -> Path:
        """The file that a field names.

        Raises:
            CaseError: there is no such field, or it names no file.
        """
        value = self.fields.get(field)
        if not isinstance(value, str) or not value.strip():
            raise CaseError(f"has no {field} file", path=self.name, remedy="Add it to the list or leave the case out")
        return self.folder / value.strip()


@dataclass(frozen=True)
class DataList:
    """Cases by what they are for.

    Attributes:
        path: of the list.
        training, validation, test: the cases; the last two may be empty.
    """

    path: Path
    training: tuple[ListedCase, ...]
    validation: tuple[ListedCase, ...] = ()
    test: tuple[ListedCase, ...] = ()

    @property
    def folds(self) -> tuple[int, ...]:
        """The folds that training cases are marked with, rising."""
        return tuple(sorted({case.fold for case in self.training if case.fold is not None}))

    def fold(self, fold: int) -> DataList:
        """Training cases of one fold as validation, the others as training.

        Raises:
            CaseError: no case of this fold, or nothing but it.
        """
        held_out = tuple(case for case in self.training if case.fold == fold)
        rest = tuple(case for case in self.training if case.fold != fold)
        if not held_out or not rest:
            known = ", ".join(map(str, self.folds)) or "none"
            raise CaseError(f"has no fold {fold} to hold out", path=self.path, remedy=f"Its folds: {known}")
        return replace(self, training=rest, validation=held_out)

    def in_folds(self, count: int, seed: int = 0) -> DataList:
        """With training cases marked by random folds of equal size, unless the list marks them itself.

        Raises:
            CaseError: fewer cases than folds.
        """
        if self.folds:
            return self
        if not 2 <= count <= len(self.training):
            raise CaseError(
                f"{len(self.training)} training cases cannot be held out in {count} folds",
                path=self.path,
                remedy="Choose 2 or more folds, at most one for each case",
            )
        order = random.Random(seed).sample(range(len(self.training)), len(self.training))
        fold_of = {index: place % count for place, index in enumerate(order)}
        marked = tuple(replace(case, fold=fold_of[index]) for index, case in enumerate(self.training))
        return replace(self, training=marked)

    def fraction(self, share: float, seed: int = 0) -> DataList:
        """With a random share of the training cases, at least one; a larger share of one seed has the smaller one's.

        Raises:
            SettingsError: not above 0 and up to 1.
        """
        if not 0 < share <= 1:
            raise SettingsError(f"fraction is {share}", remedy="Choose a share above 0, up to 1")
        order = random.Random(seed).sample(range(len(self.training)), len(self.training))
        kept = set(order[: max(round(share * len(order)), 1)])
        return replace(self, training=tuple(case for index, case in enumerate(self.training) if index in kept))


def read_data_list(path: str | Path, *, root: str | Path | None = None) -> DataList:
    """Read a list of cases.

    JSON: {"training": [...], "validation": [...], "test": [...]}, each case an object with "image" (a file, or a list
    of files, one per channel) and any other fields; "fold" marks folds. A test case may be a mere file name. CSV: a
    column "image" (files separated by ";") or "image_1", "image_2", ...; "split" says training, validation or test
    (training without it), "fold" the fold.

    Args:
        path: ending in .json or .csv.
        root: where relative paths begin; None: the list's folder.

    Raises:
        CaseError: unreadable, no training case, a case without image, or two of one name.
    """
    path = Path(path)
    folder = Path(root) if root is not None else path.parent
    try:
        text = path.read_text(encoding="utf-8-sig")
        rows = rows_of_csv(text) if path.suffix.lower() == ".csv" else _from_json(text)
    except (OSError, UnicodeDecodeError, ValueError, csv.Error) as error:
        raise CaseError(f"is no list of cases ({error})", path=path, remedy=_REMEDY) from error
    cases: dict[str, list[ListedCase]] = {"training": [], "validation": [], "test": []}
    for number, (split, fields) in enumerate(rows, start=1):
        cases[split].append(_case(fields, folder, path, number))
    named = _with_distinct_names(cases)
    listed = DataList(path, *(tuple(named[split]) for split in ("training", "validation", "test")))
    if not listed.training and not listed.test:
        raise CaseError("holds no case", path=path, remedy=_REMEDY)
    _refuse_twice(listed)
    return listed


def _from_json(text: str) -> list[tuple[str, dict[str, Any]]]:
    content = json.loads(text)
    if isinstance(content, list):
        content = {"training": content}
    if not isinstance(content, dict):
        raise ValueError("neither an object nor a list")
    rows: list[tuple[str, dict[str, Any]]] = []
    for key, split in _SPLITS.items():
        for each in content.get(key, []):
            fields = {"image": each} if isinstance(each, str) else each
            if not isinstance(fields, dict):
                raise ValueError(f"a case of {key} is no object")
            rows.append((split, fields))
    return rows


def rows_of_csv(text: str) -> list[tuple[str, dict[str, Any]]]:
    """The part (training, validation or test) and the fields of each line; "image" as a list of files.

    Raises:
        ValueError: no such table, in words.
    """
    reader = csv.DictReader(text.splitlines())
    columns = [column.strip() for column in reader.fieldnames or ()]
    if len(set(columns)) < len(columns):
        raise ValueError("two columns have the same name")
    rows = []
    for row in reader:
        if None in row or None in row.values():
            raise ValueError(f"line {reader.line_num} has not as many fields as the head")
        fields: dict[str, Any] = {key.strip(): value.strip() for key, value in row.items()}
        split = str(fields.pop("split", "") or "training").lower()
        if split not in _SPLITS:
            raise ValueError(f"line {reader.line_num}: split is {split}, not training, validation or test")
        numbered = sorted(key for key in fields if key.startswith("image_") and key[6:].isdigit())
        if "image" not in fields and numbered:
            fields["image"] = [fields.pop(key) for key in sorted(numbered, key=lambda key: int(key[6:]))]
        elif isinstance(fields.get("image"), str):
            fields["image"] = [part.strip() for part in fields["image"].split(";")]
        rows.append((_SPLITS[split], fields))
    return rows


def _case(fields: dict[str, Any], folder: Path, path: Path, number: int) -> ListedCase:
    images = fields.get("image")
    files = [images] if isinstance(images, str) else images
    if not isinstance(files, list) or not files or not all(isinstance(file, str) and file.strip() for file in files):
        raise CaseError(f"case {number} has no image file", path=path, remedy=_REMEDY)
    paths = tuple(folder / file.strip() for file in files)
    fold = fields.get("fold")
    try:
        fold = None if fold is None or fold == "" else int(fold)
    except (TypeError, ValueError):
        raise CaseError(f"case {number} has the fold {fold!r}", path=path, remedy="Give whole numbers") from None
    name = str(fields.get("name") or fields.get("id") or case_name(paths[0]))
    others = {key: value for key, value in fields.items() if key not in ("image", "fold")}
    return ListedCase(name, paths, others, fold, folder)


def _with_distinct_names(cases: Mapping[str, Sequence[ListedCase]]) -> dict[str, list[ListedCase]]:
    """Files of one name in folders of their own are called by their folder too."""
    names = [case.name for each in cases.values() for case in each]
    twice = {name for name in names if names.count(name) > 1} if len(set(names)) < len(names) else set()

    def distinct(case: ListedCase) -> ListedCase:
        given = "name" in case.fields or "id" in case.fields
        parent = case.images[0].parent.name
        return case if given or case.name not in twice or not parent else replace(case, name=f"{parent}/{case.name}")

    return {split: [distinct(case) for case in each] for split, each in cases.items()}


def _refuse_twice(listed: DataList) -> None:
    seen: dict[Any, str] = {}
    splits = {"training": listed.training, "validation": listed.validation, "test": listed.test}
    for split, cases in splits.items():
        for case in cases:
            for key, called in ((case.name, case.name), (case.images, case.images[0].name)):
                if key in seen:
                    raise CaseError(
                        f"has {called} twice (in {seen[key]} and {split})",
                        path=listed.path,
                        remedy="A case is for training, for validation or for test; give each a name of its own",
                    )
                seen[key] = split
