"""The one training loop of every finetuning task and method."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch

from fm3d_core.adaptation.batches import BatchSource
from fm3d_core.adaptation.memory import Parts, is_shortage
from fm3d_core.adaptation.methods.base import OptimiserName
from fm3d_core.adaptation.optimisers import Steps
from fm3d_core.adaptation.plan import Schedule
from fm3d_core.adaptation.plateau import Plateau
from fm3d_core.adaptation.selection import Selection
from fm3d_core.clocks import ClockName, Stopwatch
from fm3d_core.devices import autocast
from fm3d_core.errors import CaseError, Stopped
from fm3d_core.progress import ProgressCallback, ShouldStop, StageClock

logger = logging.getLogger(__name__)
LossFunction = Callable[..., torch.Tensor]
REPORT_SECONDS = 0.5
WORTH_KEEPING = 0.1  # share of the budget from which a training that is stopped has something to keep


@dataclass(frozen=True)
class Budget:
    """How long to train: a number of steps if given, else seconds of ``clock``.

    ``until_plateau``: at most so long, less if the loss no longer falls.
    """

    seconds: float
    steps: int | None = None
    clock: ClockName = "wall"
    until_plateau: bool = False

    def fraction(self, step: int, elapsed: float) -> float:
        """Share of the budget that is spent, 0 to 1."""
        spent = step / self.steps if self.steps is not None else elapsed / self.seconds
        return min(spent, 1.0)


@dataclass(frozen=True)
class TrainingRecord:
    """What a run came to: optimiser steps, seconds of the budget's clock, the loss averaged over the last steps.

    ``plateau``: whether the budget was cut because the loss no longer fell.
    ``stopped``: whether ``should_stop`` cut it.
    ``notes``: what was changed because memory ran out.
    """

    steps: int
    seconds: float
    loss: float
    plateau: bool = False
    stopped: bool = False
    notes: tuple[str, ...] = ()


def optimise(
    source: BatchSource,
    parameters: Iterable[torch.nn.Parameter],
    loss_function: LossFunction,
    budget: Budget,
    *,
    learning_rate: float,
    device: torch.device,
    progress: ProgressCallback,
    should_stop: ShouldStop,
    schedule: Schedule = Schedule(),  # noqa: B008  # immutable
    selection: Selection | None = None,
    after_step: Callable[[float], None] | None = None,
    keep_when_stopped: bool = False,
    optimiser: OptimiserName = "adamw",
) -> TrainingRecord:
    """Train ``parameters`` in place; the learning rate rises and falls as ``schedule`` says.

    Args:
        source: draws batches and computes their scores.
        loss_function: of the scores, the batch's target, its ``annotated``, and its ``values`` if it has any.
        budget: when to end.
        schedule: of the learning rate, and what else the optimiser is told.
        selection: looks at validation cases now and then; at the end the parameters are the best it has seen. Being
            stopped is then no error: what was best so far stays.
        after_step: called after each step of the optimiser with the step's learning rate.
        keep_when_stopped: a stop after :data:`WORTH_KEEPING` of the budget is no error; parameters stay as they are.
        optimiser: what makes the steps; ``learning_rate`` is AdamW's.

    Raises:
        CaseError: the loss became infinite or not a number; names the cases of that batch.
        MemoryShortageError: memory ran out however small the batch was made.
        Stopped: ``should_stop`` said so.
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    steps = Steps(optimiser, trained, learning_rate, schedule.weight_decay)
    clock, watch = StageClock("training", budget.steps or 0, progress), Stopwatch(budget.clock)
    parts = Parts(source)
    smoothed, step, last_report, plateau, stopped = math.nan, 0, -math.inf, Plateau(), False
    while (spent := plateau.shortened(budget.fraction(step, watch.elapsed))) < 1:
        if should_stop():
            stopped = step > 0 and (selection is not None or (keep_when_stopped and spent >= WORTH_KEEPING))
            if stopped:
                break
            raise Stopped("Training")
        rate = learning_rate * schedule.factor(step, budget.steps, spent)
        steps.set_rate(rate)
        steps.zero_grad()
        while (value := _gradients(source, loss_function, device, parts.count)) is None:
            steps.zero_grad()
            parts.save()
        if schedule.gradient_clip is not None:
            torch.nn.utils.clip_grad_norm_(trained, schedule.gradient_clip)
        steps.step()
        if after_step is not None:
            after_step(rate)
        step += 1
        if budget.until_plateau:
            plateau.note(budget.fraction(step, watch.elapsed), value)
        smoothed = value if math.isnan(smoothed) else 0.95 * smoothed + 0.05 * value
        if clock.elapsed - last_report > REPORT_SECONDS:
            last_report = clock.elapsed
            clock.report(step, loss=smoothed, fraction=plateau.shortened(budget.fraction(step, watch.elapsed)))
        if selection is not None and selection.due(step):
            figures = selection.look(step)
            clock.report(step, loss=smoothed, metrics=figures, fraction=budget.fraction(step, watch.elapsed))
    if selection is not None:
        if not stopped or not selection.best:
            selection.look(step)
        selection.restore()
    clock.report(step, loss=smoothed, fraction=1.0)
    return TrainingRecord(step, watch.elapsed, smoothed, plateau.reached, stopped, parts.notes)


def _gradients(source: BatchSource, loss_function: LossFunction, device: torch.device, parts: int) -> float | None:
    """Add the gradients of a step, the mean over its parts; the loss, or None where memory ran out.

    Raises:
        CaseError: the loss is infinite or not a number.
    """
    total = 0.0
    try:
        for _ in range(parts):
            batch = source.draw()
            with autocast(device):
                scores = source.scores(batch)
            values = () if batch.values is None else (batch.values.to(device),)
            loss = loss_function(scores, batch.target.to(device), batch.annotated, *values)
            value = float(loss.detach())
            if not math.isfinite(value):
                raise CaseError(
                    f"training diverged (loss {value}) on {', '.join(batch.names)}",
                    remedy="Check these volumes, or use a smaller learning rate",
                )
            (loss if parts == 1 else loss / parts).backward()
            total += value / parts
    except Exception as error:
        if not is_shortage(error):
            raise
        logger.warning("Memory ran out in a step of training: %s", str(error).partition("\n")[0])
        return None
    return total
