"""Weights that come with the package: ``shipped/index.yaml`` names them, ``shipped/MODEL_CARD.md`` tells of them.

A file is never replaced or removed, because adapters refer to it by its hash; better weights get a new entry, and the
first entry of a backbone is its default.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from fm3d_core.errors import WeightsError

FOLDER = Path(__file__).parent / "shipped"


@dataclass(frozen=True)
class ShippedWeights:
    """One of them.

    Attributes:
        id: how users call it.
        file: name in the folder; float16 safetensors in our own layout.
        sha256: of the file.
        backbone: the preset it is for, of one image channel.
        about: one line.
        licence: of the weights.
    """

    id: str
    file: str
    sha256: str
    backbone: str
    about: str
    licence: str

    @property
    def path(self) -> Path:
        """The file."""
        return FOLDER / self.file


@cache
def shipped_weights() -> dict[str, ShippedWeights]:
    """All that come with this version, by id."""
    import yaml

    entries = yaml.safe_load((FOLDER / "index.yaml").read_text(encoding="utf-8")) or {}
    return {id: ShippedWeights(id=id, **entry) for id, entry in entries.items()}


def shipped_for(backbone: str) -> ShippedWeights | None:
    """The default weights of a preset; None if none come with the package."""
    return next((entry for entry in shipped_weights().values() if entry.backbone == backbone), None)


def shipped_with_hash(sha256: str) -> ShippedWeights | None:
    """The weights with this hash, checked to be what was shipped; None if they are no shipped ones.

    Raises:
        WeightsError: the installed file is missing or was changed.
    """
    from fm3d_core.files import sha256_of

    entry = next((entry for entry in shipped_weights().values() if entry.sha256 == sha256), None)
    if entry is not None and (not entry.path.is_file() or sha256_of(entry.path) != sha256):
        raise WeightsError(
            f"the weights {entry.id} that come with FM3D are missing or were changed",
            path=entry.path,
            remedy="Install FM3D again",
        )
    return entry
