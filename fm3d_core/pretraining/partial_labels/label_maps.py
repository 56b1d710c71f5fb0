"""Label maps as data: which structure each label value of a set stands for, and which value joins left and right."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fm3d_core.errors import SettingsError
from fm3d_core.strict_settings import read_yaml

PUBLISHED = Path(__file__).parent / "label_maps.yaml"
MOST_STRUCTURES = 255  # a prepared label voxel is a byte, 0 is background


@dataclass(frozen=True)
class LabelMap:
    """How one set is labelled.

    Attributes:
        name: of the set, or of the sets that are labelled like it.
        values: label value -> structure.
        left_right: label value that stands for both sides -> structure of the left side.
        ignored: label values that become background.
        group: what is balanced: sets of one group take one place in the round robin; "" for the set's own name.
        zoom: whether crops of the set are magnified at random.
        about: one line.
    """

    name: str
    values: Mapping[int, str]
    left_right: Mapping[int, str] = field(default_factory=dict)
    ignored: tuple[int, ...] = ()
    group: str = ""
    zoom: bool = False
    about: str = ""

    @property
    def structures(self) -> frozenset[str]:
        """What is annotated in a set of this map: the only structures whose loss counts there."""
        return frozenset(self.values.values()) | frozenset(self.left_right.values())

    @property
    def known_values(self) -> dict[int, str]:
        """All values that may occur beside 0, with their meaning."""
        return {**self.values, **dict.fromkeys(self.ignored, "ignored")}


@dataclass(frozen=True)
class LabelMaps:
    """A list of structures and the sets that label some of them.

    Attributes:
        structures: name -> readable name, in order; structure i of it (from 1) is voxel value i of prepared labels.
        sets: name -> map.
        path: the file, for messages.
    """

    structures: Mapping[str, str]
    sets: Mapping[str, LabelMap]
    path: Path

    def find(self, name: str) -> LabelMap:
        """The map called ``name``; upper and lower case do not matter.

        Raises:
            SettingsError: none is called so.
        """
        for known, label_map in self.sets.items():
            if known.casefold() == name.casefold():
                return label_map
        raise SettingsError(
            f"no label map is called '{name}'",
            path=self.path,
            remedy=f"Known are {', '.join(self.sets)}; write a YAML file of the same form for others",
        )

    def value_of(self, structure: str) -> int:
        """The voxel value of a structure in prepared labels."""
        return list(self.structures).index(structure) + 1

    def union(self, maps: Iterable[LabelMap]) -> tuple[str, ...]:
        """The structures that any of ``maps`` labels, in the order of the list."""
        annotated = frozenset().union(*(label_map.structures for label_map in maps))
        return tuple(name for name in self.structures if name in annotated)

    def fingerprint(self, label_map: LabelMap) -> str:
        """Changes when prepared labels of ``label_map`` would change: a part of their key."""
        values = {value: self.value_of(name) for value, name in sorted(label_map.values.items())}
        sides = {value: self.value_of(name) for value, name in sorted(label_map.left_right.items())}
        text = json.dumps([values, sides, sorted(label_map.ignored)])
        return hashlib.sha256(text.encode()).hexdigest()


def read_label_maps(path: str | Path | None = None) -> LabelMaps:
    """Read label maps; None for the published ones (29 structures; FSEFT's table of sets).

    Raises:
        SettingsError: unreadable, an unknown key, a structure that is not in the list, or an impossible value.
    """
    path = Path(path) if path else PUBLISHED
    content = read_yaml(path, "is no readable list of label maps", "Give a YAML file")
    if not isinstance(content, dict) or set(content) != {"structures", "sets"}:
        raise SettingsError("is no list of label maps", path=path, remedy="Write structures: and sets:, nothing else")
    structures, sets = content["structures"], content["sets"]
    if not isinstance(structures, dict) or not 1 <= len(structures) <= MOST_STRUCTURES or not isinstance(sets, dict):
        raise SettingsError(
            "structures or sets are no mappings", path=path, remedy="Write {name: readable name} with 1 to 255 entries"
        )
    names = {str(name): str(readable or name) for name, readable in structures.items()}
    return LabelMaps(
        names, {str(name): _label_map(str(name), entry, names, path) for name, entry in sets.items()}, path
    )


def _label_map(name: str, entry: Any, structures: Mapping[str, str], path: Path) -> LabelMap:
    known = {"about", "values", "left_right", "ignored", "group", "zoom"}
    if not isinstance(entry, dict) or not entry.get("values") or not set(entry) <= known:
        raise SettingsError(
            f"set '{name}' is no label map", path=path, remedy=f"It needs values and may have {sorted(known)}"
        )
    values = _structures_of(name, entry["values"], structures, path)
    left_right = _structures_of(name, entry.get("left_right") or {}, structures, path)
    ignored = tuple(_value(name, value, path) for value in entry.get("ignored") or ())
    if lost := sorted(set(left_right) - set(values)):
        raise SettingsError(
            f"set '{name}' splits the value {lost[0]} that is not among its values",
            path=path,
            remedy="Name the structure of the right side in values, that of the left side in left_right",
        )
    if twice := sorted(set(ignored) & set(values)):
        raise SettingsError(f"set '{name}' both ignores and names the value {twice[0]}", path=path, remedy="Choose")
    return LabelMap(
        name,
        values,
        left_right,
        ignored,
        group=str(entry.get("group", "")),
        zoom=bool(entry.get("zoom", False)),
        about=str(entry.get("about", "")),
    )


def _structures_of(name: str, entry: Any, structures: Mapping[str, str], path: Path) -> dict[int, str]:
    if not isinstance(entry, dict):
        raise SettingsError(f"set '{name}' has {entry!r} for values", path=path, remedy="Write {1: liver}")
    for structure in entry.values():
        if structure not in structures:
            raise SettingsError(
                f"set '{name}' names '{structure}', which is not among the structures",
                path=path,
                remedy="Add it to structures or correct the name",
            )
    return {_value(name, value, path): str(structure) for value, structure in entry.items()}


def _value(name: str, value: Any, path: Path) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MOST_STRUCTURES:
        raise SettingsError(f"set '{name}' has the label value {value!r}", path=path, remedy="Values go from 1 to 255")
    return value
