"""The names of a folder's structures: ``labels.json`` or the ``dataset.json`` of nnU-Net and the Decathlon."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from fm3d_core.errors import SettingsError
from fm3d_core.volumes.cases import Case


def read_label_names(folder: str | Path, cases: Sequence[Case] = ()) -> dict[int, str]:
    """Voxel value -> name of a folder of cases, in order of value, without background.

    Read from ``labels.json`` ({"1": "name"}) or ``dataset.json`` ({"labels": ...} with values as keys, as the
    Decathlon writes it, or as values, as nnU-Net does). Without either, each value that occurs in the labels of
    ``cases`` is called "structure VALUE".

    Raises:
        SettingsError: such a file is there but cannot be understood.
    """
    folder = Path(folder)
    for file, key in ((folder / "labels.json", None), (folder / "dataset.json", "labels")):
        if not file.is_file():
            continue
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            pairs = dict(content if key is None else content[key]).items()
            named = [(one, two) if str(one).isdigit() else (two, one) for one, two in pairs]
            return {int(value): str(name) for value, name in sorted(named, key=lambda pair: int(pair[0])) if int(value)}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SettingsError("names no labels", path=file, remedy='Write {"1": "name", ...}') from error
    return _values_as_names(cases)


def _values_as_names(cases: Sequence[Case]) -> dict[int, str]:
    import numpy as np

    from fm3d_core.volumes.reading import read_label

    values: set[int] = set()
    for case in cases:
        if case.label is not None:
            values |= set(np.unique(read_label(case.label).array).tolist())
    return {value: f"structure {value}" for value in sorted(values - {0})}
