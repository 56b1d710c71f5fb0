"""Figures as a person says them."""

from __future__ import annotations

from collections.abc import Sequence

from .client import TrainStatus
from .server_info import ServerInfo
from .translation import tr as _


def duration(seconds: float) -> str:
    """``45 s``, ``3 min``, ``1 h 20 min``: as exact as an estimate deserves."""
    seconds = round(seconds)
    if seconds < 60:
        return _("{seconds} s").format(seconds=seconds)
    minutes = round(seconds / 60)
    if minutes < 60:
        return _("{minutes} min").format(minutes=minutes)
    return _("{hours} h {minutes} min").format(hours=minutes // 60, minutes=minutes % 60)


def server(info: ServerInfo) -> str:
    """One line about a connected server."""
    text = _("Connected to {name} {version}. Volumes labelled: {labelled} of {total}.")
    return text.format(name=info.name, version=info.version, labelled=info.labelled, total=info.total)


def training(status: TrainStatus) -> str:
    """One line about a training that runs."""
    if not status.stage:
        return _("Waiting for the training to start...")
    parts = [status.stage[:1].upper() + status.stage[1:]]
    if status.eta is not None:
        parts.append(_("about {duration} left").format(duration=duration(status.eta)))
    return " · ".join([*parts, *_figures(status)])


def trained(status: TrainStatus) -> str:
    """One line about a training that has ended, well or not."""
    if status.state == "stopped":
        return _("Training cancelled. The version before stays active.")
    if status.state != "done":
        return status.error or _("The server was restarted; the training is lost. Press Train again.")
    text = _("Version {version} is ready and active.") if status.version else _("Training finished.")
    parts = [text.format(version=status.version), " · ".join(_figures(status))]
    if status.leftOut:
        parts.append(_("Left out: {cases}").format(cases="; ".join(status.leftOut)))
    return " ".join(part for part in parts if part)


def consent(volume: str, address: str, isLoopback: bool) -> str:
    """The question before a volume is sent."""
    where = _("The server runs on this computer.") if isLoopback else _("The volume leaves this computer.")
    question = _("Send the volume '{volume}' to {address}?") + " " + where + "\n\n"
    note = _("Its voxels, its geometry and its name go there. Rename it first if the name identifies a patient.")
    return question.format(volume=volume, address=address) + note


def segmentationName(volume: str, version: str) -> str:
    """How a segmentation node is called."""
    if not version:
        return _("{volume} label").format(volume=volume)
    if version == "untrained":
        return _("{volume} untrained").format(volume=volume)
    return _("{volume} version {version}").format(volume=volume, version=version)


def version(key: str) -> str:
    """How a version is offered."""
    known = {"active": _("Active version"), "untrained": _("Untrained network (for comparison)")}
    return known.get(key) or _("Version {number}").format(number=key)


def method(key: str) -> str:
    """How a training method is offered."""
    known = {
        "full": _("Full: adapt every weight"),
        "lora": _("LoRA: small adapter on a frozen network"),
        "linear_probe": _("Linear probe: quickest, features stay frozen"),
        "spatial_adapter": _("Spatial adapter: frozen features, sees each voxel's neighbours"),
    }
    return known.get(key, key)


def segmented(version: str, warnings: Sequence[str]) -> str:
    """What came back from the server."""
    text = (
        _("Segmented by the untrained network.") if version == "untrained" else _("Segmented with version {version}.")
    )
    return " ".join([text.format(version=version), *map(str, warnings)])


def submitted(labels: int, empty: Sequence[str], ignored: Sequence[str], overlap: int) -> str:
    """What the user should know about a label that was sent."""
    parts = [_("Submitted. Volumes labelled now: {labels}.").format(labels=labels)]
    if empty:
        parts.append(_("Sent as absent: {names}.").format(names=", ".join(empty)))
    if ignored:
        parts.append(_("Not sent: {names}.").format(names=", ".join(ignored)))
    if overlap:
        parts.append(_("{overlap} voxels lay in two structures; the later one got them.").format(overlap=overlap))
    return " ".join(parts)


def _figures(status: TrainStatus) -> list[str]:
    loss = [] if status.loss is None else [_("loss {loss:.3f}").format(loss=status.loss)]
    return loss + [f"{name.capitalize()} {value:.3f}" for name, value in status.metrics.items() if value is not None]
