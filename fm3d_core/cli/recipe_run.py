"""``fm3d finetune --recipe`` and ``--task``: a published training, or one of one's own, on a list of cases."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from fm3d_core.errors import SettingsError
from fm3d_core.progress import ShouldStop

if TYPE_CHECKING:
    from rich.console import Console

    from fm3d_core.adaptation import Adapter, AdapterStore, FinetuneSettings
    from fm3d_core.recipes.own import ListTraining
    from fm3d_core.recipes.running import RecipeRun
    from fm3d_core.volumes import DataList


@dataclass(frozen=True)
class RecipeOption:
    """A published recipe instead of a folder of labelled cases.

    Attributes:
        recipe: name (fm3d recipes list), NAME:VARIANT, or a YAML file. Needs --data LIST. Options such as --steps,
            --weights, --backbone go before the recipe's own where they differ from their defaults. Ctrl-C ends the
            training and keeps the best weights so far.
        root: where a list's relative paths begin; default: its folder.
        set: with --recipe, change a value of it; may be repeated. Example: --set training.epochs=2
        fraction: of a list, the share of the training cases that is used, for example 0.1.
        folds: of a list, so many folds of the training cases, a version each, whose answers on the test cases are
            averaged; default: the recipe's own. 1 uses the list's validation cases.
        fold: of a list, train a single fold only.
    """

    recipe: str | None = None
    root: Path | None = None
    set: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="KEY=VALUE")] = ()
    fraction: float | None = None
    folds: int | None = None
    fold: int | None = None

    def check_unused(self, *used: str) -> None:
        """Refuse options that go with --recipe, or with a list, where there is none; but not those that are ``used``.

        Raises:
            SettingsError: names one.
        """
        for field in fields(self):
            if field.name not in used and getattr(self, field.name) != field.default:
                raise SettingsError(f"--{field.name} goes with --recipe", remedy="Give --recipe NAME too")

    def run(self, data: Path, settings: FinetuneSettings, store: AdapterStore, console: Console) -> None:
        """Train as the recipe says, keep a version for each fold, and say what was measured.

        Raises:
            FM3DError: a mistake in recipe, list, settings or weights.
            Stopped: before anything was learned that can be kept.
        """
        from fm3d_core.recipes import read_recipe
        from fm3d_core.volumes import read_data_list

        assert self.recipe is not None
        recipe = read_recipe(self.recipe, self.set)
        listed = read_data_list(data, root=self.root)
        console.print(f"{recipe.name}: {recipe.about}. {recipe.source}", soft_wrap=True, highlight=False)
        if recipe.note:
            console.print(recipe.note, soft_wrap=True, highlight=False)
        self.train(recipe, listed, recipe.folds or 1, settings, store, console)
        for each in recipe.reported:
            how = f" ({each.how})" if each.how else ""
            said = f"Published: {each.figure} {each.value:g}, {each.cases}{how}"
            console.print(said, soft_wrap=True, highlight=False)

    def train(
        self,
        recipe: ListTraining,
        listed: DataList,
        count: int,
        settings: FinetuneSettings,
        store: AdapterStore,
        console: Console,
    ) -> None:
        """The same for whatever is learned from a list, in ``count`` folds unless --folds says otherwise.

        Raises:
            FM3DError: a mistake in list, settings or weights.
            Stopped: before anything was learned that can be kept.
        """
        from fm3d_core.cli.console import progress_bar
        from fm3d_core.recipes.running import run_recipe

        folds: tuple[int, ...] = ()
        count = self.folds if self.folds is not None else count
        if count > 1 or self.fold is not None:
            listed = listed.in_folds(count if count > 1 else 5, settings.seed)
            folds = listed.folds if self.fold is None else (self.fold,)

        def keep(adapter: Adapter) -> None:
            stored = store.save(adapter)
            _say(console, adapter, stored.version, stored.path)

        with progress_bar(console) as show, _stopped_by_ctrl_c() as should_stop:
            run = run_recipe(
                recipe,
                listed,
                fraction=self.fraction,
                folds=folds,
                seed=settings.seed,
                given=given(settings),
                progress=show,
                should_stop=should_stop,
                on_adapter=keep,
            )
        _tell(console, run)


def given(settings: FinetuneSettings) -> dict[str, Any]:
    """The settings that differ from their defaults."""
    default = type(settings)()
    return {
        field.name: getattr(settings, field.name)
        for field in fields(settings)
        if getattr(settings, field.name) != getattr(default, field.name)
    }


def _say(console: Console, adapter: Adapter, version: int, path: Path) -> None:
    training = adapter.card.training
    figures = ", ".join(
        f"{name.removeprefix('validation_')} {value:.4f}"
        for name, value in training.items()
        if name.startswith("validation_")
    )
    best = f"; best at step {training['best_step']:.0f}: {figures}" if "best_step" in training else ""
    console.print(
        f"Version {version} after {training['steps']:.0f} steps, {training['seconds']:.0f} s{best}. {path}",
        soft_wrap=True,
        highlight=False,
    )
    for note in adapter.card.notes:
        console.print(note, soft_wrap=True, highlight=False)


def _tell(console: Console, run: RecipeRun) -> None:
    for reason in run.left_out:
        console.print(f"Left out: {reason}", soft_wrap=True, highlight=False)
    if run.test:
        of = f", mean of {len(run.adapters)} folds" if len(run.adapters) > 1 else ""
        said = ", ".join(f"{name} {value:.4f}" for name, value in run.test.items())
        console.print(f"Test{of}: {said}", soft_wrap=True, highlight=False)


@contextmanager
def _stopped_by_ctrl_c() -> Iterator[ShouldStop]:
    """The first Ctrl-C asks to stop and keeps what is there; the second ends the program."""
    asked: list[int] = []

    def note(number: int, frame: object) -> None:
        asked.append(number)
        signal.signal(signal.SIGINT, before)

    before = signal.getsignal(signal.SIGINT)
    try:
        signal.signal(signal.SIGINT, note)
    except ValueError:  # not the main thread: nobody presses keys there
        yield lambda: False
        return
    try:
        yield lambda: bool(asked)
    finally:
        signal.signal(signal.SIGINT, before)
