"""The catalogue of public weight files, as typed entries."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

from fm3d_core.errors import SettingsError


@dataclass(frozen=True)
class HubSource:
    """A file on Hugging Face: repository ``owner/name``, revision (commit or branch), path in it."""

    repo: str
    revision: str
    file: str


@dataclass(frozen=True)
class NetworkInput:
    """What the network was fed with in pretraining, as numbers.

    Attributes:
        range: the values for the two ends of the intensities.
        window: these ends for CT, in HU; None: percentiles of the volume.
        spacing: mm per voxel; None: the file's own.
        crop: voxels that the network saw at once; None where it is not known.
    """

    range: tuple[float, float]
    window: tuple[float, float] | None = None
    spacing: tuple[float, float, float] | None = None
    crop: tuple[int, int, int] | None = None


@dataclass(frozen=True)
class HeadLayout:
    """The classifier in a file.

    Attributes:
        name: of the layer, after the renaming.
        rule, classes: see :class:`fm3d_core.models.weights.known_head.KnownHead`.
    """

    name: str
    rule: Literal["sigmoid", "softmax"]
    classes: tuple[str, ...]


@dataclass(frozen=True)
class WeightEntry:
    """One kind of public weight file; ``catalogue.yaml`` says what each field means.

    Attributes:
        source: a :class:`HubSource`, a URL that can be downloaded, or None where a person must download from ``page``.
        page: where a person can look at it or get it.
        megabytes: None where it is not known.
        chunked, gated: None where they do not apply.
        input: None where it is not known.
        head: the classifier that a file brings; None if it has none whose rows have known names.
    """

    id: str
    backbone: str
    wrapper: str | None
    encoder: str
    unused: str
    properties: Mapping[str, Any]
    rename: tuple[tuple[str, str], ...] = ()
    chunked: str | None = None
    signature: str = ""
    about: str = ""
    files: tuple[str, ...] = ()
    source: HubSource | str | None = None
    page: str = ""
    megabytes: int | None = None
    licence: str = ""
    terms: str = ""
    citation: str = ""
    gated: str | None = None
    preprocessing: Mapping[str, str] = field(default_factory=dict)
    input: NetworkInput | None = None
    head: HeadLayout | None = None

    @property
    def licence_and_terms(self) -> str:
        """The licence's name, and what else should be known of it."""
        return f"{self.licence} ({self.terms})" if self.terms else self.licence

    def renamed(self, name: str) -> str:
        """The name that a tensor of the file has in our backbone."""
        for pattern, replacement in self.rename:
            name = re.sub(pattern, replacement, name)
        return name


def read_catalogue(text: str) -> dict[str, WeightEntry]:
    """Entries by id from YAML text, in its order."""
    import yaml

    return {id: _entry(id, data) for id, data in yaml.safe_load(text).items()}


@cache
def catalogue() -> dict[str, WeightEntry]:
    """All public weight files by id."""
    return read_catalogue((Path(__file__).parent / "catalogue.yaml").read_text(encoding="utf-8"))


def find_entry(id: str) -> WeightEntry:
    """The entry with this id.

    Raises:
        SettingsError: there is none.
    """
    if id not in catalogue():
        raise SettingsError(f"unknown weights '{id}'", remedy=f"Choose one of: {', '.join(catalogue())}")
    return catalogue()[id]


def _entry(id: str, data: dict[str, Any]) -> WeightEntry:
    place = data["source"]
    hub = HubSource(**place["hub"]) if "hub" in place else None
    page = place.get("page") or (f"https://huggingface.co/{hub.repo}" if hub else place["url"])
    head = data.get("head")
    fed = {name: tuple(values) for name, values in data["input"].items()} if data.get("input") else None
    return WeightEntry(
        **{
            **data,
            "id": id,
            "source": hub or place.get("url"),
            "page": page,
            "input": NetworkInput(**fed) if fed else None,
            "head": HeadLayout(**{**head, "classes": tuple(head["classes"])}) if head else None,
            "files": tuple(data["files"]),
            "rename": tuple((pattern, replacement) for pattern, replacement in data["rename"]),
        }
    )
