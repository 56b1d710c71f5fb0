"""A run as a SLURM job that saves and queues itself again when it is pre-empted or its time is over (submitit)."""

from __future__ import annotations

import signal
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fm3d_core.errors import SettingsError
from fm3d_core.pretraining.settings import PretrainSettings
from fm3d_core.strict_settings import validated

if TYPE_CHECKING:
    from fm3d_core.pretraining.settings import RunSettings

LOGS_FOLDER = "slurm"
REQUEUE_SIGNAL = "SIGUSR2"  # submitit's


@dataclass(frozen=True)
class SlurmSettings:
    """What a job asks for.

    Attributes:
        partition: of the cluster; None for its default.
        nodes: computers; gpus: of each, with one process per GPU; 0 trains on CPUs.
        processes: per node, where there are no GPUs.
        cpus: per process.
        memory: gigabytes per node; 0 leaves it to the cluster.
        hours: of one part of the run; it is queued again until it is done.
        notice: seconds before the end at which SLURM sends SIGUSR1; must be enough for a step and a checkpoint.
        requeues: how many times the run may hit its time limit.
        account, qos, constraint: as the cluster wants.

    Raises:
        SettingsError: an impossible number.
    """

    partition: str | None = None
    nodes: int = 1
    gpus: int = 0
    processes: int = 1
    cpus: int = 4
    memory: int = 0
    hours: float = 24.0
    notice: int = 120
    requeues: int = 100
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None

    def __post_init__(self) -> None:
        if min(self.nodes, self.processes, self.cpus, self.notice) < 1 or min(self.gpus, self.memory) < 0:
            raise SettingsError(f"impossible SLURM options {self}", remedy="Give 1 or more nodes, processes and cpus")
        if self.hours <= 0:
            raise SettingsError(f"a job of {self.hours} hours", remedy="Give hours above 0")

    @property
    def tasks(self) -> int:
        """Processes per node."""
        return self.gpus or self.processes

    def parameters(self) -> dict[str, Any]:
        """For submitit's ``update_parameters``."""
        wanted: dict[str, Any] = {
            "name": "fm3d-pretrain",
            "nodes": self.nodes,
            "tasks_per_node": self.tasks,
            "cpus_per_task": self.cpus,
            "timeout_min": max(round(self.hours * 60), 1),
            "slurm_signal_delay_s": self.notice,
        }
        if self.gpus:
            wanted["gpus_per_node"] = self.gpus
        if self.memory:
            wanted["mem_gb"] = self.memory
        for name in ("partition", "account", "qos", "constraint"):
            if value := getattr(self, name):
                wanted[f"slurm_{name}"] = value
        return wanted


def parse_slurm(options: str) -> SlurmSettings:
    """Of "partition=gpu,nodes=2,gpus=4,hours=24".

    Raises:
        SettingsError: an unknown name or an impossible value.
    """
    pairs = [part.partition("=") for part in options.split(",") if part.strip()]
    if wrong := [name for name, equals, _ in pairs if not equals]:
        raise SettingsError(f"--slurm: '{wrong[0]}' is not NAME=VALUE", remedy="Write partition=gpu,nodes=1,gpus=4")
    return validated(SlurmSettings, {name.strip(): value.strip() for name, _, value in pairs}, place="--slurm")


@dataclass
class SlurmRun:
    """What each process of the job calls; submitit pickles it for the job and asks :meth:`checkpoint` at a signal.

    Attributes:
        settings: complete and plain.
        data, out: absolute paths.
    """

    settings: Mapping[str, Any]
    data: str | None
    out: str

    def __call__(self) -> str:
        """Train until the end.

        Submitit's handler of SIGUSR2 leaves at once, in the middle of a step. So the engine takes the signal first,
        finishes the step and saves; then the handler gets it, which queues the job again and ends the process.
        """
        from fm3d_core.pretraining.engine import pretrain
        from fm3d_core.pretraining.settings import completed
        from fm3d_core.pretraining.signals import RunStopped

        settings = completed(self.settings)
        try:
            return str(pretrain(settings, None if self.data is None else Path(self.data), Path(self.out)))
        except RunStopped as stopped:
            if stopped.signal == REQUEUE_SIGNAL:
                signal.raise_signal(getattr(signal, REQUEUE_SIGNAL))
                # only the first process gets here no more; the others wait for the end of the job that it requeues,
                # because SLURM may take a process that leaves early for a failure of the job
                time.sleep(600)
            raise

    def checkpoint(self) -> Any:
        """The same again: it goes on from its newest checkpoint."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def submit(settings: PretrainSettings, data: Path | None, out: Path, options: str, *, cluster: str = "slurm") -> str:
    """Submit a run; returns the job's number.

    Args:
        options: of :func:`parse_slurm`.
        cluster: submitit's; "local" and "debug" are for tests.

    Raises:
        SettingsError: impossible options, submitit or SLURM are not there, or SLURM refuses the job.
    """
    wanted = parse_slurm(options)
    settings.run.batch_per_round(wanted.tasks * wanted.nodes)  # refused here rather than hours later in the queue
    try:
        import submitit
    except ImportError as error:
        raise SettingsError("submitit is not installed", remedy="pip install 'fm3d[slurm]'") from error
    from fm3d_core.pretraining.settings import plain

    logs = out.resolve() / LOGS_FOLDER
    run = SlurmRun(plain(replace(settings, run=_placed(settings.run, wanted))), _absolute(data), str(out.resolve()))
    try:
        executor = submitit.AutoExecutor(folder=logs, cluster=cluster, slurm_max_num_timeout=wanted.requeues)
        executor.update_parameters(**wanted.parameters())
        job = executor.submit(run)
    except (RuntimeError, OSError, submitit.core.utils.FailedJobError) as error:
        raise SettingsError(
            f"SLURM does not take the job: {' '.join(str(error).split())}",
            remedy="Run it where sbatch works, with a partition that sinfo lists",
        ) from error
    return str(job.job_id)


def _placed(run: RunSettings, wanted: SlurmSettings) -> RunSettings:
    return type(run)(**{**asdict(run), "devices": wanted.tasks, "nodes": wanted.nodes})


def _absolute(path: Path | None) -> str | None:
    return None if path is None else str(path.resolve())
