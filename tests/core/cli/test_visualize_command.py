"""``fm3d visualize`` as a user runs it: files on the image's grid, pictures, and what a pyramid has not."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from command import run as fm3d

run = partial(fm3d, "visualize")


@pytest.fixture
def image(synthetic_folder: Path) -> Path:
    return sorted((synthetic_folder / "images").iterdir())[0]


def test_a_transformer_shows_features_and_the_attention_of_each_head(image: Path, tmp_path: Path) -> None:
    from matplotlib.image import imread

    out = tmp_path / "out"
    assert run(image, "--backbone", "vit_light_8", "--out", out, "--device", "cpu") == 0
    name = image.name[:-7]
    maps = [f"{name}_attention{ending}.nii.gz" for ending in ("", "_head_01", "_head_02", "_head_03")]
    pictures = [f"{name}_attention.png", f"{name}_features.png"]
    assert sorted(path.name for path in out.iterdir()) == sorted([*maps, *pictures, f"{name}_features.nii.gz"])
    source = nib.load(image)
    for file in (*maps, f"{name}_features.nii.gz"):
        written = nib.load(out / file)
        assert written.shape == source.shape
        np.testing.assert_allclose(written.affine, source.affine, atol=1e-5)
    mean, *heads = (np.asarray(nib.load(out / file).dataobj) for file in maps)
    np.testing.assert_allclose(mean, np.mean(heads, axis=0), atol=1e-5)
    for picture in pictures:
        assert imread(out / picture).std() > 0.05
    assert run(image, "--backbone", "vit_light_8", "--out", out) == 2


def test_a_pyramid_shows_its_features_and_says_that_it_has_no_attention(
    image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(image, "--backbone", "residual_unet_small", "--out", tmp_path / "out", "--device", "cpu") == 0
    assert "no class token" in " ".join(capsys.readouterr().out.split())
    assert len(list((tmp_path / "out").iterdir())) == 2


def test_mistakes_are_told(image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = (image, "--backbone", "residual_unet_small", "--out", tmp_path / "out")
    assert run(*common, "--position", 1000, 0, 0) == 2 and "outside of the image" in capsys.readouterr().err
    assert run(*common, "--window", 4) == 2 and "window is 4" in capsys.readouterr().err
    assert run(*common, "--adapter", tmp_path) == 2 and "Give one of them" in capsys.readouterr().err
