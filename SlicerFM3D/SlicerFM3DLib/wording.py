"""Figures as a person says them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .recipes import NO_RECIPE, OWN_WEIGHTS, Recipe
from .server_info import ServerInfo
from .train_status import TrainStatus
from .translation import tr as _
from .versions import Comparison, ExpectedDice, Version

WORTH_TELLING = 0.1  # ml that were taken out of a segmentation


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
    """One line about a training that waits or runs."""
    if status.queued:
        before = _("Another training comes first.") if status.queued == 1 else _("{n} trainings come first.")
        return _("Waiting in the queue.") + " " + before.format(n=status.queued)
    if not status.stage:
        return status.message or _("Waiting for the training to start...")
    parts = [stage(status.stage)]
    if status.eta is not None:
        parts.append(_("about {duration} left").format(duration=duration(status.eta)))
    usable = [version.number for version in status.versions[-1:]]
    early = [_("version {n} can be used already").format(n=number) for number in usable]
    return " · ".join([*parts, *_figures(status), *early])


def trained(status: TrainStatus) -> str:
    """One line about a training that has ended, well or not."""
    last = status.version or next((version.number for version in reversed(status.versions)), None)
    if status.state == "cancelled":
        if status.message:
            return status.message
        if last:
            return _("Training cancelled. What was learned until then is kept as version {n}.").format(n=last)
        return _("Training cancelled. The version before stays active.")
    if status.state in ("interrupted", "never"):
        kept = _(" Version {n} is kept.").format(n=last) if last else ""
        again = _("The server was restarted and the training ended with it. Press Train again.")
        return status.message or again + kept
    if status.state != "done":
        return status.error or status.message or _("The training failed. The server's log says more.")
    text = _("Version {version} is ready and active.") if status.version else _("Training finished.")
    if any(version.number == status.version and not version.active for version in status.versions):
        text = _("Version {version} is ready. It is not the active one.")
    parts = [text.format(version=status.version), " · ".join(_figures(status))]
    if status.leftOut:
        parts.append(_("Left out: {cases}").format(cases="; ".join(status.leftOut)))
    return " ".join(part for part in parts if part)


def stage(key: str) -> str:
    """What is being learned, or the server's own words for it."""
    known = {
        "zero_shot": _("Known by name"),
        "linear_probe": _("Linear probe"),
        "spatial_adapter": _("Spatial adapter"),
        "decoder": _("Decoder"),
        "final": _("Final"),
        "cut_short": _("Cut short"),
    }
    return known.get(key) or key[:1].upper() + key[1:]


def preset(key: str) -> str:
    """How a preset is offered."""
    known = {
        "fast": _("Fast: about a minute"),
        "balanced": _("Balanced: about five minutes"),
        "thorough": _("Thorough: up to half an hour"),
        "auto": _("Automatic: by cases and computer"),
        "none": _("Own choice, see Advanced"),
    }
    return known.get(key, key)


def recipe(key: str) -> str:
    """How a published training is offered."""
    return _("None") if key == NO_RECIPE else key.replace(":", ", ")


def recipeDetails(recipe: Recipe) -> str:
    """What a published training learns and asks for, in lines."""
    lines = [recipe.about, _("Needs {needs}").format(needs=recipe.needs)]
    if not recipe.atHand:
        lines.append(_("Its weights are not on the server: {remedy}").format(remedy=recipe.remedy))
    return "\n".join(line for line in lines if line)


def weights(key: str) -> str:
    """How the weights are offered that a published training begins with."""
    known = {
        OWN_WEIGHTS: _("As published"),
        "shipped": _("Small network that comes with FM3D"),
        "random": _("Small network, random weights"),
    }
    return known.get(key, key)


def strategy(key: str) -> str:
    """How a way to choose the next volume is offered."""
    known = {
        "first": _("In order"),
        "random": _("At random"),
        "random_foreground": _("At random, where the structures are"),
        "foreground": _("At random, where the structures are"),
        "uncertainty": _("Where the model is least sure"),
        "diversity": _("Most different from those labelled"),
        "hybrid": _("Unsure and different"),
    }
    return known.get(key, key)


def expected(dice: ExpectedDice | None) -> str:
    """An expected Dice with its interval."""
    if dice is None:
        return "–"
    if dice.high <= dice.low:
        return f"{dice.mean:.2f}"
    return _("{mean:.2f} ({low:.2f}–{high:.2f})").format(mean=dice.mean, low=dice.low, high=dice.high)


def versionDetails(version: Version) -> str:
    """All that is known about a version, in lines."""
    lines = [_("Structures: {names}").format(names=", ".join(version.labels))]
    if version.recipe:
        lines.append(_("Recipe: {name}").format(name=version.recipe))
    if version.created:
        lines.append(_("Made: {when}").format(when=version.created[:16].replace("T", " ")))
    if version.cases:
        lines.append(_("Learned from: {cases}").format(cases=", ".join(version.cases)))
    if version.seconds is not None:
        lines.append(_("Took {duration}").format(duration=duration(version.seconds)))
    if version.expected and version.expected.how:
        lines.append(_("Expected Dice: {how}").format(how=version.expected.how))
    return "\n".join([*lines, version.notes]).strip()


def values(names: Sequence[str]) -> str:
    """Which voxel value stands for which structure."""
    return ", ".join(f"{value} = {name}" for value, name in enumerate(names, start=1))


def compared(comparison: Comparison) -> str:
    """What a comparison of two versions says."""
    parts = []
    one, other = comparison.means
    if one is not None and other is not None:
        text = _("Mean Dice: {one:.3f} (version {a}), {other:.3f} (version {b}).")
        parts.append(text.format(one=one, a=comparison.one, other=other, b=comparison.other))
    if comparison.verdict:
        parts.append(_sentence(comparison.verdict))
    elif comparison.p is not None:
        parts.append(_("p = {p:.2g}").format(p=comparison.p))
    if comparison.learnedFrom:
        parts.append(_("Cases marked * were learned from: their Dice is too good."))
    return " ".join(parts)


def job(text: str, status: Mapping[str, Any]) -> str:
    """One line about a job that runs on the server."""
    step, total, eta = status.get("step"), status.get("total"), status.get("eta")
    parts = [str(status.get("stage") or "") or text]
    if total:
        parts.append(_("{step} of {total}").format(step=step or 0, total=total))
    if eta is not None:
        parts.append(_("about {duration} left").format(duration=duration(eta)))
    return " · ".join(parts)


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


def answering(key: str) -> str:
    """How a version about whole volumes is offered."""
    return _("{version}, about whole volumes").format(version=version(key))


def ask(answers: bool) -> tuple[str, str]:
    """What is on the button that asks a version about the volume, and what it says about itself."""
    if answers:
        return _("Answer"), _("Let the version answer its question about the whole volume")
    return _("Segment"), _("Let the model segment the whole volume")


def method(key: str) -> str:
    """How a training method is offered."""
    known = {
        "full": _("Full: adapt every weight"),
        "lora": _("LoRA: small adapter on a frozen network"),
        "linear_probe": _("Linear probe: quickest, features stay frozen"),
        "spatial_adapter": _("Spatial adapter: frozen features, sees each voxel's neighbours"),
    }
    return known.get(key, key)


def segmented(version: str, parameters: Mapping[str, Any]) -> str:
    """What came back from the server, and how good it probably is."""
    untrained = version == "untrained"
    text = _("Segmented by the untrained network.") if untrained else _("Segmented with version {version}.")
    parts = [text.format(version=version)]
    dice = parameters.get("expected_dice") or {}
    if dice.get("value") is not None:
        parts.append(_("Expected Dice of this volume: {value:.2f}").format(value=dice["value"]))
        if dice.get("low") is not None and dice.get("high") is not None:
            parts[-1] += " " + _("({low:.2f} to {high:.2f})").format(low=dice["low"], high=dice["high"])
        parts[-1] += "."
        parts += [_sentence(str(reason)) for reason in dice.get("reasons") or ()]
    removed = {name: size for name, size in (parameters.get("removed_ml") or {}).items() if size >= WORTH_TELLING}
    if removed:
        sizes = ", ".join(f"{name} {size:.1f} ml" for name, size in removed.items())
        parts.append(_("Small parts far from the rest were left out: {sizes}.").format(sizes=sizes))
    return " ".join([*parts, *map(str, parameters.get("warnings") or ())])


def prompted(structure: str, parameters: Mapping[str, Any]) -> str:
    """What came back for prompts."""
    text = _("'{structure}' segmented").format(structure=structure)
    if parameters.get("seconds") is not None:
        text += " " + _("in {seconds:.1f} s").format(seconds=parameters["seconds"])
    return " ".join([text + ".", *map(str, parameters.get("warnings") or ())])


def insight(kind: str) -> str:
    """How a view into the network is offered."""
    known = {
        "pca": _("Features as colours"),
        "attention": _("Attention"),
        "uncertainty": _("Uncertainty"),
    }
    return known.get(kind, kind)


def insightNote(kind: str) -> str:
    """What a view into the network means, for somebody who has to trust it."""
    known = {
        "pca": _("Tissue of one colour looks alike to the network; it can tell different colours apart."),
        "attention": _("Bright is where the network looks when it describes the volume as a whole."),
        "uncertainty": _("Bright is where the model is unsure of its own segmentation: look there first."),
    }
    return known.get(kind, "")


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


def _sentence(text: str) -> str:
    """The server's words as a sentence."""
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


def _figures(status: TrainStatus) -> list[str]:
    loss = [] if status.loss is None else [_("loss {loss:.3f}").format(loss=status.loss)]
    return loss + [f"{name.capitalize()} {value:.3f}" for name, value in status.metrics.items() if value is not None]
