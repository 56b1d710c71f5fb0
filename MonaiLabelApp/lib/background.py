"""What the server does when nobody waits for it: comparing versions, scoring images."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

from fm3d_core.progress import ProgressCallback, ShouldStop
from MonaiLabelApp.lib.adapters import Adapters
from MonaiLabelApp.lib.cases import chosen_cases, labelled_cases
from MonaiLabelApp.lib.comparison import compare_versions
from MonaiLabelApp.lib.datastore import CheckedDatastore
from MonaiLabelApp.lib.errors import Busy, NotServed
from MonaiLabelApp.lib.jobs import Job, Jobs
from MonaiLabelApp.lib.lanes import Lanes
from MonaiLabelApp.lib.recipes.offered import find_recipe
from MonaiLabelApp.lib.scoring import ImageScoring
from MonaiLabelApp.lib.trainers.recipe import check
from MonaiLabelApp.lib.training.record import Training

SCORING = "images"


class Background:
    """Starts the background jobs.

    Args:
        jobs: takes them.
        lanes: in which they run.
        adapters: the versions.
        scoring: of the images.
        datastore: gives the images and labels.

    Attributes:
        last_scoring: None: there was none yet.
    """

    def __init__(
        self,
        jobs: Jobs,
        lanes: Lanes,
        adapters: Adapters,
        scoring: ImageScoring,
        datastore: Callable[[], CheckedDatastore],
    ) -> None:
        self._jobs, self._lanes, self._adapters = jobs, lanes, adapters
        self._scoring, self._datastore = scoring, datastore
        self.last_scoring: Job | None = None

    def compare(self, a: int, b: int, wanted: Sequence[str] | None) -> Job:
        """Compare two versions on submitted cases; None: on all.

        Raises:
            NotServed: there is no such version.
            UnknownImage, Conflict: a case that is not there or has no label.
        """
        for version in (a, b):
            self._adapters.find(version)
        ids = chosen_cases(self._datastore(), wanted)

        def work(progress: ProgressCallback, should_stop: ShouldStop) -> dict[str, Any]:
            cases, left_out = labelled_cases(ids, self._datastore())
            store = self._adapters.store
            compared = compare_versions(store, (a, b), cases, progress=progress, should_stop=should_stop)
            return {**compared, "left_out": left_out}

        return self._jobs.start("compare", work)

    def score(self, method: str = SCORING) -> Job:
        """Score the images; a scoring that still runs is cancelled.

        Raises:
            NotServed: another method.
            Busy: too many wait already.
        """
        if method != SCORING:
            raise NotServed(f"there is no scoring '{method[:64]}'", remedy=f"Use {SCORING}")

        def work(progress: ProgressCallback, should_stop: ShouldStop) -> dict[str, Any]:
            return self._scoring.score(self._datastore(), progress=progress, should_stop=should_stop)

        if self.last_scoring is not None:
            self.last_scoring.cancel()
        self.last_scoring = self._jobs.start("scoring", work, self._lanes.scoring)
        return self.last_scoring

    def check_recipe(self, name: str) -> Job:
        """Compare what is here with a recipe, without training.

        Raises:
            NotServed: there is no such recipe.
            Busy: too many wait already.
        """
        find_recipe(name)

        def work(progress: ProgressCallback, should_stop: ShouldStop) -> dict[str, Any]:
            return dict(check(name, self._datastore(), progress, should_stop))

        return self._jobs.start("check", work)

    def training_ended(self, training: Training) -> None:
        """Told of each training that has ended: what the new version thinks of the images is asked next."""
        if training.state.state == "done":
            with contextlib.suppress(Busy):
                self.score()
