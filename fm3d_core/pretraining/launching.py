"""Processes, devices and precision of a run, by Lightning Fabric: one process, DDP or FSDP."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fm3d_core.errors import SettingsError
from fm3d_core.pretraining.settings import RunSettings

if TYPE_CHECKING:
    import torch
    from lightning_fabric import Fabric
    from torch import nn
    from torch.distributed.device_mesh import DeviceMesh


def launch(run: RunSettings) -> Fabric:
    """A launched Fabric; with several devices it starts the other processes, which run the same command.

    torchrun's and SLURM's processes are taken as they are, whatever ``devices`` and ``nodes`` say.

    Raises:
        SettingsError: devices that are not there, or that do not have the precision.
    """
    import torch
    from lightning_fabric import Fabric
    from lightning_fabric.utilities.exceptions import MisconfigurationException

    devices, nodes = processes(run)
    on_cpu = run.accelerator == "cpu" or not torch.cuda.is_available()
    if on_cpu and run.precision == "16-mixed":
        raise SettingsError("run.precision=16-mixed needs a GPU", remedy="Choose 32-true or bf16-mixed")
    if run.accelerator == "cuda" and torch.cuda.device_count() < devices:
        raise SettingsError(
            f"{devices} GPUs are asked for, {torch.cuda.device_count()} are there",
            remedy="Set run.devices lower, or run.accelerator=cpu",
        )
    # it advises srun wherever SLURM is installed
    warnings.filterwarnings("ignore", message=".*srun.*", module="lightning_fabric")
    try:
        fabric = Fabric(
            accelerator=run.accelerator,
            devices=devices,
            num_nodes=nodes,
            strategy=_strategy(run, devices * nodes),
            precision=run.precision,
        )
        fabric.launch()
    except (MisconfigurationException, ValueError) as error:
        raise SettingsError(" ".join(str(error).split()), remedy="Change run.devices or run.accelerator") from error
    if fabric.device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32, as 3DINO
    return fabric


def processes(run: RunSettings) -> tuple[int, int]:
    """Processes per node and nodes: of torchrun or SLURM where one of them started this process."""
    environment = os.environ
    if "TORCHELASTIC_RUN_ID" in environment:
        local = int(environment["LOCAL_WORLD_SIZE"])
        return local, int(environment["WORLD_SIZE"]) // local
    if "SLURM_NTASKS" in environment and "SLURM_PROCID" in environment and _is_slurm_job():
        nodes = int(environment.get("SLURM_NNODES", environment.get("SLURM_JOB_NUM_NODES", "1")))
        return int(environment["SLURM_NTASKS"]) // nodes, nodes
    return run.devices, run.nodes


def _is_slurm_job() -> bool:
    return os.environ.get("SLURM_JOB_NAME") not in ("bash", "interactive")


def _strategy(run: RunSettings, processes: int) -> Any:
    from lightning_fabric.strategies import DDPStrategy, ModelParallelStrategy

    if run.strategy == "fsdp":
        # one shard per process: all of them along the data axis of the mesh
        return ModelParallelStrategy(shard, data_parallel_size=processes, tensor_parallel_size=1)
    if run.strategy == "ddp" or processes > 1:
        # the buffers (centres of the targets) are made of sums over all processes and equal already
        return DDPStrategy(broadcast_buffers=False, gradient_as_bucket_view=True)
    return "auto"


def shard(module: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """FSDP2: every transformer block is a unit of its own, the rest is the root's."""
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    data = mesh["data_parallel"]
    for block in transformer_blocks(module):
        fully_shard(block, mesh=data)
        register_fsdp_forward_method(block, "forward_packed")
    fully_shard(module, mesh=data, reshard_after_forward=False)
    return module


def transformer_blocks(module: nn.Module) -> list[nn.Module]:
    """The blocks of all vision transformers in a module."""
    from fm3d_core.models.layers import Block

    return [part for part in module.modules() if isinstance(part, Block)]


def prepare_backbones(objective: nn.Module, pretrained: nn.Module, run: RunSettings) -> None:
    """Compile and checkpoint as the settings say; in place, no parameter changes its name."""
    import torch

    wanted = {"recompute_elementwise": run.recompute and not run.compile}
    wanted["activation_checkpointing"] = run.activation_checkpointing
    for part in objective.modules():
        for name, value in wanted.items():
            if hasattr(part, name):
                setattr(part, name, value)
    if not run.compile:
        return
    blocks = transformer_blocks(objective)
    for block in blocks:
        block.compile()
        packed: Any = block.forward_packed
        block.forward_packed = torch.compile(packed)  # type: ignore[assignment]
    if not blocks:
        pretrained.compile()


def hardware(device: torch.device) -> str:
    """The device's name for the log."""
    import platform

    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "CPU"


def is_first_process(environment: Mapping[str, str]) -> bool:
    """Whether this process is the one that talks, as far as torchrun, SLURM or Fabric have numbered it."""
    ranks = [environment.get(name) for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK", "NODE_RANK")]
    return next((rank == "0" for rank in ranks if rank is not None), True)
