"""What a version says about a whole volume, in words: a class, findings, a value, survival."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .errors import AnswerInvalid
from .translation import tr as _


def inWords(volume: str, answer: Mapping[str, Any], labels: Sequence[str]) -> str:
    """An answer with the version and the volume it is about: it stands there when another volume is looked at.

    :param volume: its name.
    :param answer: the server's: ``kind``, ``answer``, ``version``, ``warnings``.
    :param labels: of the version; the name of a value is the first one. Empty if unknown.
    :raises AnswerInvalid: if it is not an answer of its kind.
    """
    try:
        said = _WORDS[answer["kind"]](answer["answer"], labels)
    except (AttributeError, KeyError, TypeError, ValueError):
        raise AnswerInvalid(_("The server's answer cannot be read. Is the server newer than this module?")) from None
    text = _("Version {n}, research use, on '{volume}': {answer}.")
    said = text.format(n=answer.get("version", "?"), volume=volume, answer=said)
    return " ".join([said, *map(str, answer.get("warnings") or ())])


def _class(answer: Mapping[str, Any], labels: Sequence[str]) -> str:
    likeliest = str(answer["class"])
    probabilities = _sorted(answer["probabilities"])
    others = {name: value for name, value in probabilities.items() if name != likeliest}
    return _listed({likeliest: probabilities[likeliest]}) + (f" ({_listed(others)})" if others else "")


def _findings(answer: Mapping[str, Any], labels: Sequence[str]) -> str:
    probabilities = _sorted(answer["probabilities"])
    found = {name: value for name, value in probabilities.items() if name in answer["labels"]}
    others = {name: value for name, value in probabilities.items() if name not in found}
    text = _listed(found) if found else _("no finding")
    return text + (" " + _("(not found: {names})").format(names=_listed(others)) if others else "")


def _value(answer: Mapping[str, Any], labels: Sequence[str]) -> str:
    name = labels[0] if labels else _("value")
    return f"{name} {_number(answer['value'])} {answer.get('unit') or ''}".strip()


def _survival(answer: Mapping[str, Any], labels: Sequence[str]) -> str:
    each = _("{probability:.2f} after {time} {unit}")
    unit = answer.get("unit") or ""
    curve = [
        each.format(probability=float(point["probability"]), time=_number(point["time"]), unit=unit).strip()
        for point in answer["survival"]
    ]
    text = _("survival {curve}; risk {risk:.2f} (higher: earlier)")
    return text.format(curve=", ".join(curve), risk=float(answer["risk"]))


_WORDS = {
    "classification": _class,
    "multilabel": _findings,
    "regression": _value,
    "survival": _survival,
}


def _sorted(probabilities: Mapping[str, Any]) -> dict[str, float]:
    """The likeliest first."""
    pairs = ((str(name), float(value)) for name, value in probabilities.items())
    return dict(sorted(pairs, key=lambda pair: -pair[1]))


def _listed(probabilities: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.2f}" for name, value in probabilities.items())


def _number(value: Any) -> str:
    """Three digits, or all before the point if there are more."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
