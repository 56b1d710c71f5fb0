"""The house: floors import downwards only, heavy libraries are imported where they are used, data sets are data."""

from __future__ import annotations

import ast
import resource
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "fm3d_core"
FLOORS = {
    "volumes": 1,
    "models": 1,
    "tasks": 2,
    "pretraining": 3,
    "adaptation": 3,
    "inference": 3,
    "evaluation": 4,
    "recipes": 4,
    "teaching": 5,
    "cli": 6,
}
MODULES = sorted(PACKAGE.rglob("*.py"))


def _imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


def _floor(module: str) -> int:
    parts = module.split(".")
    return FLOORS.get(parts[1], 0) if len(parts) > 1 else 0


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_floor_imports_only_floors_below_and_its_own(path: Path) -> None:
    own = path.relative_to(PACKAGE).parts[0]
    for name in _imports(path):
        if not name.startswith("fm3d_core."):
            assert name.split(".")[0] not in ("slicer", "qt", "ctk", "MonaiLabelApp"), f"the core must not know {name}"
            continue
        other = name.split(".")[1]
        if other in FLOORS and other != own and own in FLOORS:
            known_type = own == "inference" and other == "adaptation"  # an adapter and what it learned from
            assert FLOORS[other] < FLOORS[own] or known_type, f"{own} imports {name}"


def test_importing_the_library_loads_nothing_heavy() -> None:
    modules = [
        ".".join(("fm3d_core", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
        for path in MODULES
    ]
    light = [name for name in modules if _floor(name) != 1 or ".models" not in name]
    light = [name for name in light if not _is_network_code(name)]
    code = "import sys\n" + "\n".join(f"import {name}" for name in light)
    heavy = {"torch", "monai", "peft", "SimpleITK", "nibabel", "matplotlib", "blosc2"}
    code += f"\nprint(*sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def _is_network_code(module: str) -> bool:
    """Modules that are torch through and through; their callers import them inside functions."""
    torch_packages = (".pretraining.losses", ".pretraining.monitors.", ".pretraining.synthetic_anatomy.")
    if any(package in module for package in torch_packages):
        return True
    return module.endswith(
        (
            "adaptation.augmentation",
            "adaptation.batches",
            "adaptation.closed_form",
            "adaptation.image_batches",
            "adaptation.optimisers",
            "adaptation.trainer",
            "pretraining.augmentations",
            "pretraining.distributed",
            "pretraining.engine",
            "pretraining.exchange",
            "pretraining.exporting",
            "pretraining.endless_loading",
            "pretraining.loading",
            "pretraining.objective",
            "pretraining.partial_labels.crops",
            "pretraining.partial_labels.loading",
            "pretraining.partial_labels.loss",
            "pretraining.partial_labels.objective",
            "pretraining.pretext.contrast",
            "pretraining.pretext.heads",
            "pretraining.pretext.loading",
            "pretraining.pretext.objective",
            "pretraining.pretext.views",
            "pretraining.probing",
            "pretraining.self_distillation",
            "pretraining.self_distillation_objective",
            "pretraining.store_dataset",
            "pretraining.training_state",
            "tasks.dice_cross_entropy",
            "tasks.joint_loss",
            "tasks.regions_loss",
            "tasks.segmentation_loss",
        )
    )


def test_the_help_appears_within_a_second() -> None:
    """Processor seconds, because other tests share the machine; on a quiet one they are the seconds a user waits."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", "from fm3d_core.cli.main import main; main(['--help'])"], capture_output=True, text=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0 and "demo" in done.stdout
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.0
