"""Dataclasses from plain data, read strictly: an unknown key or a wrong value at any depth is named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, make_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

from fm3d_core.errors import SettingsError

_T = TypeVar("_T")


def validated(kind: type[_T], content: Mapping[str, Any], *, path: Path | None = None, place: str = "") -> _T:
    """An instance of the dataclass ``kind`` from plain data; unknown keys are refused at every depth.

    Raises:
        SettingsError: naming the first key that is unknown, missing or wrong, below ``place``.
    """
    from pydantic import TypeAdapter, ValidationError

    config = {"__pydantic_config__": {"extra": "forbid"}}  # of the wrapper; what is inside inherits it
    wrapper = make_dataclass("Wrapper", [("content", kind)], namespace=config)
    try:
        whole: Any = TypeAdapter(wrapper).validate_python({"content": dict(content)})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in ((place,) if place else ()) + first["loc"][1:]) or "the settings"
        unknown = first["type"] in ("unexpected_keyword_argument", "extra_forbidden")
        problem = "is not a known key" if unknown else _lower(first["msg"])
        raise SettingsError(f"{where}: {problem}", path=path, remedy=_remedy(kind, first, unknown)) from None
    result: _T = whole.content
    return result


def read_yaml(
    path: str | Path, problem: str = "cannot be read as YAML: {reason}", remedy: str = "Correct the file"
) -> Any:
    """What a YAML file holds, as plain data.

    Args:
        path: of the file.
        problem, remedy: of the error if it cannot be read; "{reason}" stands for what the system or YAML says.

    Raises:
        SettingsError: no such file, or no YAML.
    """
    import yaml

    try:
        return yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise SettingsError(problem.replace("{reason}", reason), path=path, remedy=remedy) from error


def put_in(content: dict[str, Any], override: str) -> None:
    """Change nested plain data in place by one "key.below=value"; the value is read as YAML.

    Raises:
        SettingsError: it is no such text, or a part of the key is a value.
    """
    import yaml

    key, equals, text = override.partition("=")
    if not equals or not all(key.split(".")):
        raise SettingsError(
            f"--set {override} is not KEY=VALUE", remedy="Write for example --set settings.schedule.epochs=2"
        )
    *parents, last = key.split(".")
    place = content
    for name in parents:
        inner = place.get(name)
        if inner is None:
            inner = place[name] = {}
        if not isinstance(inner, dict):
            raise SettingsError(
                f"--set {override}: {name} is a value and has nothing below it", remedy="Shorten the key"
            )
        place = inner
    try:
        place[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise SettingsError(f"--set {override}: the value is not YAML", remedy="Quote it") from error


def _lower(message: str) -> str:
    return message[:1].lower() + message[1:]


def _remedy(kind: type[Any], error: Mapping[str, Any], unknown: bool) -> str:
    if not unknown:
        return "Correct it in the file or with --set"
    names = _names_beside(kind, error["loc"][1:-1])
    return f"Known here: {', '.join(names)}" if names else "Leave it out"


def _names_beside(kind: Any, above: Sequence[Any]) -> list[str]:
    """The field names of the dataclass that lies at ``above`` in ``kind``."""
    for step in above:
        options = [kind, *get_args(kind)]
        found = next((option for option in options if is_dataclass(option)), None)
        if found is None or not isinstance(found, type):
            return []
        kind = get_type_hints(found).get(str(step), kind)
    found = next((option for option in [kind, *get_args(kind)] if is_dataclass(option)), None)
    return [] if found is None else [item.name for item in fields(found)]
