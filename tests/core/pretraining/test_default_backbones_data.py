"""What default backbones learn from: nothing a figure needs, nothing that may not be shipped, the same every time."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import nibabel
import numpy as np
import pytest

from fm3d_core.errors import CaseError

SCRIPT = Path(__file__).parents[3] / "benchmarks/default_backbones_data.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("default_backbones_data", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_no_volume_of_a_subject_that_a_figure_needs_is_taken(script: ModuleType, shared_data: Path) -> None:
    ids = sorted(script.number_of(image) for image in (shared_data / "hippocampus/images").glob("*.nii.gz"))
    free, choosing = script.free_ids(ids), script.choosing_ids(ids)
    needed = {"001", "003", "007", "011", "015", *ids[-20:], *choosing}
    assert ids[-20] == "355" and len(choosing) == 10 and not set(choosing) & {"001", "003", "007", *ids[-20:]}
    assert not {(int(name) + 1) // 2 for name in free} & {(int(name) + 1) // 2 for name in needed}
    assert "002" not in free and len(free) > 120


def test_only_files_known_to_be_free_are_copied(script: ModuleType, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    image = shared / "other/ms_mr/images/one.nii.gz"
    image.parent.mkdir(parents=True)
    image.write_bytes(b"voxels")
    row = {"file": "realdata/other/ms_mr/images/one.nii.gz", "tier": "A", "licence": "CC-BY"}
    for rows in ([], [row | {"tier": "B"}]):
        (shared / "provenance_files.json").write_text(json.dumps(rows))
        with pytest.raises(CaseError, match="Only tier A"):
            script.copy_small_sets(shared, tmp_path / "out")
    (shared / "provenance_files.json").write_text(json.dumps([row]))
    (used,) = script.copy_small_sets(shared, tmp_path / "out")
    assert (tmp_path / "out" / used.file).read_bytes() == b"voxels" and used.licence == "CC-BY"


def test_a_made_up_volume_follows_from_its_seed_and_fills_its_field_of_view(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "_EDGE", 24)
    thick = 0
    for seed in range(6):
        files = [tmp_path / name / script.draw(tmp_path / name, seed).file for name in ("first", "second")]
        first, second = (nibabel.load(file) for file in files)
        values = np.asarray(first.dataobj)
        assert np.array_equal(values, np.asarray(second.dataobj)) and values.dtype == np.int16
        assert values.min() >= 0 and values.max() <= 1000 and values.std() > 1
        lengths = np.array(first.header.get_zooms()) * values.shape
        assert lengths.max() / lengths.min() < 1.25  # a cube, whatever its slices
        thick += min(values.shape) < 24
    assert 0 < thick < 6
