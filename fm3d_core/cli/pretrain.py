"""``fm3d pretrain``: train a backbone from a configuration."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from fm3d_core.errors import SettingsError

if TYPE_CHECKING:
    from fm3d_core.pretraining.settings import PretrainSettings
    from fm3d_core.progress import Progress


@dataclass(frozen=True)
class Pretrain:
    """Pretrain a backbone as CONFIG says: without labels (3DINO), with partial labels, or on made-up anatomy.

    Three steps from a folder of volumes to a backbone:
      fm3d data scan /data/ct --out ct.json
      fm3d data cache ct.json --out store
      fm3d pretrain small_cpu --data store --out run
    RUN gets backbone.safetensors (use it: fm3d finetune --weights RUN/backbone.safetensors), metrics.jsonl and
    TensorBoard files (tensorboard --logdir RUN), checkpoints and the whole configuration. Ctrl-C or SIGTERM finishes
    the step and saves; the same command goes on from there, also after a crash or on another number of processes.
    Several GPUs: --set run.devices=4, or torchrun --nproc-per-node 4 -m fm3d_core.cli.main pretrain ...

    Attributes:
        config: a shipped configuration (fm3d pretrain --list) or a YAML file.
        data: what it learns from: the store of fm3d data cache; for partial labels the labelled sets.
        out: folder of the run.
        set: change a value of the configuration; may be repeated. Example: --set settings.schedule.epochs=2
        steps: stop after so many steps, with everything saved; the schedules stay those of the whole run.
        list: say which configurations there are.
        dry_run: print the whole configuration, the number of parameters and the shapes of one batch; train nothing.
        slurm: submit to SLURM instead, for example --slurm partition=gpu,nodes=2,gpus=4,hours=24
    """

    config: Annotated[tyro.conf.Positional[str | None], tyro.conf.arg(metavar="CONFIG")] = None
    data: Path | None = None
    out: Path | None = None
    set: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="KEY=VALUE")] = ()
    steps: int | None = None
    list: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    dry_run: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    slurm: str | None = None

    def run(self) -> None:
        """List, describe, submit or train."""
        from fm3d_core.pretraining.settings import read_configuration

        if self.list:
            _print_list()
            return
        if self.config is None:
            raise SettingsError("no configuration given", remedy="Choose one: fm3d pretrain --list")
        settings = read_configuration(self.config, self.set)
        if self.dry_run:
            _describe(settings, self.data)
            return
        if self.out is None:
            raise SettingsError("no folder for the run given", remedy="Add --out RUN")
        if self.steps is not None and self.steps < 1:
            raise SettingsError(f"--steps {self.steps} is no number of steps", remedy="Give 1 or more")
        if self.slurm is not None:
            _submit(settings, self.data, self.out, self.slurm)
            return
        self._train(settings, self.out)

    def _train(self, settings: PretrainSettings, out: Path) -> None:
        import os

        from rich.console import Console

        from fm3d_core.pretraining.engine import pretrain
        from fm3d_core.pretraining.launching import is_first_process

        quiet = not is_first_process(os.environ)
        console = Console(quiet=quiet)
        console.print(f"{settings.about}; the log goes to {out}", soft_wrap=True, highlight=False)
        backbone = pretrain(
            settings, self.data, out, stop_after=self.steps, progress=lambda event: _print_line(console, event)
        )
        console.print(f"{backbone}\nUse it: fm3d finetune ... --weights {backbone}", soft_wrap=True, highlight=False)


def _print_list() -> None:
    from rich.console import Console
    from rich.table import Table

    from fm3d_core.pretraining.settings import described, shipped_configurations

    table = Table("configuration", "objective", "about", box=None)
    for name, path in shipped_configurations().items():
        table.add_row(name, *described(path))
    Console().print(table)


def _describe(settings: PretrainSettings, data: Path | None) -> None:
    from rich.console import Console

    from fm3d_core.pretraining.preview import preview
    from fm3d_core.pretraining.settings import as_yaml

    console = Console()
    console.print(as_yaml(settings), highlight=False, markup=False, soft_wrap=True, end="")
    for line in preview(settings, data):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _submit(settings: PretrainSettings, data: Path | None, out: Path, options: str) -> None:
    from rich.console import Console

    from fm3d_core.pretraining.slurm import submit

    job = submit(settings, data, out, options)
    Console().print(f"SLURM job {job}; follow it in {out}", soft_wrap=True, highlight=False)


def _print_line(console: object, event: Progress) -> None:
    from rich.console import Console

    assert isinstance(console, Console)
    figures = event.metrics
    parts = [f"step {event.step}/{event.total}", f"loss {event.loss:.4f}"]
    if "learning_rate" in figures:
        parts.append(f"learning rate {figures['learning_rate']:.3g}")
    parts.append(f"{figures['samples_per_second']:.3g} samples/s")
    parts.append(f"waiting for data {figures['data_wait']:.0%}")
    if "model_flops_utilisation" in figures:
        parts.append(f"utilisation {figures['model_flops_utilisation']:.1%}")
    if figures.get("unreadable"):
        parts.append(f"{figures['unreadable']:.0f} volumes unreadable")
    seen = {name[8:]: value for name, value in figures.items() if name.startswith("monitor/")}
    if seen.pop("collapse", 0.0):
        parts.append("[bold red]THE FEATURES COLLAPSE[/bold red]")
    if seen.pop("flat", 0.0):
        parts.append("[bold]the teacher says the same of everything[/bold]")
    parts += [f"{name} {value:.3g}" for name, value in seen.items()]
    parts.append(f"{_duration(event.eta or 0)} left")
    console.print("  ".join(parts), soft_wrap=True, highlight=False)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return f"{days} d {hours:02d}:{minutes:02d}" if days else f"{hours}:{minutes:02d}:{rest:02d}"
