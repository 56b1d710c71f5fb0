"""fm3d predict says how far its results can be relied on, writes it beside them, and refines on demand."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from command import run

from fm3d_core.adaptation import AdapterStore, FinetuneSettings, LabeledCase, finetune
from fm3d_core.tasks import SegmentationTask
from fm3d_core.volumes import SYNTHETIC_LABELS


@pytest.fixture(scope="module")
def store(synthetic_cases: list[LabeledCase], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    # unsure enough that refining moves it
    settings = FinetuneSettings(steps=20, optimiser="adamw", device="cpu")
    adapter = finetune(synthetic_cases[:2], SegmentationTask(SYNTHETIC_LABELS), settings)
    AdapterStore(folder).save(adapter)
    sizes = {name: tuple(2.5 * size for size in sizes) for name, sizes in adapter.card.sizes.items()}
    AdapterStore(folder).save(replace(adapter, card=replace(adapter.card, sizes=sizes)), activate=False)
    return folder


def test_quality_and_uncertainty_are_written_beside_the_results(
    store: Path, synthetic_cases: list[LabeledCase], synthetic_folder: Path, tmp_path: Path
) -> None:
    good = synthetic_cases[2].image
    original = nib.load(good)
    noise = np.random.default_rng(0).normal(100, 30, original.shape).astype(np.float32)
    nib.save(nib.Nifti1Image(noise, original.affine), tmp_path / "noise.nii.gz")
    out = tmp_path / "out"
    images = (good, tmp_path / "noise.nii.gz")
    assert run("predict", *images, "--store", store, "-o", out, "--quality", "--uncertainty", "--labelled",
               synthetic_folder, "--device", "cpu") == 0  # fmt: skip
    data = {path.name: json.loads(path.read_text()) for path in out.glob("*_quality.json")}
    name = good.name.removesuffix(".nii.gz")
    assert data["noise_quality.json"]["value"] < data[f"{name}_quality.json"]["value"]
    assert set(data[f"{name}_quality.json"]["signals"]["tube"]) >= {"reverse", "stability", "agreement"}
    with (out / "quality.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["case"] for row in rows] == ["noise", name] and rows[0]["reasons"]
    written = nib.load(out / f"{name}_uncertainty.nii.gz")
    assert written.shape == original.shape
    np.testing.assert_allclose(written.affine, original.affine, atol=1e-5)


def test_refining_says_what_it_changed_and_changes_the_result(
    store: Path, synthetic_cases: list[LabeledCase], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = synthetic_cases[2].image
    common = ("predict", image, "--store", store, "--version", 2, "--device", "cpu", "-o")
    assert run(*common, tmp_path / "plain") == 0 and run(*common, tmp_path / "refined", "--refine") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "voxels changed: ellipsoid" in said and "labelled volumes:" in said
    plain, refined = (np.asarray(nib.load(tmp_path / kind / image.name).dataobj) for kind in ("plain", "refined"))
    assert (plain != refined).any() and (refined > 0).sum() > (plain > 0).sum()
    assert run("predict", image, "--store", store, "-o", tmp_path / "ordinary", "--refine") == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [(("--labelled", "."), "--labelled is for --quality"), (("--variants", 2), "--variants is for"),
     (("--quality", "--variants", 7), "variants is 7")],
)  # fmt: skip
def test_options_that_do_not_go_together_are_refused(
    options: tuple[object, ...], said: str, store: Path, synthetic_cases: list[LabeledCase], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert run("predict", synthetic_cases[2].image, "--store", store, "-o", tmp_path / "out", *options) == 2
    assert said in " ".join(capsys.readouterr().err.split())
