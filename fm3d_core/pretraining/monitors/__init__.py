"""What a run shows of itself every N steps: pictures, probes without annotation, and whether features collapse."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from fm3d_core.pretraining.objective import Objective

_EDGE = 96  # voxels of a crop where the settings name none
_LARGEST_PICTURE = 128  # voxels


class Monitor(Protocol):
    """Called on rank 0 without gradients, the model in evaluation mode."""

    def __call__(self, objective: Objective, step: int, folder: Path) -> dict[str, float]:
        """Figures to be logged; pictures go to ``folder / f"NAME_{step:07d}.png"``.

        Raises:
            FM3DError: volumes that cannot be read, a folder that cannot be written.
        """
        ...


def monitors_for(objective_kind: str, settings: Any, data: Path | None) -> list[Monitor]:
    """The monitors of a run.

    They look at fixed volumes: of the run's crop store, or drawn ones where ``data`` is no crop store.

    Args:
        objective_kind: the configuration's; teacher entropy is only for "self_distillation".
        settings: of that kind; its ``views.global_crops.size`` is the crops' size.
        data: what the run learns from.

    Raises:
        CaseError: a crop store without a readable index.
    """
    from fm3d_core.pretraining.monitors.collapse import CollapseAlarm
    from fm3d_core.pretraining.monitors.effective_rank import EffectiveRank
    from fm3d_core.pretraining.monitors.fixed_crops import FixedCrops, drawn_volumes, stored_volumes
    from fm3d_core.pretraining.monitors.neighbours import NeighbourProbe
    from fm3d_core.pretraining.monitors.pca_picture import PCAPicture
    from fm3d_core.pretraining.monitors.teacher_entropy import TeacherEntropy

    is_store = data is not None and (Path(data) / "crop_store.json").is_file()
    volumes = stored_volumes(Path(data)) if is_store and data is not None else drawn_volumes()
    edge = _edge(settings)
    crops = FixedCrops(volumes, edge=edge)
    # up to twice a crop's edge: much finer than any crop the run learns from, a picture shows what it never saw
    picture = PCAPicture(volumes, edge=min(2 * edge, _LARGEST_PICTURE))
    signs: list[Any] = [EffectiveRank(crops)]
    if objective_kind == "self_distillation":
        signs.append(TeacherEntropy(crops))
    return [picture, NeighbourProbe(crops), CollapseAlarm(signs)]


def _edge(settings: Any) -> int:
    """The longest side of the run's global crops."""
    for name in ("views", "global_crops", "size"):
        settings = settings.get(name) if isinstance(settings, Mapping) else getattr(settings, name, None)
    return int(max(settings)) if settings else _EDGE
