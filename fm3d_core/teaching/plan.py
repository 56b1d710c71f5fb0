"""Which stages a training has: read from ``presets.yaml``, chosen by volumes, backbone and computer, said in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from fm3d_core.adaptation.methods import PartChoice, Scratch, check_method
from fm3d_core.adaptation.settings import FinetuneSettings


@dataclass(frozen=True)
class Stage:
    """One stage; it gives a version of its own.

    Attributes:
        name: in the version's card: "linear_probe", "spatial_adapter", "decoder", "final".
        method: finetuning method.
        head, decoder, bottleneck: as in FinetuneSettings.
        seconds: of training; 0 where a head is solved for and nothing trains.
        check: share of ``seconds`` for each training that measures afterwards what Dice to expect; 0: not measured so.
        steps: instead of seconds.
    """

    name: str
    method: str
    head: str = "auto"
    decoder: PartChoice = "auto"
    bottleneck: PartChoice = "auto"
    seconds: float = 0.0
    check: float = 0.0
    steps: int | None = None

    @property
    def solved(self) -> bool:
        """Whether it is a head that is solved for, without any step of training."""
        return self.method == "linear_probe" and not self.seconds and self.steps is None

    def settings(self, whole: FinetuneSettings, preset: str | None) -> FinetuneSettings:
        """The settings of this stage, where ``whole`` are those of all; a preset's training ends at a plateau."""
        return replace(
            whole,
            method=self.method,
            head=self.head,
            decoder=self.decoder,
            bottleneck=self.bottleneck,
            rank=whole.rank if self.method == whole.method else None,
            alpha=whole.alpha if self.method == whole.method else None,
            seconds=self.seconds or whole.seconds,
            steps=self.steps,
            preset=preset,
            until_plateau=whole.until_plateau or preset is not None,
        )


@dataclass(frozen=True)
class Situation:
    """What the choice of stages depends on.

    Attributes:
        shots: labelled volumes.
        structures: number of them.
        kind: of the backbone, "pyramid" or "tokens".
        parameters: of the backbone.
        gpu: whether training runs on one.
    """

    shots: int
    structures: int
    kind: str
    parameters: int
    gpu: bool

    @property
    def sort(self) -> str:
        """The sort of backbone, as ``presets.yaml`` has it."""
        if self.kind == "tokens":
            return "tokens"
        return "small_pyramid" if self.parameters <= _data()["small_parameters"] else "large_pyramid"


@dataclass(frozen=True)
class Plan:
    """The stages in order, the preset they are of (None: the user's own method), and the choices in words."""

    stages: tuple[Stage, ...]
    preset: str | None
    notes: tuple[str, ...]


def make_plan(settings: FinetuneSettings, situation: Situation) -> Plan:
    """Choose the stages.

    Without a preset: a linear probe where the head is linear, then the method of ``settings`` with its time.
    """
    if settings.preset is None:
        final = Stage(
            "final",
            settings.method,
            settings.head,
            settings.decoder,
            settings.bottleneck,
            settings.seconds,
            steps=settings.steps,
        )
        linear = settings.head == "linear" or (settings.head == "auto" and situation.kind == "pyramid")
        first = linear and settings.closed_form and not check_method(settings.method).frozen_backbone
        first = first and settings.method != Scratch.name  # its backbone knows nothing
        return Plan((Stage("linear_probe", "linear_probe"), final) if first else (final,), None, ())
    name, notes = settings.preset, []
    if name == "auto":
        name, because = _choose(situation)
        notes.append(f"Preset {name} was chosen: {because}")
    preset = _data()["presets"][name]
    stages = tuple(Stage(**stage) for stage in preset["stages"][situation.sort])
    in_words = ", then ".join(_in_words(stage) for stage in stages)
    notes.append(f"Preset {name} ({preset['about']}): {in_words}")
    return Plan(stages, name, tuple(notes))


def _in_words(stage: Stage) -> str:
    head = "" if stage.head == "auto" else f" with a {stage.head} head"
    decoder = "" if stage.decoder == "auto" else f", its decoder {stage.decoder}"
    return f"{stage.method}{head}{decoder}" + (f" for {stage.seconds:g} s" if stage.seconds else ", solved for")


def _choose(situation: Situation) -> tuple[str, str]:
    """The preset that "auto" stands for, and why."""
    rule = next(rule for rule in _data()["auto"] if _holds(rule["if"], situation))
    return rule["preset"], rule["because"]


def _holds(conditions: Mapping[str, Any], situation: Situation) -> bool:
    answers = {
        "gpu": lambda wanted: situation.gpu == wanted,
        "structures_from": lambda least: situation.structures >= least,
        "shots_from": lambda least: situation.shots >= least,
        "sort": lambda sorts: situation.sort in sorts,
    }
    return all(answers[name](value) for name, value in conditions.items())


@cache
def _data() -> dict[str, Any]:
    import yaml

    return dict(yaml.safe_load((Path(__file__).parent / "presets.yaml").read_text(encoding="utf-8")))
