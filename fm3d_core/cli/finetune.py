"""``fm3d finetune``: learn structures from a folder of labelled volumes, or any task from a list of cases."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from fm3d_core.adaptation.settings import FinetuneSettings
from fm3d_core.cli.list_question import asks_a_list, read_question
from fm3d_core.cli.options import StoreOption, choose_cases
from fm3d_core.cli.recipe_run import RecipeOption
from fm3d_core.cli.shots import DrawsOption, draw, run_draws, tell
from fm3d_core.errors import CaseError, SettingsError

if TYPE_CHECKING:
    from rich.console import Console

    from fm3d_core.adaptation import LabeledCase
    from fm3d_core.tasks import SegmentationTask
    from fm3d_core.teaching import TaughtVersion


@dataclass(frozen=True)
class Finetune:
    """Learn structures from a few labelled volumes, in stages; each gives an adapter version that can be used.

    The first is there after seconds, a linear head, while training goes on. A version becomes active if it is better
    than the active one by what was measured. --preset fast, balanced, thorough or auto chooses stages and time; without
    it the method has its --seconds.

    DATA holds images/ and labels/ with equal file names, and labels.json ({"1": "name"}) or dataset.json. Where labels
    are partial, annotation.json says what was annotated.

    Questions about whole volumes are learned from a list, JSON {"training": [{"image": ..., "diagnosis": ...}]} or CSV
    with columns image, split and what is asked; overlapping regions and joint tasks too, by the file of a task:

      fm3d finetune cases.csv --task classification --target diagnosis --method linear_probe --seconds 60
      fm3d finetune cases.csv --task regression --target age
      fm3d finetune cases.csv --task survival --target days event
      fm3d finetune cases.csv --task multilabel --target effusion nodule
      fm3d finetune cases.json --task regions.yaml      # kind: regions, regions: {WT: [1, 2, 4], ...}, channels: 4

    The best weights by validation cases are kept, if the list has some; test cases are measured. A published recipe
    says all of this itself (fm3d recipes list): fm3d finetune --recipe LA_SEG --data list.json

    Attributes:
        folder: folder of the labelled cases, or with --task a list of cases.
        data: the same; with --recipe or --task a list of cases in JSON or CSV.
        shots: how many cases to learn from, in order of name; default: all.
        cases: names of the cases to learn from, instead of a number.
        labels: the structures to learn, by name; default: all of the folder.
        task: YAML file with kind, labels and preprocessing, instead of labels; or of a list classification, multilabel,
            regression or survival, with --target.
        target: with a list, columns: of the class or value; of every finding; of time and event.
        cross_validate: afterwards, hold each volume out in turn to measure what Dice to expect; takes one to
            three times as long again. A preset does so anyway, in its own time.
        recipe: a published recipe.
        draws: random draws of the cases, measured.
        settings: method, backbone, budget.
        store: where the adapter goes.
    """

    folder: Annotated[tyro.conf.Positional[Path | None], tyro.conf.arg(metavar="DATA")] = None
    data: Path | None = None
    shots: int | None = None
    cases: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    task: str | None = None
    target: tuple[str, ...] = ()
    cross_validate: bool = False
    recipe: Annotated[RecipeOption, tyro.conf.arg(name="")] = field(default_factory=RecipeOption)
    draws: Annotated[DrawsOption, tyro.conf.arg(name="")] = field(default_factory=DrawsOption)
    settings: Annotated[FinetuneSettings, tyro.conf.arg(name="")] = field(default_factory=FinetuneSettings)
    store: Annotated[StoreOption, tyro.conf.arg(name="")] = field(default_factory=StoreOption)

    def run(self) -> None:
        """Train and say what came out."""
        from rich.console import Console

        from fm3d_core.cli.console import progress_bar
        from fm3d_core.teaching import teach

        console = Console()
        if self.recipe.recipe is not None:
            self._check_recipe()
            return self.recipe.run(self._place(), self.settings, self.store.open(), console)
        if asks_a_list(self._place(), self.task, self.target):
            return self._learn_list(console)
        self.recipe.check_unused()
        self.draws.check(self.shots, self.cases)
        if self.draws.wanted and self.shots is not None:
            return self._run_draws(self.shots, console)
        cases, task = self._cases_and_task()
        how = f"preset {self.settings.preset}" if self.settings.preset else self.settings.method
        console.print(f"Learning {', '.join(task.labels)} from {len(cases)} volumes ({how})")
        told: set[int] = set()
        with progress_bar(console) as show:
            taught = teach(
                cases,
                task,
                self.settings,
                self.store.open(),
                progress=show,
                on_version=partial(_say, console, told),
                measure=self.cross_validate,
            )
        card = taught.versions[-1].stored.card
        for reason in card.left_out:
            console.print(f"Left out: {reason}", soft_wrap=True)
        console.print(f"Backbone {card.backbone.preset}, {_weights_in_words(card.backbone.weights)}", soft_wrap=True)
        for note in card.notes:
            console.print(note, soft_wrap=True)
        if self.cross_validate:
            expected = taught.versions[-1].expected_dice
            said = f"{expected}; {expected.how}" if expected else "unknown: no structure could be held out"
            console.print(f"Dice to expect on a further volume: {said}", soft_wrap=True)

    def _place(self) -> Path:
        """The folder or list that was given.

        Raises:
            SettingsError: none, or two.
        """
        if (self.folder is None) == (self.data is None):
            problem = "no data are given" if self.data is None else "both DATA and --data are given"
            raise SettingsError(problem, remedy="Say fm3d finetune FOLDER, or fm3d finetune --recipe NAME --data LIST")
        return self.folder or self.data or Path()

    def _learn_list(self, console: Console) -> None:
        """Learn a task from a list as a recipe is learned."""
        from fm3d_core.recipes.own import OwnTraining
        from fm3d_core.volumes import read_data_list

        self._refuse_for_list("a list", "The list says the cases, the task what is learned", self._of_folders())
        self.recipe.check_unused("root", "fraction", "folds", "fold")
        listed = read_data_list(self._place(), root=self.recipe.root)
        task = read_question(self.task, self.target, listed)
        console.print(f"Learning {', '.join(task.labels)} ({task.kind}) from {len(listed.training)} volumes")
        self.recipe.train(OwnTraining(task), listed, 1, self.settings, self.store.open(), console)

    def _of_folders(self) -> dict[str, object]:
        """Options of a folder of labelled cases."""
        own: dict[str, object] = {"shots": self.shots, "cases": self.cases, "labels": self.labels}
        return {
            **own,
            "cross-validate": self.cross_validate,
            "preset": self.settings.preset,
            "draws": self.draws.wanted,
        }

    def _check_recipe(self) -> None:
        """Refuse options that say what a recipe and its list say."""
        own = {**self._of_folders(), "task": self.task, "target": self.target}
        self._refuse_for_list("--recipe", "The list says the cases, --set changes the recipe", own)

    def _refuse_for_list(self, what: str, remedy: str, own: dict[str, object]) -> None:
        if wrong := [name for name, value in own.items() if value]:
            raise SettingsError(f"--{wrong[0]} does not go with {what}", remedy=remedy)

    def _run_draws(self, shots: int, console: Console) -> None:
        from fm3d_core.adaptation.fseft_protocol import fseft_settings

        drawn = draw(self._place(), self.draws, shots, self.labels)
        task = drawn.task(self.labels, self._task_file())
        settings = fseft_settings(self.settings, shots) if self.draws.fseft else self.settings
        rows = run_draws(drawn, task, settings, self.store.open(), console)
        console.print(tell(drawn, rows, task.labels, self.draws.results))

    def _cases_and_task(self) -> tuple[list[LabeledCase], SegmentationTask]:
        from fm3d_core.adaptation import LabeledCase
        from fm3d_core.tasks import SegmentationTask
        from fm3d_core.volumes import find_cases, read_annotations, read_label_names

        data = self._place()
        every = find_cases(data, labelled=True)
        annotations = read_annotations(data, every)
        found = choose_cases(every, self.cases, data)
        if self.shots is not None:
            if not 1 <= self.shots <= len(found):
                raise CaseError(
                    f"holds {len(found)} labelled cases, but {self.shots} are asked for",
                    path=data,
                    remedy="Add cases or change --shots",
                )
            found = found[: self.shots]
        values = {name: value for value, name in read_label_names(data, found).items()}
        structures = tuple(name for name in values if name.lower() != "background")
        task = self._task_file() or SegmentationTask(self.labels or structures)
        if unknown := [name for name in task.labels if name not in values]:
            raise SettingsError(
                f"unknown label {', '.join(unknown)}", path=data, remedy=f"Its labels: {', '.join(values)}"
            )
        cases = [
            LabeledCase(case.name, case.image, case.label, values, annotations[case.name])
            for case in found
            if case.label is not None
        ]
        return cases, task

    def _task_file(self) -> SegmentationTask | None:
        """The task that a file describes, if one is given."""
        from fm3d_core.tasks import SegmentationTask

        if self.task is not None and self.labels:
            raise SettingsError("both --task and --labels are given", remedy="Give one of them")
        return SegmentationTask.from_yaml(self.task) if self.task else None


def _say(console: Console, told: set[int], version: TaughtVersion) -> None:
    """One line for a version that landed, one for what was measured of it later."""
    training, expected = version.stored.card.training, version.expected_dice
    if version.version in told:
        console.print(f"Version {version.version}: Dice to expect {expected}; {version.why}", soft_wrap=True)
        return
    told.add(version.version)
    state = "active" if version.active else "there, but not active"
    figures = f"{training['steps']:.0f} steps" if training["steps"] else "a linear head"
    loss = f", loss {training['loss']:.3f}" if "loss" in training else ""
    dice = f", Dice to expect {expected}" if expected else ""
    console.print(
        f"Version {version.version} is {state} after {version.seconds:.0f} s: {version.stage}, {figures}{loss}{dice} "
        f"({version.why}). {version.stored.path}",
        soft_wrap=True,
    )


def _weights_in_words(sha256: str | None) -> str:
    from fm3d_core.models.weights.shipped_weights import shipped_with_hash

    if sha256 is None:
        return "random weights"
    shipped = shipped_with_hash(sha256)
    return f"weights {shipped.id}, which come with FM3D" if shipped else f"weights {sha256[:8]} (fm3d weights list)"
