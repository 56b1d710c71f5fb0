"""In the training process: a published recipe on the cases that the server chose."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fm3d_core.progress import ProgressCallback, ShouldStop
from MonaiLabelApp.lib.progress_file import ProgressFile
from MonaiLabelApp.lib.recipes.settings import as_settings
from MonaiLabelApp.lib.training.record import Work

if TYPE_CHECKING:
    from fm3d_core.adaptation import Adapter, AdapterStore
    from fm3d_core.teaching import Taught, TaughtVersion
    from fm3d_core.teaching.verdict import Verdict
    from fm3d_core.volumes import DataList

logger = logging.getLogger(__name__)


def learn_recipe(work: Work, progress: ProgressFile, should_stop: ShouldStop) -> Taught:
    """Train as the recipe says, a single network on all training cases, and keep the version.

    Raises:
        FM3DError: a mistake in cases, settings or weights.
        Stopped: it was ended before anything was learned that can be kept.
    """
    from fm3d_core.adaptation import AdapterStore
    from fm3d_core.recipes import read_recipe
    from fm3d_core.recipes.running import run_recipe
    from fm3d_core.teaching import Taught

    began, store, versions = time.monotonic(), AdapterStore(work.store), list[Any]()
    recipe, given = read_recipe(work.recipe), as_settings(work.settings)
    listed, left_out = listed_cases(work, recipe.label_field)
    progress.left_out((*work.left_out, *left_out))
    published = recipe.training.epochs * (recipe.training.iterations or len(listed.training))
    steps = given.get("steps", published)
    short = steps is None or steps < published
    if steps is not None:
        recipe = recipe.cut_to(steps, len(listed.training))

    def keep(adapter: Adapter) -> None:
        versions.append(_kept(adapter, store, short, time.monotonic() - began))
        progress.version_there(versions[-1])

    watch: ProgressCallback = progress
    run = run_recipe(
        recipe,
        listed,
        seed=int(given.get("seed", 0)),
        given={key: value for key, value in given.items() if key != "seed"},
        progress=watch,
        should_stop=should_stop,
        on_adapter=keep,
        keep_when_stopped=True,
    )
    progress.left_out((*work.left_out, *left_out, *run.left_out, *versions[-1].stored.card.left_out))
    for name, value in run.test.items():
        logger.info("Test %s: %.4f", name, value)
    return Taught(tuple(versions), should_stop())


def listed_cases(work: Work, label_field: str) -> tuple[DataList, list[str]]:
    """The cases as a list, and those that cannot be used, in words.

    Raises:
        CaseError: no label can be understood.
    """
    from fm3d_core.volumes import DataList, ListedCase
    from MonaiLabelApp.lib.training.process import cases_of

    parts: dict[str, list[ListedCase]] = {"training": [], "validation": [], "test": []}
    labelled, left_out = cases_of(work.cases) if any(each.get("label") for each in work.cases) else ([], [])
    labels = {case.name: {label_field: str(case.label), "label_values": case.values} for case in labelled}
    for entry in work.cases:
        name, fields = str(entry["name"]), dict[str, Any](entry["fields"])
        if entry.get("label"):
            if name not in labels:
                continue
            fields |= labels[name]
        images = tuple(Path(each) for each in entry["images"])
        parts[str(entry["part"])].append(ListedCase(name, images, fields, None, images[0].parent))
    return DataList(Path("cases"), *(tuple(parts[part]) for part in ("training", "validation", "test"))), left_out


def _kept(adapter: Adapter, store: AdapterStore, short: bool, seconds: float) -> TaughtVersion:
    """The version in the store; whether it segments from now on, and why."""
    from fm3d_core.teaching import TaughtVersion

    active = next((stored for stored in store.versions() if stored.active), None)
    judged = _verdict(adapter, None if active is None else active.card, short)
    return TaughtVersion(store.save(adapter, activate=judged.activate), seconds, judged.why)


def _verdict(adapter: Adapter, active: Any, short: bool) -> Verdict:
    from fm3d_core.teaching.verdict import Verdict, verdict

    if adapter.card.task.whole_volume:
        return Verdict(False, "it answers about whole volumes, whichever version segments")
    if active is None or active.task.whole_volume:
        return Verdict(True, "the first version that segments")
    if short:
        return Verdict(False, "it was trained for less than the published length; activate it if it is better")
    return verdict(adapter.card, active)
