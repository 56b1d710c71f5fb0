"""Which adapter a training goes on from, and why it does not."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from fm3d_core.adaptation.warm_start import why_not
from fm3d_core.errors import SettingsError

if TYPE_CHECKING:
    from fm3d_core.adaptation import Adapter, AdapterStore, FinetuneSettings
    from fm3d_core.tasks import SegmentationTask


@dataclass(frozen=True)
class Start:
    """Where training begins.

    Attributes:
        adapter: that it goes on from; None: from the weights of the backbone.
        task: with the adapter's preprocessing, which its weights are for.
        notes: the choice in words.
    """

    adapter: Adapter | None
    task: SegmentationTask
    notes: tuple[str, ...] = ()


def choose_start(
    settings: FinetuneSettings, store: AdapterStore, task: SegmentationTask, backbone_sha256: str
) -> Start:
    """The adapter of ``settings.continue_from``, if it fits.

    Args:
        settings: of the last stage.
        store: of the versions.
        task: what is to be learned.
        backbone_sha256: of the backbone before training.

    Raises:
        SettingsError: a version was asked for by number and does not fit.
        AdapterError: it is not there or damaged.
    """
    wanted = settings.continue_from
    if wanted == "none":
        return Start(None, task)
    if wanted == "active":
        active = store.active()
        if active is None:
            return Start(None, task)
        version = active.version
    else:
        version = int(wanted)
    adapter = store.load(version)
    reason = why_not(adapter.card, task, settings, backbone_sha256)
    if reason is None:
        notes = [f"Training goes on from version {version}, with volumes prepared as for it"]
        if new := [name for name in task.labels if name not in adapter.card.task.labels]:
            notes.append(f"New in comparison with version {version}: {', '.join(new)}")
        return Start(adapter, replace(task, preprocessing=adapter.card.task.preprocessing), tuple(notes))
    if wanted == "active":
        return Start(None, task, (f"Training begins anew, not from version {version}: {reason}",))
    raise SettingsError(
        f"training cannot go on from version {version}: {reason}",
        remedy="Choose another one with --continue-from, or none",
    )
