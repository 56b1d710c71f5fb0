"""What a pretraining run is told: one YAML file, read strictly, with single values changed from the command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Literal

from fm3d_core.errors import SettingsError
from fm3d_core.strict_settings import put_in, read_yaml, validated

CONFIGURATIONS = Path(__file__).parent / "configurations"
_FREE = {"may_change": True}


@dataclass(frozen=True)
class RunSettings:
    """How the engine runs; the same for every objective.

    Attributes:
        batch_size: samples of one optimiser step, of all processes and accumulation rounds together.
        accumulation: rounds whose gradients are averaged before a step; each has its share of the batch.
        precision: "32-true", "bf16-mixed" or "16-mixed".
        accelerator: "auto" takes the GPUs if there are any.
        strategy: "auto" is one process or DDP; "fsdp" shards weights and optimiser over the processes.
        devices: processes on each node; nodes: computers. torchrun and SLURM overrule both.
        compile: torch.compile of the transformer blocks, or of the backbone where there are none.
        recompute: of a ViT's blocks keep the matrix products only, and compute norms, GELU and scales again in the
            backward pass; compiled blocks decide that themselves.
        activation_checkpointing: keep only each block's input for the backward pass; slower, much less memory.
        workers: processes per training process that prepare batches; 0 prepares them in the training itself.
        checkpoint_every: steps between checkpoints; there is one at the end and at a stop in any case.
        keep: newest checkpoints that stay; keep_every: also those at multiples of so many steps, 0 for none.
        log_every: steps between lines in metrics.jsonl; figures of a line are means over them.
        monitor_every: steps between looks at the features, 0 for none.
        seed: of weights, order and every sample.

    Raises:
        SettingsError: an impossible number.
    """

    batch_size: int = 8
    accumulation: int = 1
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    accelerator: Literal["auto", "cpu", "cuda"] = field(default="auto", metadata=_FREE)
    strategy: Literal["auto", "ddp", "fsdp"] = field(default="auto", metadata=_FREE)
    devices: int = field(default=1, metadata=_FREE)
    nodes: int = field(default=1, metadata=_FREE)
    compile: bool = field(default=False, metadata=_FREE)
    recompute: bool = field(default=True, metadata=_FREE)
    activation_checkpointing: bool = field(default=False, metadata=_FREE)
    workers: int = field(default=0, metadata=_FREE)
    checkpoint_every: int = field(default=1000, metadata=_FREE)
    keep: int = field(default=3, metadata=_FREE)
    keep_every: int = field(default=0, metadata=_FREE)
    log_every: int = 10
    monitor_every: int = field(default=0, metadata=_FREE)
    seed: int = 0

    def __post_init__(self) -> None:
        positive = ("batch_size", "accumulation", "devices", "nodes", "checkpoint_every", "keep", "log_every")
        for name in positive:
            if getattr(self, name) < 1:
                raise SettingsError(f"run.{name} is {getattr(self, name)}", remedy="Give 1 or more")
        for name in ("workers", "keep_every", "monitor_every", "seed"):
            if getattr(self, name) < 0:
                raise SettingsError(f"run.{name} is {getattr(self, name)}", remedy="Give 0 or more")
        if self.seed >= 2**63:
            raise SettingsError(f"run.seed is {self.seed}", remedy="Give less than 2^63")

    def batch_per_round(self, world_size: int) -> int:
        """Samples of one accumulation round in one process.

        Raises:
            SettingsError: the batch cannot be shared evenly.
        """
        shares = world_size * self.accumulation
        if self.batch_size % shares:
            raise SettingsError(
                f"a batch of {self.batch_size} cannot be shared by {world_size} processes in {self.accumulation} "
                "rounds",
                remedy=f"Choose run.batch_size as a multiple of {shares}",
            )
        return self.batch_size // shares


@dataclass(frozen=True)
class PretrainSettings:
    """A whole configuration file.

    Attributes:
        about: one line for the list of configurations.
        objective: kind of what is minimised, a name of :mod:`fm3d_core.pretraining.objectives`.
        settings: of that kind; checked when the objective is chosen.
        run: of the engine.
    """

    about: str
    objective: str
    settings: dict[str, Any] = field(default_factory=dict)
    run: RunSettings = field(default_factory=RunSettings)

    # pydantic's; the classes below inherit it
    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}


def shipped_configurations() -> dict[str, Path]:
    """Name -> file of the configurations that come with the package."""
    return {path.stem: path for path in sorted(CONFIGURATIONS.glob("*.yaml"))}


def find_configuration(name: str | Path) -> Path:
    """The file of a shipped name or of a path.

    Raises:
        SettingsError: neither.
    """
    shipped = shipped_configurations()
    if str(name) in shipped:
        return shipped[str(name)]
    if Path(name).is_file():
        return Path(name)
    raise SettingsError(
        f"no configuration '{name}'", remedy=f"Give a YAML file or one of: {', '.join(shipped)} (fm3d pretrain --list)"
    )


def described(path: Path) -> tuple[str, str]:
    """Kind of objective and the line about it, without checking the rest, which loads much.

    Raises:
        SettingsError: not readable.
    """
    content = _read(path)
    return str(content.get("objective", "")), str(content.get("about", ""))


def read_configuration(name: str | Path, overrides: Sequence[str] = ()) -> PretrainSettings:
    """Read a configuration, with ``overrides`` such as "settings.schedule.epochs=2" put in.

    The objective's own settings are completed and checked too, so that what comes back is the whole of the run.

    Raises:
        SettingsError: no such file, not YAML, an unknown key or an impossible value; it names the key.
    """
    path = find_configuration(name)
    content = _read(path)
    for override in overrides:
        put_in(content, override)
    return completed(content, path)


def _read(path: Path) -> dict[str, Any]:
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise SettingsError("holds no settings", path=path, remedy="It needs about, objective, settings, run")
    return content


def completed(content: Mapping[str, Any], path: Path | None = None) -> PretrainSettings:
    """Settings of plain data with every default filled in, the objective's own included.

    Raises:
        SettingsError: as :func:`read_configuration`.
    """
    from fm3d_core.pretraining.objectives import settings_class

    settings = validated(PretrainSettings, content, path=path)
    kind = settings_class(settings.objective)
    own = validated(kind, settings.settings, path=path, place="settings")
    return PretrainSettings(settings.about, settings.objective, plain(own), settings.run)


def plain(settings: Any) -> dict[str, Any]:
    """A dataclass as what YAML and JSON can hold: mappings, lists, numbers, strings."""
    return dict(_plain(asdict(settings)))


def as_yaml(settings: PretrainSettings) -> str:
    """The whole configuration as YAML; :func:`read_configuration` reads it back."""
    import yaml

    return yaml.safe_dump(plain(settings), sort_keys=False, allow_unicode=True, width=100)


def differing_keys(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What two plain configurations of a run and its resume differ in, as "key: old -> new".

    Keys that a run may change between its parts (how often it logs, how many workers) do not count.
    """
    free = {f"run.{item.name}" for item in fields(RunSettings) if item.metadata.get("may_change")} | {"about"}
    before, after = flattened(old), flattened(new)
    keys = [key for key in {**before, **after} if key not in free and before.get(key) != after.get(key)]
    return [f"{key}: {before.get(key)} -> {after.get(key)}" for key in keys]


def flattened(content: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, Mapping) and value:
            flat |= flattened(value, f"{above}{key}.")
        else:
            flat[f"{above}{key}"] = value
    return flat


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return str(value) if isinstance(value, Path) else value
