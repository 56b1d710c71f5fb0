"""Small made volumes with a recipe's own channels, label values, classes and columns, and their list."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from fm3d_core.recipes import Recipe
from fm3d_core.tasks import (
    ClassificationTask,
    JointTask,
    MultilabelTask,
    RegressionTask,
    SurvivalTask,
    WholeVolumeTask,
)

SHAPE = (16, 16, 20)  # voxels at the recipe's spacing: two windows of a crop
# two small steps of a small network on one thread; all else is the recipe's own
QUICK = (
    "crop=[16, 16, 16]",
    "network.weights=random",
    "training.epochs=1",
    "training.iterations=2",
    "training.batch_size=2",
    "training.crops_per_volume=1",
)


def quick_overrides(recipe: Recipe) -> tuple[str, ...]:
    """What is cut of a recipe so that a test takes a second or two."""
    small = "swin_unetr_tiny_legacy" if recipe.network.backbone.startswith("swin") else "vit_tiny"
    shots = ("training.shots=2",) if recipe.training.shots else ()
    edge = ("crop=[64, 64, 64]",) if small.startswith("swin") else ()
    if recipe.network.head == "vit_adapter":  # its spatial prior halves the volume five times
        edge = ("crop=[32, 32, 32]",)
    return (*QUICK, f"network.backbone={small}", *shots, *edge)


def write_cases(folder: Path, recipe: Recipe, parts: dict[str, int], seed: int = 0) -> Path:
    """Write volumes, labels and ``list.json``; every class, structure and finding occurs in each part."""
    task: Any = recipe.built_task()
    random = np.random.default_rng(seed)
    spacing = recipe.input.spacing or (1.5, 1.5, 1.5)
    content: dict[str, list[dict[str, Any]]] = {}
    for part, count in parts.items():
        content[part] = []
        for index in range(count):
            name = f"{part}_{index}"
            label = _label(recipe, random)
            files = []
            for channel in range(task.channels):
                files.append(f"{name}_{channel}.nii.gz" if task.channels > 1 else f"{name}.nii.gz")
                image = 100 * (label > 0) * (1 + channel) + random.normal(0, 10, label.shape) + 200
                image[:2] = 0
                _write(folder / files[-1], image.astype(np.float32), spacing)
            fields: dict[str, Any] = {"image": files if len(files) > 1 else files[0]}
            if not isinstance(task, WholeVolumeTask):
                fields["label"] = f"{name}_label.nii.gz"
                _write(folder / fields["label"], label, spacing)
            content[part].append({**fields, **_answer(task, index, random)})
    path = folder / "list.json"
    path.write_text(json.dumps(content))
    return path


def _label(recipe: Recipe, random: np.random.Generator) -> np.ndarray:
    """Boxes of all label values side by side, moved a little."""
    task: Any = recipe.built_task()
    values = [1] if isinstance(task, WholeVolumeTask) else list((recipe.label_values or task.drawn).values())
    label = np.zeros(SHAPE, np.uint8)
    places = [(x, y) for x in (1, 5, 9, 13) for y in (1, 5, 9, 13)]
    for (x, y), value in zip(places, values, strict=False):
        z = 2 + int(random.integers(0, 3))
        label[x : x + 3, y : y + 3, z : z + 13] = value
    return label


def _answer(task: Any, index: int, random: np.random.Generator) -> dict[str, Any]:
    if isinstance(task, JointTask):
        return {task.column: task.image_labels[index % len(task.image_labels)]}
    if isinstance(task, ClassificationTask):
        return {task.column: task.labels[index % len(task.labels)]}
    if isinstance(task, MultilabelTask):
        return {task.column: [int((index + place) % 2) for place in range(task.classes)]}
    if isinstance(task, RegressionTask):
        return {task.name: 40.0 + 7 * index}
    if isinstance(task, SurvivalTask):
        return {task.time_column: 100 + 40 * index}
    return {}


def _write(path: Path, array: np.ndarray, spacing: tuple[float, ...]) -> None:
    nibabel.save(nibabel.Nifti1Image(array, np.diag([*spacing, 1.0])), path)
