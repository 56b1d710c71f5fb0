"""What Dice to expect of one segmentation; labelled volumes to check it against are made ready in the background."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from fm3d_core.errors import FM3DError
from fm3d_core.progress import ShouldStop
from MonaiLabelApp.lib.errors import Busy
from MonaiLabelApp.lib.lanes import Lane

if TYPE_CHECKING:
    from fm3d_core.adaptation import LabeledCase
    from fm3d_core.inference import Prediction, Predictor, References

logger = logging.getLogger(__name__)
KEPT = 4  # versions whose references stay; each has about a megabyte for a case
MOST_CASES = 8  # labelled volumes that are made ready for a version


class CaseJudge:
    """Judges segmentations.

    Args:
        lane: where labelled volumes are made ready.
        cases: finds those of the given ids that are still on the server.
    """

    def __init__(self, lane: Lane, cases: Callable[[Sequence[str]], list[LabeledCase]]) -> None:
        self._lane, self._cases, self._lock = lane, cases, threading.Lock()
        self._ready: OrderedDict[str, References | None] = OrderedDict()  # None: on its way, or there are none

    def judge(
        self, version: str, predictor: Predictor, prediction: Prediction, should_stop: ShouldStop
    ) -> dict[str, Any] | None:
        """The expected Dice with its interval and reasons; None if nothing can be said.

        Raises:
            Stopped: ``should_stop`` said so.
        """
        from fm3d_core.errors import Stopped
        from fm3d_core.inference import case_quality

        # one that has learned nothing is not known, and regions that overlap are not judged
        if not predictor.card.cases or not predictor.card.task.exclusive:
            return None
        references = self._references(version, predictor)
        try:
            return case_quality(predictor, prediction, references=references, should_stop=should_stop).to_dict()
        except Stopped:
            raise
        except FM3DError as error:
            logger.warning("The segmentation by version %s cannot be judged: %s", version, error)
            return None

    def _references(self, version: str, predictor: Predictor) -> References | None:
        """The labelled volumes, if they are ready; the first call sets off the work."""
        with self._lock:
            if version in self._ready:
                self._ready.move_to_end(version)
                return self._ready[version]
            self._ready[version] = None
            while len(self._ready) > KEPT:
                self._ready.popitem(last=False)
        try:
            self._lane.submit(lambda: self._make_ready(version, predictor))
        except Busy:
            with self._lock:
                self._ready.pop(version, None)
        return None

    def _make_ready(self, version: str, predictor: Predictor) -> None:
        from fm3d_core.inference import references_of

        try:
            cases = self._cases([used.name for used in predictor.card.cases][:MOST_CASES])
            references = references_of(predictor, cases) if cases else None
        except FM3DError as error:
            logger.warning("No labelled volume can be used to check version %s: %s", version, error)
            return
        with self._lock:
            if version in self._ready:
                self._ready[version] = references
