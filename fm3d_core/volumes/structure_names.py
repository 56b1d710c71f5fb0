"""What a structure is called: the many names of one anatomical structure, and the one they stand for here."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path


def canonical_name(name: str) -> str:
    """The one name of a structure that has several; a name that ``structure_names.yaml`` does not know, as it is
    written there it would be: lower case, words joined by "_".

    ``right kidney``, ``kidney_right``, ``Kidney (R)`` and ``rkidney`` are all ``right_kidney``.
    """
    plain = _plain(name)
    return _canonical_of().get(plain, plain)


@cache
def _canonical_of() -> dict[str, str]:
    import yaml

    text = (Path(__file__).parent / "structure_names.yaml").read_text(encoding="utf-8")
    known: dict[str, str] = {}
    for canonical, others in yaml.safe_load(text).items():
        for name in (canonical, *others):
            assert known.setdefault(_plain(name), canonical) == canonical, f"{name} stands for two structures"
    return known


def _plain(name: str) -> str:
    """Lower case, one "_" between words, sides written out and first: "Kidney (R)" -> "right_kidney"."""
    words = [word for word in re.split(r"[^a-z0-9]+", name.lower()) if word]
    sides = {"r": "right", "rt": "right", "l": "left", "lt": "left"}
    words = [sides.get(word, word) for word in words]
    side = [word for word in words if word in ("right", "left")]
    return "_".join([*side, *(word for word in words if word not in ("right", "left"))])
