"""Which image is labelled next: what the network is least sure of, what is least like the labelled ones, or both."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from monailabel.interfaces.tasks.strategy import Strategy
from monailabel.tasks.activelearning.first import First
from monailabel.tasks.activelearning.random import Random

from MonaiLabelApp.lib.datastore import CheckedDatastore
from MonaiLabelApp.lib.scoring import SCORES, ImageScoring

GIVEN_SECONDS = 600  # an image that somebody was given so long ago is offered again
Vectors = Mapping[str, npt.NDArray[np.float32]]


def all_strategies(scoring: ImageScoring) -> dict[str, Strategy]:
    """Name -> strategy; the first is what clients offer first."""
    return {
        "random": Random(),
        "first": First(),
        "foreground": ForegroundRandom(),
        "uncertainty": Uncertainty(),
        "diversity": Diversity(scoring),
        "hybrid": Hybrid(scoring),
    }


class _Ranked(Strategy):  # type: ignore[misc]
    """Gives the image of the highest value among those that nobody was given just now.

    What is not scored yet is chosen at random, and the answer says so.
    """

    def __call__(self, request: Mapping[str, Any], datastore: CheckedDatastore) -> dict[str, Any] | None:
        """The next image: ``id``, ``weight`` (its value), ``note`` if there was nothing to rank by; None: all done."""
        images = sorted(datastore.get_unlabeled_images())
        if not images:
            return None
        recently = {image for image in images if _given(image, datastore)}
        values = self.values(images, datastore)
        if not values:
            image = random.choice([each for each in images if each not in recently] or images)
            return {"id": image, "weight": 0.0, "note": self.missing}
        fresh = [image for image in values if image not in recently] or list(values)
        image = self.choose(fresh, values)
        return {"id": image, "weight": round(values[image], 5)}

    missing = "Images are not scored yet, so one was chosen at random. Scores are made after each training."

    def values(self, images: Sequence[str], datastore: CheckedDatastore) -> dict[str, float]:
        """Value of each image that is scored."""
        raise NotImplementedError

    def choose(self, images: Sequence[str], values: Mapping[str, float]) -> str:
        """One of ``images``."""
        return max(images, key=lambda image: values[image])


class ForegroundRandom(_Ranked):
    """At random among the images in which something was found; the others are labelled for little."""

    def __init__(self) -> None:
        super().__init__("Random among images in which a structure was found")

    def values(self, images: Sequence[str], datastore: CheckedDatastore) -> dict[str, float]:
        """Share of voxels found."""
        return _scores("foreground", images, datastore)

    def choose(self, images: Sequence[str], values: Mapping[str, float]) -> str:
        """Any with something in it, if there is one."""
        return random.choice([image for image in images if values[image] > 0] or list(images))


class Uncertainty(_Ranked):
    """The image whose structures the network is least sure of."""

    def __init__(self) -> None:
        super().__init__("The image that the network is least sure of")

    def values(self, images: Sequence[str], datastore: CheckedDatastore) -> dict[str, float]:
        """Mean uncertainty of the voxels that belong to a structure or could."""
        return _scores("uncertainty", images, datastore)


class Diversity(_Ranked):
    """The image that is farthest from all labelled ones: a step of k-center greedy (Sener and Savarese 2018).

    Args:
        scoring: knows what images are like.
    """

    def __init__(self, scoring: ImageScoring) -> None:
        super().__init__("The image that is least like the labelled ones")
        self._scoring = scoring

    def values(self, images: Sequence[str], datastore: CheckedDatastore) -> dict[str, float]:
        """Distance to the nearest labelled image; without any, how central an image is."""
        covered = [*datastore.get_labeled_images(), *(image for image in images if _given(image, datastore))]
        return distances(self._scoring.vectors([*images, *covered]), images, covered)


class Hybrid(_Ranked):
    """Least sure and least like the labelled ones together: the sum of both ranks.

    Args:
        scoring: knows what images are like.
    """

    def __init__(self, scoring: ImageScoring) -> None:
        super().__init__("Least sure and least like the labelled ones together")
        self._parts = (Uncertainty(), Diversity(scoring))

    def values(self, images: Sequence[str], datastore: CheckedDatastore) -> dict[str, float]:
        """Sum of the ranks, each from 0 to 1."""
        parts = [part.values(images, datastore) for part in self._parts]
        known = [image for image in images if all(image in part for part in parts)]
        ranks = [_ranks([part[image] for image in known]) for part in parts]
        return {image: float(sum(rank[i] for rank in ranks)) for i, image in enumerate(known)}


def distances(vectors: Vectors, images: Sequence[str], covered: Sequence[str]) -> dict[str, float]:
    """Distance of each image to the nearest covered one; with none covered, minus that to the mean of all.

    Args:
        vectors: of unit length, by image.
        images: those to choose from.
        covered: those that are labelled or about to be.
    """
    known = [image for image in images if image in vectors]
    if not known:
        return {}
    table = np.stack([vectors[image] for image in known])
    centres = [vectors[image] for image in covered if image in vectors]
    if not centres:
        return dict(zip(known, (-np.linalg.norm(table - table.mean(axis=0), axis=1)).tolist(), strict=True))
    apart = np.linalg.norm(table[:, None] - np.stack(centres)[None], axis=2).min(axis=1)
    return dict(zip(known, apart.tolist(), strict=True))


def _scores(name: str, images: Sequence[str], datastore: CheckedDatastore) -> dict[str, float]:
    found = {image: datastore.get_image_info(image).get(SCORES, {}).get(name) for image in images}
    return {image: float(value) for image, value in found.items() if value is not None}


def _given(image: str, datastore: CheckedDatastore) -> bool:
    """Whether somebody was given the image just now."""
    given = datastore.get_image_info(image).get("strategy", {})
    return any(time.time() - each.get("ts", 0) < GIVEN_SECONDS for each in given.values())


def _ranks(values: Sequence[float]) -> npt.NDArray[np.float64]:
    """0 for the lowest to 1 for the highest; equal values have equal ranks."""
    ordered = sorted(set(values))
    places = [ordered.index(value) for value in values]
    return np.array(places, np.float64) / max(len(ordered) - 1, 1)
