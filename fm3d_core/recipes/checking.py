"""A dry run of a recipe on a list: what is missing, what does not fit, and one batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fm3d_core.adaptation import ImageCase, LabeledCase
from fm3d_core.errors import FM3DError, Stopped
from fm3d_core.progress import ProgressCallback, ShouldStop, StageClock, ignore_progress, never_stop
from fm3d_core.recipes.cases import dense_case, image_case
from fm3d_core.recipes.recipe import Recipe
from fm3d_core.tasks import (
    ClassificationTask,
    DenseTask,
    JointTask,
    MultilabelTask,
    RegressionTask,
    SurvivalTask,
    WholeVolumeTask,
)
from fm3d_core.volumes import check_label, read_channels, read_label

if TYPE_CHECKING:
    from fm3d_core.volumes import DataList, ListedCase, Volume

NAMED = 5  # cases of one problem that are named
MOST_READ = 20


@dataclass(frozen=True)
class Finding:
    """One thing found: ``wrong`` if the recipe cannot run well on it, and what it is in words."""

    wrong: bool
    text: str


def check_recipe(
    recipe: Recipe,
    listed: DataList,
    *,
    most: int = MOST_READ,
    progress: ProgressCallback = ignore_progress,
    should_stop: ShouldStop = never_stop,
) -> list[Finding]:
    """Compare a list with a recipe; nothing is trained.

    Every case's files and known answers are looked at; images and labels of the first ``most`` cases of each part are
    read; one batch is made of them. With ``most`` 0 no file is opened.

    Raises:
        Stopped: ``should_stop`` said so.
    """
    findings: list[Finding] = []
    parts = {"training": listed.training, "validation": listed.validation, "test": listed.test}
    cases: dict[str, list[LabeledCase | ImageCase]] = {}
    for part, entries in parts.items():
        cases[part], found = _described(recipe, part, entries)
        findings += _counted(recipe, part, entries), *found
    if not listed.training:
        findings.append(Finding(True, "training: there is no case to learn from"))
    findings += _answers(recipe, cases["training"])
    total = sum(len(each[:most]) for each in cases.values())
    clock, done, read = StageClock("reading volumes", total, progress), 0, []
    for part, described in cases.items():
        problems: list[tuple[str, str]] = []
        seen: Counter[str] = Counter()
        for case in described[:most]:
            if should_stop():
                raise Stopped("The check")
            clock.report(done)
            done += 1
            try:
                seen.update(_read(recipe, case))
                if part == "training":
                    read.append(case)
            except FM3DError as error:
                problems.append((case.name, str(error)))
        findings += _grouped(part, problems)
        if part == "training" and described[:most] and not recipe.built_task().whole_volume:
            findings += _structures(recipe, seen, min(len(described), most))
    clock.report(total)
    return [*findings, _batch(recipe, read)] if most else findings


def _described(
    recipe: Recipe, part: str, entries: Sequence[ListedCase]
) -> tuple[list[LabeledCase | ImageCase], list[Finding]]:
    """The cases whose answers are known, and what is wrong with the others; a test needs no answers."""
    whole = isinstance(recipe.built_task(), WholeVolumeTask)
    found: list[LabeledCase | ImageCase] = []
    problems = []
    for entry in entries:
        try:
            found.append(image_case(recipe, entry) if whole else dense_case(recipe, entry))
        except FM3DError as error:
            problems.append((entry.name, f"{error.problem}. {error.remedy}"))
    if part == "test" and problems and not found:
        return [], [Finding(False, f"test: no answers are listed ({problems[0][1]}); nothing will be measured on it")]
    return found, _grouped(part, problems)


def _counted(recipe: Recipe, part: str, entries: Sequence[ListedCase]) -> Finding:
    published = recipe.split.get(part)
    said = f" (published: {published})" if published is not None else ""
    return Finding(False, f"{part}: {len(entries)} cases{said}")


def _grouped(part: str, problems: Sequence[tuple[str, str]]) -> list[Finding]:
    """Equal problems of several cases as one."""
    cases: dict[str, list[str]] = {}
    for name, problem in problems:
        cases.setdefault(problem, []).append(name)
    findings = []
    for problem, names in cases.items():
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        findings.append(Finding(True, f"{part}: {', '.join(names[:NAMED])}{more}: {problem}"))
    return findings


def _answers(recipe: Recipe, cases: Sequence[LabeledCase | ImageCase]) -> list[Finding]:
    """What the training cases are known to be, and what never occurs."""
    task: Any = recipe.built_task()
    targets = [case.target for case in cases]
    if not targets or not targets[0]:
        return []
    if isinstance(task, JointTask):
        task = task.classification
    findings: list[Finding] = []
    if isinstance(task, ClassificationTask):
        counts = Counter(task.labels[int(target[0])] for target in targets)
        findings.append(Finding(False, "classes: " + ", ".join(f"{name} {counts[name]}" for name in task.labels)))
        findings += [Finding(True, f"class {name}: no training case") for name in task.labels if not counts[name]]
    if isinstance(task, MultilabelTask):
        sums = dict(zip(task.labels, np.sum(targets, axis=0), strict=True))
        findings.append(Finding(False, "findings: " + ", ".join(f"{name} {int(n)}" for name, n in sums.items())))
        findings += [Finding(True, f"finding {name}: no training case shows it") for name, n in sums.items() if not n]
    if isinstance(task, RegressionTask):
        values = np.array(targets)[:, 0]
        said = f"{task.name}: {values.min():g} to {values.max():g}, mean {values.mean():.2f}, sd {values.std():.2f}"
        findings.append(Finding(not values.std() > 0, said))
    if isinstance(task, SurvivalTask):
        events = int(np.sum(targets, axis=0)[1])
        findings.append(Finding(events < task.bins, f"events seen: {events} of {len(targets)}, for {task.bins} bins"))
    return findings


def _read(recipe: Recipe, case: LabeledCase | ImageCase) -> set[str]:
    """The structures drawn in a case that can be read.

    Raises:
        FM3DError: it cannot, or has values that nobody names.
    """
    task = recipe.built_task()
    files = case.images if isinstance(case, ImageCase) else (case.image, *case.more_channels)
    image: Volume = read_channels(files, task.channels)
    if isinstance(case, ImageCase):
        return set()
    values = recipe.dense_task().drawn if case.values is None else case.values
    label = read_label(case.label, names={value: name for name, value in values.items()})
    check_label(label, image)
    present = set(np.unique(label.array).tolist())
    return {name for name, value in values.items() if value in present}


def _structures(recipe: Recipe, seen: Counter[str], count: int) -> list[Finding]:
    """In how many of the cases that were read each structure is."""
    task = recipe.dense_task()
    values = recipe.label_values or task.drawn
    findings = [Finding(False, "drawn in: " + ", ".join(f"{name} {seen[name]}" for name in task.drawn))]
    return findings + [
        Finding(True, f"{name} (value {values[name]}) is in none of {count} training cases")
        for name in task.drawn
        if not seen[name]
    ]


def _batch(recipe: Recipe, cases: Sequence[LabeledCase | ImageCase]) -> Finding:
    """One batch of the recipe's size, as training draws it."""
    import torch

    if len(cases) < 1:
        return Finding(True, "no batch could be made: no training case can be read")
    try:
        batch = _drawn(recipe, cases[: recipe.training.batch_size], torch.Generator().manual_seed(0))
    except FM3DError as error:
        return Finding(True, f"no batch could be made: {error}")
    image = batch.inputs[0]
    shape = " x ".join(map(str, image.shape))
    return Finding(False, f"a batch: images {shape}, from {image.min():.2f} to {image.max():.2f}")


def _drawn(recipe: Recipe, cases: Sequence[Any], generator: Any) -> Any:
    import torch

    from fm3d_core.adaptation.batches import CropSource
    from fm3d_core.adaptation.cases import load_cases, prepare_cases
    from fm3d_core.adaptation.image_batches import ImageSource
    from fm3d_core.adaptation.image_cases import prepare_images
    from fm3d_core.adaptation.published_augmentation import published

    plan, task, size = recipe.plan(), recipe.built_task(), recipe.training.batch_size
    nothing: Any = None  # a batch is drawn without a network
    if isinstance(task, WholeVolumeTask):
        change = published(plan.augmentation, recipe.crop, labelled=False, seed=0)
        prepared = prepare_images(cases, task)
        return ImageSource(nothing, prepared, recipe.crop, size, generator, torch.device("cpu"), change).draw()
    dense: DenseTask = recipe.dense_task()
    loaded, _ = load_cases(cases, dense, complete=False)
    assert dense.preprocessing is not None
    change = published(plan.augmentation, recipe.crop, labelled=True, seed=0)
    sampling = plan.sampling
    ready = prepare_cases(loaded, dense.preprocessing)
    device = torch.device("cpu")
    return CropSource(nothing, ready, recipe.crop, size, generator, device, None, sampling, change).draw()
