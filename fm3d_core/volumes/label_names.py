"""The names of a folder's structures, ``labels.json`` or the ``dataset.json`` of nnU-Net and the Decathlon, and
``annotation.json``: what was annotated in its labels."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fm3d_core.errors import SettingsError
from fm3d_core.volumes.annotation import Annotation
from fm3d_core.volumes.cases import Case

ANNOTATION_FILE = "annotation.json"
_NOT_ANNOTATED = "ignore"  # nnU-Net's name for the value of voxels that were not annotated
_ANNOTATION_REMEDY = 'Write for example {"slices": "axial", "cases": {"case_1": {"structures": ["liver"]}}}'


def read_label_names(folder: str | Path, cases: Sequence[Case] = ()) -> dict[int, str]:
    """Voxel value -> name of a folder of cases, in order of value, without background.

    Read from ``labels.json`` ({"1": "name"}) or ``dataset.json`` ({"labels": ...} with values as keys, as the
    Decathlon writes it, or as values, as nnU-Net does). Without either, each value that occurs in the labels of
    ``cases`` is called "structure VALUE". nnU-Net's label "ignore" is no structure: see :func:`read_annotations`.

    Raises:
        SettingsError: such a file is there but cannot be understood, or names a structure or a value twice.
    """
    named = _named_values(Path(folder))
    if named is None:
        return _values_as_names(cases, _whole_folder(Path(folder)).unlabelled_value)
    return {value: name for value, name in named.items() if value and name.lower() != _NOT_ANNOTATED}


def read_annotations(folder: str | Path, cases: Sequence[Case]) -> dict[str, Annotation]:
    """Case name -> what was annotated in it.

    Read from ``annotation.json``: fields of :class:`Annotation` for all cases, and under "cases" those of single ones
    by name, which go before. A label named "ignore" in ``labels.json`` or ``dataset.json`` has the value of voxels that
    were not annotated, as in nnU-Net. Without either, all cases are completely annotated.

    Raises:
        SettingsError: the file cannot be understood, or names a case that is not there.
    """
    folder = Path(folder)
    path = folder / ANNOTATION_FILE
    common = _whole_folder(folder)
    single = _read_annotation_file(folder).get("cases", {})
    known = {case.name for case in cases}
    if missing := sorted(set(single) - known):
        raise SettingsError(f"names no case of the folder: {', '.join(missing)}", path=path, remedy="Check the names")
    return {name: _annotation({**common.to_dict(), **single.get(name, {})}, path) for name in known}


def _whole_folder(folder: Path) -> Annotation:
    """What holds for every case of the folder that says nothing else."""
    named = _named_values(folder) or {}
    value = next((value for value, name in named.items() if name.lower() == _NOT_ANNOTATED), None)
    common = {name: value for name, value in _read_annotation_file(folder).items() if name != "cases"}
    return _annotation({"unlabelled_value": value, **common}, folder / ANNOTATION_FILE)


def _annotation(data: Mapping[str, Any], path: Path) -> Annotation:
    try:
        return Annotation.from_dict(data)
    except SettingsError as error:
        raise SettingsError(error.problem, path=path, remedy=error.remedy) from error


def _read_annotation_file(folder: Path) -> dict[str, Any]:
    path = folder / ANNOTATION_FILE
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SettingsError("cannot be read", path=path, remedy=_ANNOTATION_REMEDY) from error
    single = content.get("cases", {}) if isinstance(content, dict) else None
    if not isinstance(single, dict) or not all(isinstance(values, dict) for values in single.values()):
        raise SettingsError("does not say what was annotated", path=path, remedy=_ANNOTATION_REMEDY)
    return dict(content)


def _named_values(folder: Path) -> dict[int, str] | None:
    """Voxel value -> name as written, in order of value; None without a file."""
    for file, key in ((folder / "labels.json", None), (folder / "dataset.json", "labels")):
        if not file.is_file():
            continue
        try:
            content = json.loads(file.read_text(encoding="utf-8"), object_pairs_hook=_no_key_twice)
            pairs = dict(content if key is None else content[key]).items()
            named = [(one, two) if str(one).isdigit() else (two, one) for one, two in pairs]
            return _without_doubles([(int(value), str(name).strip()) for value, name in named], file)
        except _KeyTwice as error:
            raise SettingsError(
                f"has {error} twice", path=file, remedy="Give each structure its own name and value"
            ) from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SettingsError("names no labels", path=file, remedy='Write {"1": "name", ...}') from error
    return None


class _KeyTwice(ValueError):
    """A key that stands twice in one JSON object, of which Python would silently keep the last."""


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    if twice := [key for key in keys if keys.count(key) > 1]:
        raise _KeyTwice(twice[0])
    return dict(pairs)


def _without_doubles(named: Sequence[tuple[int, str]], file: Path) -> dict[int, str]:
    values, names = ([pair[place] for pair in named] for place in (0, 1))
    for twice in [name for name in names if names.count(name) > 1] + [v for v in values if values.count(v) > 1]:
        raise SettingsError(f"has {twice} twice", path=file, remedy="Give each structure its own name and value")
    return dict(sorted(named))


def _values_as_names(cases: Sequence[Case], unlabelled_value: int | None) -> dict[int, str]:
    import numpy as np

    from fm3d_core.volumes.reading import read_label

    values: set[int] = set()
    for case in cases:
        if case.label is not None:
            values |= set(np.unique(read_label(case.label).array).tolist())
    return {value: f"structure {value}" for value in sorted(values - {0, unlabelled_value})}
