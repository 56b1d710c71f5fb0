"""What is known of images that wait for a label: how sure the network is, how much it finds, what they are like."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from monailabel.interfaces.tasks.scoring import ScoringMethod

from fm3d_core.errors import FM3DError, Stopped
from fm3d_core.files import atomic_file
from fm3d_core.progress import ProgressCallback, ShouldStop, StageClock, ignore_progress, never_stop
from MonaiLabelApp.lib.datastore import CheckedDatastore
from MonaiLabelApp.lib.errors import Conflict
from MonaiLabelApp.lib.predictors import Predictors
from MonaiLabelApp.lib.requests import SAFE_NAME

if TYPE_CHECKING:
    from fm3d_core.inference import Predictor

logger = logging.getLogger(__name__)
SCORES = "scores"  # the key in what is known of an image
UNSURE = 0.05  # of the uncertainty from 0 to 1: less is counted as sure
SECONDS_BETWEEN_LOOKS = 1.0


class ImageScoring(ScoringMethod):  # type: ignore[misc]
    """Scores images with the active adapter; before there is one, says only what they are like.

    Scores go into what the datastore knows of an image (``scores``): ``version``, ``uncertainty`` (mean of the voxels
    that belong to a structure or could), ``foreground`` (share of voxels found). What the image is like is a vector in
    a file of its own.

    Args:
        predictors: of the adapters.
        folder: of the vectors.
        busy: whether something runs that matters more; scoring waits then.
    """

    def __init__(self, predictors: Predictors, folder: Path, busy: Callable[[], bool] = never_stop) -> None:
        super().__init__("Uncertainty, foreground and features of the images, for the choice of the next one")
        self._predictors, self._folder, self._busy = predictors, folder, busy

    def __call__(self, request: Mapping[str, Any], datastore: CheckedDatastore) -> dict[str, Any]:
        """Score all images now; MONAI Label's own call."""
        return self.score(datastore)

    def score(
        self,
        datastore: CheckedDatastore,
        *,
        progress: ProgressCallback = ignore_progress,
        should_stop: ShouldStop = never_stop,
    ) -> dict[str, Any]:
        """Score every image that the active version has not seen yet.

        Returns:
            ``version``, ``scored`` and ``left_out`` (those that cannot be read, with the reason).

        Raises:
            Conflict: no structure is known, so there is no network to ask.
            Stopped: ``should_stop`` said so; what was scored stays.
        """
        try:
            version, predictor = self._predictors.get("active")
        except Conflict:
            version, predictor = self._predictors.get("untrained")
        labelled = set(datastore.get_labeled_images())
        images = sorted(datastore.list_images(), key=lambda image: (image in labelled, image))
        scored, left_out = 0, []
        clock = StageClock("scoring images", len(images), progress)
        for done, image in enumerate(images):
            clock.report(done)
            self._wait(should_stop)
            try:
                scored += self._score(image, image in labelled, version, predictor, datastore, should_stop)
            except Stopped:
                raise
            except FM3DError as error:
                left_out.append(f"{image}: {error.problem}")
        clock.report(len(images))
        return {"version": version, "scored": scored, "left_out": left_out}

    def vectors(self, images: Sequence[str]) -> dict[str, npt.NDArray[np.float32]]:
        """What images are like, as far as it is known; all by one backbone."""
        found = {image: self._read(image) for image in images}
        known = {image: vector for image, vector in found.items() if vector is not None}
        widths = [len(vector) for vector in known.values()]
        return {image: vector for image, vector in known.items() if len(vector) == max(widths, key=widths.count)}

    def _score(
        self,
        image: str,
        labelled: bool,
        version: str,
        predictor: Predictor,
        datastore: CheckedDatastore,
        should_stop: ShouldStop,
    ) -> bool:
        """Score one image, unless this version has done so already; whether anything was computed."""
        from fm3d_core.inference.embedding import image_embedding
        from fm3d_core.volumes import read_volume

        path = datastore.image_file(image)
        known = datastore.get_image_info(image).get(SCORES, {})
        if known.get("version") == version and known.get("stamp") == path.stat().st_mtime_ns:
            return False
        volume = read_volume(path, allow_nonfinite=True)
        scores: dict[str, Any] = {"version": version, "stamp": path.stat().st_mtime_ns, "ts": int(time.time())}
        if version != "untrained" and not labelled:
            prediction = predictor.predict(volume, should_stop=should_stop)
            counted = (prediction.labels > 0) | (prediction.uncertainty > UNSURE)
            unsure = float(prediction.uncertainty[counted].mean()) if counted.any() else 0.0
            scores |= {"uncertainty": round(unsure, 5), "foreground": round(float((prediction.labels > 0).mean()), 6)}
        self._write(image, image_embedding(predictor, volume, should_stop=should_stop))
        datastore.update_image_info(image, {SCORES: scores})
        return True

    def _wait(self, should_stop: ShouldStop) -> None:
        while self._busy():
            if should_stop():
                break
            time.sleep(SECONDS_BETWEEN_LOOKS)
        if should_stop():
            raise Stopped("Scoring")

    def _write(self, image: str, vector: npt.NDArray[np.float32]) -> None:
        with atomic_file(self._folder / _file_name(image)) as temporary:
            np.save(temporary, vector, allow_pickle=False)

    def _read(self, image: str) -> npt.NDArray[np.float32] | None:
        try:
            vector: npt.NDArray[np.float32] = np.load(self._folder / _file_name(image), allow_pickle=False)
        except (OSError, ValueError):
            return None
        return vector if vector.ndim == 1 else None


def _file_name(image: str) -> str:
    """A plain file name for any id; files put into the folder by hand may be called anything."""
    import hashlib

    if SAFE_NAME.fullmatch(image):
        return f"{image}.npy"
    return f".{hashlib.sha256(image.encode()).hexdigest()[:32]}.npy"
