"""An adapter taken away as a MONAI bundle: monai.bundle run, fm3d predict and the Docker image's script agree."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from command import run

from fm3d_core.adaptation import Adapter, AdapterStore, FinetuneSettings, finetune
from fm3d_core.adaptation.bundle import load_bundle
from fm3d_core.errors import AdapterError
from fm3d_core.tasks import SegmentationTask
from fm3d_core.volumes import SYNTHETIC_LABELS

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def bundle(synthetic_cases: list, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of an adapter of LoRA on a network with the weights that come with FM3D, and the store it was in."""
    folder = tmp_path_factory.mktemp("bundle")
    settings = FinetuneSettings(method="lora", steps=15, device="cpu")
    store = AdapterStore(folder / "store")
    store.save(finetune(synthetic_cases[:2], SegmentationTask(SYNTHETIC_LABELS), settings))
    assert run("adapters", "export", "--store", store.root, "--bundle", folder / "taken") == 0
    return folder / "taken"


@pytest.fixture(scope="module")
def predicted(bundle: Path, synthetic_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """What fm3d predict says with the adapter itself."""
    out = tmp_path_factory.mktemp("predicted")
    assert run("predict", synthetic_folder, "--store", bundle.parent / "store", "--out", out, "--device", "cpu") == 0
    labels = {path.name: np.asarray(nib.load(path).dataobj) for path in out.iterdir()}
    assert len(labels) == 4 and all(label.any() for label in labels.values())
    return labels


def offline(home: Path) -> dict[str, str]:
    """An environment of another computer: none of FM3D's files, no network."""
    return {**os.environ, "FM3D_HOME": str(home), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(REPOSITORY)}


def assert_same(out: Path, predicted: dict[str, np.ndarray]) -> None:
    assert sorted(path.name for path in out.iterdir()) == sorted(predicted)
    for name, label in predicted.items():
        np.testing.assert_array_equal(np.asarray(nib.load(out / name).dataobj), label)


def test_monai_runs_it_and_finds_the_same(
    bundle: Path, predicted: dict[str, np.ndarray], synthetic_folder: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(bundle / "configs" / "inference.json")]
    command += ["--meta_file", str(bundle / "configs" / "metadata.json"), "--bundle_root", str(bundle)]
    command += ["--dataset_dir", str(synthetic_folder / "images"), "--output_dir", str(tmp_path / "out")]
    command += ["--device", "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, env=offline(tmp_path / "home"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert_same(tmp_path / "out", predicted)


def test_the_docker_images_script_finds_the_same_in_a_folder_it_may_only_read(
    bundle: Path, predicted: dict[str, np.ndarray], synthetic_folder: Path, tmp_path: Path
) -> None:
    program = tmp_path / "bin" / "fm3d"  # as pip installs it, of this source
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m fm3d_core.cli.main "$@"\n')
    program.chmod(0o755)
    before = sorted((path, path.stat().st_mtime_ns) for path in (synthetic_folder / "images").rglob("*"))
    environment = {
        **offline(tmp_path / "home"),
        "PATH": f"{program.parent}:{os.environ['PATH']}",
        "BUNDLE": str(bundle),
        "INPUTS": str(synthetic_folder / "images"),
        "OUTPUTS": str(tmp_path / "out"),
    }
    script = ["sh", str(REPOSITORY / "docker" / "predict.sh"), "--device", "cpu"]
    done = subprocess.run(script, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert_same(tmp_path / "out", predicted)
    assert before == sorted((path, path.stat().st_mtime_ns) for path in (synthetic_folder / "images").rglob("*"))


def test_the_dockerfile_copies_what_is_there() -> None:
    text = (REPOSITORY / "docker" / "Dockerfile").read_text()
    lines = [line for line in text.splitlines() if line.startswith("COPY ")]
    sources = [source for line in lines for source in line.split()[1:-1]]
    assert [source for source in sources if "$" not in source and not (REPOSITORY / source).exists()] == []
    ignored = (REPOSITORY / "docker" / "Dockerfile.dockerignore").read_text().split()
    assert not {source.split("/")[0] for source in sources} & set(ignored)


def test_metadata_has_what_monais_schema_asks_for_and_no_case_is_named(bundle: Path) -> None:
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    # required by meta_schema_20240725.json
    for name in ("version", "changelog", "monai_version", "pytorch_version", "numpy_version", "task", "description"):
        assert metadata[name], name
    assert metadata["authors"] and metadata["copyright"] and metadata["required_packages_version"]["fm3d"]
    formats = metadata["network_data_format"]
    for part in (formats["inputs"]["image"], formats["outputs"]["pred"]):
        assert {"type", "format", "num_channels", "spatial_shape", "dtype", "value_range", "channel_def"} <= set(part)
    assert formats["outputs"]["pred"]["channel_def"] == {"1": "ellipsoid", "2": "tube"}
    for file in bundle.rglob("*.*"):
        assert b"synthetic_00" not in file.read_bytes(), file


def test_a_bundle_is_an_adapter_with_its_backbone(bundle: Path) -> None:
    taken, own = load_bundle(bundle), Adapter.load(bundle.parent / "store" / "v0001")
    assert taken.card.backbone == own.card.backbone and taken.card.task == own.card.task
    ours, theirs = taken.build_network().state_dict(), own.build_network().state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_mistakes_are_told(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = ("--store", bundle.parent / "store")
    assert run("adapters", "export", *store) == 2 and "needs a folder" in capsys.readouterr().err
    assert run("adapters", "export", *store, "--bundle", bundle) == 2 and "exists already" in capsys.readouterr().err
    for part in ("configs/adapter.json", "models/model.pt"):
        (tmp_path / part).parent.mkdir()
        (tmp_path / part).write_bytes((bundle / part).read_bytes())
    content = bytearray((tmp_path / "models/model.pt").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "models/model.pt").write_bytes(content)
    with pytest.raises(AdapterError, match="were changed"):
        load_bundle(tmp_path)
