"""Adapters made ready, shared by all who segment: built once, the latest few kept."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING

from MonaiLabelApp.lib.adapters import Adapters
from MonaiLabelApp.lib.errors import Conflict

if TYPE_CHECKING:
    from fm3d_core.adaptation import Adapter
    from fm3d_core.inference import Predictor

KEPT = 2  # the active one and the one it is compared with; each holds a network


class Predictors:
    """The predictors of an adapter store.

    Args:
        adapters: the versions.
        structures: gives the names an adapter would have before there is one.
    """

    def __init__(self, adapters: Adapters, structures: Callable[[], tuple[str, ...]]) -> None:
        self._adapters, self._structures = adapters, structures
        self._kept: OrderedDict[str, Predictor] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, version: str) -> tuple[str, Predictor]:
        """A version's predictor.

        Args:
            version: "active", "untrained" or a number.

        Returns:
            The version by its number, or "untrained", and the predictor.

        Raises:
            Conflict: nothing was learned yet, or no structure is known.
            NotServed: there is no such version.
            FM3DError: the adapter cannot be used.
        """
        from fm3d_core.inference import Predictor

        version = self._resolved(version)
        key = f"{version} {self._structures()}" if version == "untrained" else version
        with self._lock:
            if key not in self._kept:
                self._kept[key] = Predictor(self._adapter(version))
                while len(self._kept) > KEPT:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(key)
            return version, self._kept[key]

    def _resolved(self, version: str) -> str:
        if version != "active":
            return version
        active = self._adapters.active()
        if active is None:
            raise Conflict(
                "nothing has been learned yet", remedy="Submit labelled volumes and press Train, then segment"
            )
        return str(active.version)

    def _adapter(self, version: str) -> Adapter:
        from fm3d_core.adaptation import FinetuneSettings, untrained_adapter
        from fm3d_core.tasks import SegmentationTask

        if version == "untrained":
            names = self._structures()
            if not names:
                raise Conflict(
                    "no structure is known yet", remedy="Start the server with labels or submit a labelled volume"
                )
            return untrained_adapter(SegmentationTask(names), FinetuneSettings())
        return self._adapters.store.load(self._adapters.find(int(version)).version)
