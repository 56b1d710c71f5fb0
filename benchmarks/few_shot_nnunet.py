"""nnU-Net v2 (Isensee et al. 2021, doi:10.1038/s41592-020-01008-z) from PyPI, 3d_fullres, cut to the budget.

It is no dependency of FM3D and has an environment of its own:

    python3 -m venv ../nnunet-venv && ../nnunet-venv/bin/pip install torch nnunetv2==2.8.1

nnunet is as it comes: planned by itself, SGD with its polynomial decay over the budget (its 250,000 steps are meant for
a GPU and a day), float32 as it does without GPU, its own augmentation, all volumes in one fold, mirrored in inference.
nnunet_adamw has AdamW 1e-3 in place of SGD, which suits so few steps better. Planning and preprocessing are reported as
reading and resampling. Nothing is ever loaded from a checkpoint.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
from few_shot_row import Row, Trained
from few_shot_sets import Split

from fm3d_core.volumes import Case, read_label


def train(row: Row, volumes: Split) -> Trained:
    """Learn and segment in nnU-Net's environment.

    Raises:
        SystemExit: it is not installed there, or it failed.
    """
    python = row.nnunet / "bin" / "python"
    if not python.exists():
        raise SystemExit(f"nnU-Net is not installed in {row.nnunet}: see benchmarks/few_shot_nnunet.py")
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        _write_set(work / "raw" / "Dataset001_few", volumes)
        settings = {
            "optimiser": "adamw" if row.method == "nnunet_adamw" else "sgd",
            "seconds": row.budget,
            "seed": row.seed,
            "images": [str(case.image) for case in volumes.test],
            "names": [case.name for case in volumes.test],
        }
        (work / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
        script = Path(__file__).with_name("few_shot_nnunet_run.py")
        ended = subprocess.run(
            [str(python.absolute()), str(script), str(work)],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTHONPATH": "", **_folders(work)},
        )
        if ended.returncode:
            raise SystemExit(f"nnU-Net failed: {(ended.stderr.strip().splitlines() or ['no message'])[-1]}")
        figures = json.loads((work / "figures.json").read_text("utf-8"))
        found = {case.name: read_label(work / "out" / f"{case.name}.nii.gz").array for case in volumes.test}

    def segment(case: Case) -> npt.NDArray[np.uint8]:
        return found[case.name].astype(np.uint8)

    return Trained(
        segment, figures["prepare"], figures["train"], figures["steps"], figures["notes"], figures["inference"]
    )


def _folders(work: Path) -> dict[str, str]:
    names = {"nnUNet_raw": "raw", "nnUNet_preprocessed": "preprocessed", "nnUNet_results": "results"}
    return {name: str(work / folder) for name, folder in names.items()} | {
        "nnUNet_n_proc_DA": "1",
        "nnUNet_def_n_proc": "1",
        "nnUNet_compile": "false",
    }


def _write_set(folder: Path, volumes: Split) -> None:
    """The training volumes as nnU-Net wants them: imagesTr/NAME_0000.nii.gz, labelsTr/NAME.nii.gz, dataset.json."""
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    for case in volumes.training:
        assert case.label is not None
        shutil.copyfile(case.image, folder / "imagesTr" / f"{case.name}_0000.nii.gz")
        shutil.copyfile(case.label, folder / "labelsTr" / f"{case.name}.nii.gz")
    # nnU-Net plans by modality: windowed values of the foreground for CT, z-scores for all else
    channel = "CT" if _is_ct(volumes) else "MR"
    labels = {"background": 0} | {name: value for value, name in enumerate(volumes.labels, start=1)}
    description = {
        "channel_names": {"0": channel},
        "labels": labels,
        "numTraining": len(volumes.training),
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(description), encoding="utf-8")


def _is_ct(volumes: Split) -> bool:
    from fm3d_core.adaptation.cases import is_ct
    from fm3d_core.volumes import read_volume

    return all(is_ct(read_volume(case.image)) for case in volumes.training)
