"""``fm3d finetune``: learn structures from a folder of labelled volumes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from fm3d_core.adaptation.settings import FinetuneSettings
from fm3d_core.cli.options import StoreOption, choose_cases
from fm3d_core.errors import CaseError, SettingsError

if TYPE_CHECKING:
    from rich.console import Console

    from fm3d_core.adaptation import Adapter, LabeledCase
    from fm3d_core.tasks import SegmentationTask


@dataclass(frozen=True)
class Finetune:
    """Learn structures from a few labelled volumes; the result is a new adapter version, which becomes active.

    Where the head is linear, a first version is there after seconds: it can be used while training goes on.

    DATA holds images/ and labels/ with equal file names, and labels.json ({"1": "name"}) or dataset.json. Where labels
    are partial, annotation.json says what was annotated.

    Attributes:
        data: folder of the labelled cases.
        shots: how many cases to learn from, in order of name; default: all.
        cases: names of the cases to learn from, instead of a number.
        labels: the structures to learn, by name; default: all of the folder.
        task: YAML file with labels and preprocessing, instead of labels.
        cross_validate: afterwards, hold each volume out in turn to measure what Dice to expect; takes one to
            three times as long again.
        settings: method, backbone, budget.
        store: where the adapter goes.
    """

    data: tyro.conf.Positional[Path]
    shots: int | None = None
    cases: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    task: Path | None = None
    cross_validate: bool = False
    settings: Annotated[FinetuneSettings, tyro.conf.arg(name="")] = field(default_factory=FinetuneSettings)
    store: Annotated[StoreOption, tyro.conf.arg(name="")] = field(default_factory=StoreOption)

    def run(self) -> None:
        """Train and say what came out."""
        from rich.console import Console

        from fm3d_core.adaptation import finetune
        from fm3d_core.cli.console import progress_bar
        from fm3d_core.evaluation.cross_validation import cross_validate

        console = Console()
        cases, task = self._cases_and_task()
        console.print(f"Learning {', '.join(task.labels)} from {len(cases)} volumes ({self.settings.method})")
        with progress_bar(console) as show:
            adapter = finetune(cases, task, self.settings, progress=show, on_stage=partial(self._keep_stage, console))
            if self.cross_validate:
                expected = cross_validate(cases, task, self.settings, progress=show)
                adapter = replace(adapter, card=replace(adapter.card, expected_dice=expected))
        stored = self.store.open().save(adapter)
        for reason in adapter.card.left_out:
            console.print(f"Left out: {reason}", soft_wrap=True)
        backbone = adapter.card.backbone
        console.print(f"Backbone {backbone.preset}, {_weights_in_words(backbone.weights)}", soft_wrap=True)
        for note in adapter.card.notes:
            console.print(note, soft_wrap=True)
        training = adapter.card.training
        console.print(
            f"Version {stored.version} is active: {training['steps']:.0f} steps in {training['seconds']:.0f} s, "
            f"loss {training['loss']:.3f}. {stored.path}",
            soft_wrap=True,
        )
        if self.cross_validate:
            expected = adapter.card.expected_dice
            said = f"{expected}; {expected.how}" if expected else "unknown: no structure could be held out"
            console.print(f"Dice to expect on a further volume: {said}", soft_wrap=True)

    def _keep_stage(self, console: Console, adapter: Adapter) -> None:
        """A linear head is better than nothing, but not than what a whole training has given before."""
        store = self.store.open()
        stored = store.save(adapter, activate=store.active() is None)
        state = "active" if stored.active else "there, but not active"
        seconds = adapter.card.training["seconds"]
        console.print(f"Version {stored.version} is {state}: a linear head, in {seconds:.0f} s. Training goes on")

    def _cases_and_task(self) -> tuple[list[LabeledCase], SegmentationTask]:
        from fm3d_core.adaptation import LabeledCase
        from fm3d_core.tasks import SegmentationTask
        from fm3d_core.volumes import find_cases, read_annotations, read_label_names

        every = find_cases(self.data, labelled=True)
        annotations = read_annotations(self.data, every)
        found = choose_cases(every, self.cases, self.data)
        if self.shots is not None:
            if not 1 <= self.shots <= len(found):
                raise CaseError(
                    f"holds {len(found)} labelled cases, but {self.shots} are asked for",
                    path=self.data,
                    remedy="Add cases or change --shots",
                )
            found = found[: self.shots]
        values = {name: value for value, name in read_label_names(self.data, found).items()}
        structures = tuple(name for name in values if name.lower() != "background")
        if self.task is not None and self.labels:
            raise SettingsError("both --task and --labels are given", remedy="Give one of them")
        task = SegmentationTask.from_yaml(self.task) if self.task else SegmentationTask(self.labels or structures)
        if unknown := [name for name in task.labels if name not in values]:
            raise SettingsError(
                f"unknown label {', '.join(unknown)}", path=self.data, remedy=f"Its labels: {', '.join(values)}"
            )
        cases = [
            LabeledCase(case.name, case.image, case.label, values, annotations[case.name])
            for case in found
            if case.label is not None
        ]
        return cases, task


def _weights_in_words(sha256: str | None) -> str:
    from fm3d_core.models.weights.shipped_weights import shipped_with_hash

    if sha256 is None:
        return "random weights"
    shipped = shipped_with_hash(sha256)
    return f"weights {shipped.id}, which come with FM3D" if shipped else f"weights {sha256[:8]} (fm3d weights list)"
