"""``fm3d segment``: find a structure from points, scribbles or a box, without any training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from fm3d_core.errors import SettingsError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from fm3d_core.inference.interactive import Prompts
    from fm3d_core.volumes import Volume

_Position = tuple[float, float, float]


@dataclass(frozen=True)
class Segment:
    """Segment one structure that you show, known or not: fm3d segment scan.nii.gz --inside 12.5 -30 44

    Positions are RAS in mm (to the patient's right, front and head), as 3D Slicer shows them at a point's "RAS".
    Each further point makes the result better: --inside where it was missed, --outside where too much was taken.

    Attributes:
        image: an image file or a folder of one DICOM series.
        inside: positions in the structure: R A S, as many as you like one after the other.
        outside: positions that are not the structure.
        box: two corners, R A S R A S: nothing of the structure lies outside.
        scribbles: a label file on the image's grid: 1 painted in the structure, 2 painted outside of it.
        correct: a label file on the image's grid to correct; it changes near the points only.
        structure: take the structure of this name from the active adapter (or --adapter) and correct that.
        adapter: an adapter folder, for --structure.
        store: folder of the adapter versions, for --structure.
        out: the result, on the image's own grid; by default beside where you are, named like the image.
        frame: which frame of a 4D file, counted from 0.
        device: auto, cpu or cuda.
    """

    image: tyro.conf.Positional[Path]
    inside: tuple[_Position, ...] = ()
    outside: tuple[_Position, ...] = ()
    box: tuple[float, float, float, float, float, float] | None = None
    scribbles: Path | None = None
    correct: Path | None = None
    structure: str | None = None
    adapter: Path | None = None
    store: Path | None = None
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    frame: int | None = None
    device: str = "auto"

    def run(self) -> None:
        """Segment and write."""
        from rich.console import Console

        from fm3d_core.cli.console import progress_bar
        from fm3d_core.inference.interactive import FeatureVolume, segment_from_prompts
        from fm3d_core.volumes import read_volume, write_label

        if self.correct is not None and self.structure is not None:
            raise SettingsError("both --correct and --structure are given", remedy="Give one of them")
        if self.structure is None and (self.adapter is not None or self.store is not None):
            raise SettingsError("an adapter is given, but no --structure of it", remedy="Name the structure")
        console = Console()
        volume = read_volume(self.image, frame=self.frame)
        target = self.out or Path(f"{volume.name}_segmentation.nii.gz")
        if target.exists():
            raise SettingsError(f"{target} exists", remedy="Choose another --out")
        prior, given = self._probability(volume), None if self.correct is None else self._label(self.correct, volume)
        with progress_bar(console) as show:
            found = segment_from_prompts(
                volume,
                FeatureVolume(volume, device=self.device),
                self._prompts(volume),
                given=given,
                prior=prior,
                progress=show,
            )
        write_label(target, found, like=volume)
        millilitres = float(found.sum()) * volume.spacing[0] * volume.spacing[1] * volume.spacing[2] / 1000
        console.print(f"{target}: {millilitres:.1f} ml", soft_wrap=True)

    def _prompts(self, volume: Volume) -> Prompts:
        from fm3d_core.inference.interactive import Box, Point, Prompts

        points = [Point(each, positive) for group, positive in self._points() for each in group]
        box = None if self.box is None else Box(self.box[:3], self.box[3:])
        scribbles = None if self.scribbles is None else self._label(self.scribbles, volume)
        return Prompts.of(points, box=box, scribbles=scribbles)

    def _points(self) -> tuple[tuple[tuple[_Position, ...], bool], ...]:
        return (self.inside, True), (self.outside, False)

    def _label(self, path: Path, volume: Volume) -> npt.NDArray[np.uint8]:
        from fm3d_core.volumes import check_label, read_label

        label = read_label(path)
        check_label(label, volume)
        return label.array

    def _probability(self, volume: Volume) -> npt.NDArray[np.float32] | None:
        if self.structure is None:
            return None
        from fm3d_core.cli.options import AdapterOption
        from fm3d_core.inference import Predictor
        from fm3d_core.inference.interactive import probability_of

        predictor = Predictor(AdapterOption(self.store, None, self.adapter).load(), self.device)
        if not predictor.card.task.exclusive:
            raise SettingsError("the adapter's regions overlap", remedy="Choose another adapter, or leave it out")
        values = predictor.card.task.values
        if self.structure not in values:
            raise SettingsError(
                f"the adapter has no structure '{self.structure}'", remedy=f"It has {', '.join(values)}"
            )
        return probability_of(predictor.predict(volume), values[self.structure])
