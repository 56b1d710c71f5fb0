"""``fm3d segment`` as a user runs it: points in mm of RAS, the result on the image's own grid, mistakes in one line."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from command import run as fm3d

from fm3d_core.adaptation import AdapterStore, FinetuneSettings, untrained_adapter
from fm3d_core.tasks import SegmentationTask

run = partial(fm3d, "segment")


@pytest.fixture
def case(synthetic_folder: Path) -> tuple[Path, list[float], list[float]]:
    """An image, a position in its first structure and one in the corner of the volume."""
    image = sorted((synthetic_folder / "images").iterdir())[0]
    label = nib.load(synthetic_folder / "labels" / image.name)
    inside = np.argwhere(np.asarray(label.dataobj) == 1)
    middle = inside[np.abs(inside - inside.mean(axis=0)).sum(axis=1).argmin()]
    return image, *((label.affine @ [*voxel, 1])[:3].round(2).tolist() for voxel in (middle, (1, 1, 1)))


def test_points_and_a_box_give_a_file_on_the_images_grid(
    case: tuple[Path, list[float], list[float]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image, inside, outside = case
    out = tmp_path / "found.nii.gz"
    assert run(image, "--inside", *inside, "--outside", *outside, "--out", out) == 0
    assert "found.nii.gz" in capsys.readouterr().out.replace("\n", "")
    found, source = nib.load(out), nib.load(image)
    assert found.shape == source.shape
    np.testing.assert_allclose(found.affine, source.affine, atol=1e-5)
    voxel = np.rint(np.linalg.inv(source.affine) @ [*inside, 1])[:3].astype(int)
    assert np.asarray(found.dataobj)[tuple(voxel)] == 1
    assert run(image, "--inside", *inside, "--out", out) == 2 and "exists" in capsys.readouterr().err
    corrected = tmp_path / "corrected.nii.gz"
    assert run(image, "--outside", *inside, "--correct", out, "--out", corrected) == 0
    assert np.asarray(nib.load(corrected).dataobj)[tuple(voxel)] == 0


def test_the_structure_of_an_adapter_is_where_it_starts(
    case: tuple[Path, list[float], list[float]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image, inside, _ = case
    store = AdapterStore(tmp_path / "store")
    store.save(untrained_adapter(SegmentationTask(("blob",)), FinetuneSettings(method="linear_probe", device="cpu")))
    common = (image, "--inside", *inside, "--store", store.root)
    assert run(*common, "--structure", "blob", "--out", tmp_path / "a.nii.gz") == 0
    assert run(*common, "--structure", "heart", "--out", tmp_path / "b.nii.gz") == 2
    assert "has no structure 'heart'. It has blob." in capsys.readouterr().err
    assert run(*common, "--out", tmp_path / "b.nii.gz") == 2 and "Name the structure" in capsys.readouterr().err


def test_what_says_nothing_is_refused_in_one_line(
    case: tuple[Path, list[float], list[float]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image, _, _ = case
    out = tmp_path / "none.nii.gz"
    assert run(image, "--out", out) == 2 and "nothing says where the structure is" in capsys.readouterr().err
    assert run(image, "--inside", 9999, 0, 0, "--out", out) == 2 and "outside of the volume" in capsys.readouterr().err
    assert not out.exists()
