"""The one loop of pretraining: whatever is minimised, on one CPU or many GPUs, to be killed and resumed at any time.

Every random number of a step follows from the seed, the step and the process, so a resumed run does what an unbroken
one would have done, without any random state being stored.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from fm3d_core.devices import small_convolutions_in_float32
from fm3d_core.errors import CaseError, SettingsError
from fm3d_core.files import atomic_file
from fm3d_core.pretraining.checkpoints import Checkpoint, Checkpoints
from fm3d_core.pretraining.exchange import Carried, Carrier, Exchange
from fm3d_core.pretraining.exporting import export_module
from fm3d_core.pretraining.launching import hardware, launch, prepare_backbones
from fm3d_core.pretraining.objective import Place, TrainingBatch
from fm3d_core.pretraining.objectives import build_objective
from fm3d_core.pretraining.run_log import RunLog, Window, write_unreadable
from fm3d_core.pretraining.settings import PretrainSettings, as_yaml, differing_keys, plain
from fm3d_core.pretraining.signals import RunStopped, StopSignals
from fm3d_core.pretraining.throughput import Throughput, memory_bytes, peak_flops
from fm3d_core.pretraining.training_state import (
    clip_gradients,
    load_module_state,
    load_optimizer_state,
    module_state,
    optimizer_state,
)
from fm3d_core.pretraining.watching import Watch, watch_of
from fm3d_core.progress import Progress, ProgressCallback, ShouldStop, ignore_progress, never_stop

CONFIG_FILE, BACKBONE_FILE, CHECKPOINTS_FOLDER = "config.yaml", "backbone.safetensors", "checkpoints"
MEASURED = ("samples_per_second", "data_wait", "seconds_left", "model_flops_utilisation", "memory_gigabytes")
"""What a line of metrics.jsonl says of the machine; everything else is the same in a resumed run."""


def pretrain(
    settings: PretrainSettings,
    data: Path | None,
    out: Path,
    *,
    stop_after: int | None = None,
    progress: ProgressCallback = ignore_progress,
    should_stop: ShouldStop = never_stop,
) -> Path:
    """Run a configuration, or go on with what is in ``out``; returns the backbone's file.

    Args:
        settings: complete, as :func:`~fm3d_core.pretraining.settings.read_configuration` gives them.
        data: what the objective learns from.
        out: folder of the run.
        stop_after: end after so many steps, with everything saved; the schedules stay those of the whole run.
        progress: gets an event for each log line, in the first process.
        should_stop: asked after each step.

    Raises:
        SettingsError: impossible settings, or other ones than those of the run in ``out``.
        CaseError: the loss became infinite; it names the volumes. The last checkpoint stays.
        RunStopped: a signal or ``should_stop`` ended it; everything is saved.
        FM3DError: data or weights that cannot be used.
    """
    with StopSignals() as signals:
        run = _Run(settings, data, out)
        try:
            run.resume()
            return run.train(stop_after, progress, lambda: signals.received is not None or should_stop())
        except RunStopped as stopped:
            stopped.signal = signals.received
            raise
        finally:
            run.close()


class _Run:
    """A run in this process."""

    def __init__(self, settings: PretrainSettings, data: Path | None, out: Path) -> None:
        self.settings, self.data, self.out = settings, data, out
        if out.exists() and not out.is_dir():
            raise SettingsError("is a file, not a folder", path=out, remedy="Give --out a folder")
        options = settings.run
        self.fabric = launch(options)
        self.place = Place(
            rank=self.fabric.global_rank,
            world_size=self.fabric.world_size,
            batch_size=options.batch_per_round(self.fabric.world_size),
            workers=options.workers,
            seed=options.seed,
            accumulation=options.accumulation,
            pin_memory=self.fabric.device.type == "cuda",
        )
        self.exchange = Exchange(self.fabric)
        torch.manual_seed(options.seed)
        built = build_objective(settings, data, self.place)
        self.objective, self.loader = built.objective, built.loader
        self.steps, self.gradient_clip = built.steps, built.gradient_clip
        prepare_backbones(self.objective, self.objective.pretrained(), options)
        self.module = self.fabric.setup_module(Carrier(self.objective), move_to_device=True)
        fused = options.precision != "16-mixed"  # the gradient scaler cannot look into the fused step
        self.adamw = torch.optim.AdamW(self.objective.parameter_groups(), fused=fused)
        self.optimizer = self.fabric.setup_optimizers(self.adamw)
        self.clipped = {
            name: [parameter for parameter in module.parameters() if parameter.requires_grad]
            for name, module in self.objective.clipped_modules().items()
        }
        self.checkpoints = Checkpoints(out / CHECKPOINTS_FOLDER, options.keep, options.keep_every)
        self.step, self.saved = 0, -1
        self.window = Window()
        self.seen: dict[str, float] = {}
        self.unreadable: dict[str, None] = {}
        self.log: RunLog | None = None

    @property
    def first(self) -> bool:
        """Whether this process writes."""
        return self.place.rank == 0

    def resume(self) -> None:
        """Go on from the newest whole checkpoint; without one, begin."""
        checkpoint = self.checkpoints.newest()
        if checkpoint is not None:
            self._load(checkpoint)
        self.fabric.barrier()  # all have read before the first one tidies up
        if self.first:
            self.checkpoints.clean(self.step)
            self.log = RunLog(self.out, self.step)
            with atomic_file(self.out / CONFIG_FILE) as temporary:
                temporary.write_text(as_yaml(self.settings), encoding="utf-8")

    def train(self, stop_after: int | None, progress: ProgressCallback, should_stop: ShouldStop) -> Path:
        """All steps that are left."""
        options, end = self.settings.run, min(self.steps, stop_after or self.steps)
        meter = self._meter()
        watch = watch_of(self.settings, self.data, self.out, self.place)
        batches: Iterator[TrainingBatch] = iter(self.loader)
        started = time.monotonic()
        while self.step < end:
            stop = self._one_step(batches, meter, should_stop)
            looked: dict[str, float] = {}
            if options.monitor_every and self.step % options.monitor_every == 0:
                looked = self._timed(meter, lambda: self._look(watch))
            if self.step % options.log_every == 0:
                self._log_line(meter, looked, progress, time.monotonic() - started)
            elif looked and self.log is not None:
                self.log.add({"step": self.step, **looked})
            if stop or self.step % options.checkpoint_every == 0:
                self._timed(meter, self._save)
            if stop and self.step < end:
                raise RunStopped(self.step, self.steps, self.out)
        self._save()
        return self.out / BACKBONE_FILE

    def close(self) -> None:
        """Close the log."""
        if self.log is not None:
            self.log.close()

    def _one_step(self, batches: Iterator[TrainingBatch], meter: Throughput, should_stop: ShouldStop) -> bool:
        """One optimiser step; whether any process was asked to stop."""
        rounds = self.settings.run.accumulation
        values = self.objective.before_step(self.step, self.adamw.param_groups)
        terms: dict[str, torch.Tensor] = {}
        names: list[str] = []
        unreadable: list[str] = []
        for index in range(rounds):
            before = time.perf_counter()
            batch = next(batches)
            names += batch.names
            unreadable += batch.unreadable
            batch = batch.to(self.fabric.device, non_blocking=True)
            meter.waited(time.perf_counter() - before)
            # after the loader, which draws a number of its own when it starts
            torch.manual_seed(_stream(self.place.seed, self.step, index, self.place.rank))
            with self.fabric.no_backward_sync(self.module, enabled=index < rounds - 1):
                with small_convolutions_in_float32(self.fabric.device):
                    these = self.module(Carried(batch))
                self.fabric.backward(torch.stack(list(these.values())).sum() / rounds)
            for name, value in these.items():
                terms[name] = terms.get(name, 0.0) + value.detach().float() / rounds
        self.fabric._precision.unscale_gradients(self.adamw)
        norms = {name: clip_gradients(parameters, self.gradient_clip) for name, parameters in self.clipped.items()}
        losses = {f"loss/{name}": value for name, value in terms.items()}
        lengths = {f"gradient_norm/{name}": value for name, value in norms.items()}
        numbers: dict[str, torch.Tensor | float] = {"unreadable": len(unreadable), "stop": should_stop()}
        loss = torch.stack(list(terms.values())).sum()
        figures = self.exchange.means({"loss": loss, **losses, **lengths, **numbers})
        if figures.pop("unreadable"):
            self._note_unreadable(unreadable)
        stop = figures.pop("stop") > 0
        self._require_finite(figures, names)
        self.optimizer.step()
        self.objective.after_step(self.step)
        self.optimizer.zero_grad(set_to_none=True)
        self.window.add(figures | values)
        self.step += 1
        meter.step_done()
        return stop

    def _require_finite(self, figures: dict[str, float], names: Sequence[str]) -> None:
        """Stop before the optimiser spoils the weights; float16's scaler deals with infinite gradients itself."""
        judged = [name for name in figures if name.startswith("loss")]
        if self.settings.run.precision != "16-mixed":
            judged += [name for name in figures if name.startswith("gradient_norm")]
        bad = [name for name in judged if not math.isfinite(figures[name])]
        if not bad:
            return
        volumes = sorted({name for part in self.exchange.gathered(list(names)) for name in part})
        last = f"step {self.checkpoints.steps()[-1]}" if self.checkpoints.steps() else "the beginning"
        raise CaseError(
            f"{bad[0]} became {figures[bad[0]]} in step {self.step}, with the volumes {', '.join(volumes)}",
            path=self.out,
            remedy=f"Nothing of this step was kept, the run stands at {last}. Look at these volumes; if they are "
            "sound, start anew with a lower learning rate or with run.precision=32-true",
        )

    def _note_unreadable(self, lines: list[str]) -> None:
        known = len(self.unreadable)
        for part in self.exchange.gathered(lines):
            self.unreadable.update(dict.fromkeys(part))
        if self.first and len(self.unreadable) > known:
            write_unreadable(self.out, list(self.unreadable))

    def _log_line(self, meter: Throughput, looked: dict[str, float], progress: ProgressCallback, passed: float) -> None:
        figures = self.window.means()
        measured = meter.figures(self.steps - self.step)
        measured["memory_gigabytes"] = memory_bytes(self.fabric.device) / 1e9
        if self.log is not None:
            figures["unreadable"] = len(self.unreadable)
            self.log.add({"step": self.step, **figures, **looked, **measured})
            # a look between two lines is told with the next one
            metrics, self.seen = figures | self.seen | measured, {}
            left = measured["seconds_left"]
            progress(Progress("pretraining", self.step, self.steps, passed, left, figures["loss"], metrics))

    def _meter(self) -> Throughput:
        peak = peak_flops(hardware(self.fabric.device), self.settings.run.precision)
        total = None if peak is None else peak * self.place.world_size
        return Throughput(self.settings.run.batch_size, self.objective.flops_per_sample(), total)

    def _look(self, watch: Watch | None) -> dict[str, float]:
        """The monitors' figures, in the first process; the others wait."""
        found = {} if watch is None else watch(self.objective, self.step)
        self.seen |= found
        self.fabric.barrier()
        return found

    def _save(self) -> None:
        """Write checkpoint and results, unless those of this step are there."""
        if self.saved == self.step:
            return
        state = {
            "step": self.step,
            "objective": module_state(self.objective, self.first),
            "optimizer": optimizer_state(self.adamw, self.objective, self.first),
            "loader": self.loader.state_dict(),
            "precision": self.fabric._precision.state_dict(),
            "window": self.window.sums,
            "window_steps": self.window.steps,
            "unreadable": list(self.unreadable),
        }
        if self.log is not None:
            self.log.sync()
            self.checkpoints.write(self.step, state, plain(self.settings))
        about = {"objective": self.settings.objective, "step": self.step, "about": self.settings.about}
        about |= self.objective.told()
        exported = {"backbone": self.objective.pretrained(), **self.objective.also_exported()}
        for name, module in exported.items():
            export_module(module, self.out / f"{name}.safetensors", about, write=self.first)
        self.saved = self.step
        self.fabric.barrier()

    def _load(self, checkpoint: Checkpoint) -> None:
        changed = differing_keys(checkpoint.settings, plain(self.settings))
        if changed:
            raise SettingsError(
                f"the run there was started with another configuration; {'; '.join(changed)}",
                path=self.out,
                remedy="Use the configuration it was started with (config.yaml in it), or another --out",
            )
        state = checkpoint.state
        try:
            load_module_state(self.objective, state["objective"])
            load_optimizer_state(self.adamw, self.objective, state["optimizer"])
        except ValueError as error:
            raise SettingsError(
                f"its checkpoint belongs to another model: {error}", path=self.out, remedy="Use another --out"
            ) from error
        self.loader.load_state_dict(state["loader"])
        self.fabric._precision.load_state_dict(state["precision"])
        self.window = Window(state["window"], state["window_steps"])
        self.unreadable = dict.fromkeys(state["unreadable"])
        self.step = self.saved = checkpoint.step

    @staticmethod
    def _timed(meter: Throughput, action: Any) -> Any:
        """Do something that is no part of a step's time."""
        before = time.perf_counter()
        result = action()
        meter.pause(time.perf_counter() - before)
        return result


def _stream(seed: int, step: int, index: int, rank: int) -> int:
    """The seed of the random numbers of one round of a step in one process; 63 bits."""
    digest = hashlib.sha256(f"{seed} {step} {index} {rank} step".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1
