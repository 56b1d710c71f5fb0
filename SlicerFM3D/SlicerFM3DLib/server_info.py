"""What a MONAI Label server says about itself, reduced to what the panel needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .client import FINAL, MODEL, WHOLE_VOLUME, ServerClient
from .recipes import Recipe
from .versions import Version


def labelValues(labels: Mapping[str, int] | Sequence[str]) -> dict[str, int]:
    """Structure name -> voxel value, from either form MONAI Label uses: a mapping, or names for 1, 2, ..."""
    if isinstance(labels, Mapping):
        pairs = sorted((int(value), str(name)) for name, value in labels.items())
        return {name: value for value, name in pairs if value > 0}
    return {str(name): value for value, name in enumerate((n for n in labels if n != "background"), start=1)}


@dataclass(frozen=True)
class ServerInfo:
    """The panel's view of ``/info/``.

    Attributes:
        name, version: the app's.
        labels: the structures' names in the order of their values.
        versions: what may be asked to segment: ``active``, ``untrained``, ``1``, ...
        answering: versions about whole volumes, which answer a question and segment nothing: ``4``, ...
        choices: settings of a training to choose from, the default first (``{"method": ("lora", "full")}``).
        seconds: the training time the server suggests, None if it has no say.
        strategies: ways to choose the next volume.
        models: what it can compute: ``segmentation``, ``interactive``, ...
        total, labelled: volumes the server has, and those with a submitted label.
        labelledCases: their ids; empty unless :meth:`ask` has asked for them.
        adapters: what was learned, newest first; empty where the server keeps no versions.
        recipes: published trainings to choose from.
    """

    name: str
    version: str
    labels: tuple[str, ...]
    versions: tuple[str, ...]
    choices: dict[str, tuple[str, ...]]
    seconds: int | None
    strategies: tuple[str, ...]
    total: int
    labelled: int
    models: tuple[str, ...] = ()
    answering: tuple[str, ...] = ()
    labelledCases: tuple[str, ...] = ()
    adapters: tuple[Version, ...] = ()
    recipes: tuple[Recipe, ...] = ()

    @classmethod
    def ask(cls, client: ServerClient) -> ServerInfo:
        """What the server says about itself, its cases and its versions."""
        info = cls.parse(client.info())
        objects = client.datastore()
        labelled = sorted(identifier for identifier, entry in objects.items() if FINAL in (entry.get("labels") or {}))
        recipes = client.recipes() if "recipe" in info.choices else ()
        return replace(info, labelledCases=tuple(labelled), adapters=client.versions(), recipes=recipes)

    @classmethod
    def parse(cls, info: Mapping[str, Any]) -> ServerInfo:
        model = info["models"].get(MODEL) or {}
        about = (info["models"].get(WHOLE_VOLUME) or {}).get("config") or {}
        training = ((info.get("trainers") or {}).get(MODEL) or {}).get("config") or {}
        lists = {key: value for key, value in training.items() if isinstance(value, (list, tuple)) and value}
        seconds = training.get("seconds")
        datastore = info.get("datastore") or {}
        return cls(
            name=str(info.get("name") or "MONAI Label"),
            version=str(info.get("version") or ""),
            labels=tuple(labelValues(model.get("labels") or info.get("labels") or ())),
            versions=tuple(map(str, (model.get("config") or {}).get("version") or ("active", "untrained"))),
            choices={key: tuple(map(str, value)) for key, value in lists.items()},
            seconds=int(seconds) if isinstance(seconds, (int, float)) else None,
            strategies=tuple(info.get("strategies") or ()),
            total=int(datastore.get("total") or 0),
            labelled=int(datastore.get("completed") or 0),
            models=tuple(info["models"]),
            answering=tuple(str(version) for version in about.get("version") or () if str(version).isdigit()),
        )

    @property
    def hasLearned(self) -> bool:
        """Whether there is an adapter to segment with."""
        return bool(self.adapters) or any(version.isdigit() for version in self.versions)

    @property
    def offered(self) -> tuple[str, ...]:
        """What may be asked about a volume, to segment it or to answer: numbers come last, in their order."""
        numbers = [version for version in self.versions if version.isdigit()] + list(self.answering)
        others = (version for version in self.versions if not version.isdigit())
        return (*others, *sorted(numbers, key=int))

    def answers(self, version: str) -> bool:
        """Whether this version answers a question about the whole volume."""
        if version == "active" and self.active is not None:
            version = str(self.active.number)
        return version in self.answering

    def labelsOf(self, version: str) -> tuple[str, ...]:
        """What a version knows by name; empty if the server has not said."""
        return next((known.labels for known in self.adapters if str(known.number) == version), ())

    @property
    def active(self) -> Version | None:
        """The version that segments unless another one is asked for."""
        return next((version for version in self.adapters if version.active), None)
