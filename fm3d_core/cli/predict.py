"""``fm3d predict``: segment volumes with an adapter."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from fm3d_core.cli.options import AdapterOption
from fm3d_core.errors import CaseError, FM3DError, SettingsError

if TYPE_CHECKING:
    from rich.console import Console

    from fm3d_core.adaptation import Adapter
    from fm3d_core.inference import Predictor

SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha")


@dataclass(frozen=True)
class Predict:
    """Segment volumes; each result lies on its image's own voxel grid.

    With --weights nothing need be labelled or trained: fm3d predict scan.nii.gz --weights fseft --labels liver spleen.

    Attributes:
        images: image files, folders of images, or folders of one DICOM series each.
        out: folder for the results; each is named like its image.
        suffix: file format of the results.
        frame: which frame of a 4D file, counted from 0.
        replace_nonfinite: take voxels that are not numbers (NaN, infinite) as the smallest value.
        device: auto, cpu or cuda.
        weights: instead of an adapter, weights with a classifier of their own (fm3d weights info): an id or a file.
        labels: with --weights, the structures to find; default: all that the weights know.
        adapter: which adapter is used.
    """

    images: tyro.conf.Positional[tuple[Path, ...]]
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("segmentations")
    suffix: str = ".nii.gz"
    frame: int | None = None
    replace_nonfinite: bool = False
    device: str = "auto"
    weights: Path | None = None
    labels: tuple[str, ...] = ()
    adapter: Annotated[AdapterOption, tyro.conf.arg(name="")] = field(default_factory=AdapterOption)

    def run(self) -> None:
        """Segment one after the other; a bad file does not stop the others, but the exit code says so."""
        from rich.console import Console

        from fm3d_core.inference import Predictor

        if self.suffix not in SUFFIXES:
            raise SettingsError(f"unknown format {self.suffix}", remedy=f"Choose one of: {', '.join(SUFFIXES)}")
        console = Console()
        images = self._found()
        adapter = self._adapter()
        for note in adapter.card.notes if self.weights is not None else ():
            console.print(note, soft_wrap=True)
        predictor = Predictor(adapter, self.device)
        console.print(f"Segmenting {', '.join(adapter.card.task.labels)} in {len(images)} volumes")
        refused: list[FM3DError] = []
        for image in images:
            try:
                self._segment(image, predictor, console)
            except FM3DError as error:
                if len(images) == 1:
                    raise
                refused.append(error)
                console.print(f"[red]Refused[/red] {error}", soft_wrap=True)
        if refused:
            raise CaseError(
                f"{len(refused)} of {len(images)} volumes were refused",
                remedy="The lines above say why; the others are done",
            )

    def _adapter(self) -> Adapter:
        """The adapter asked for, or one made of the weights' own classifier."""
        if self.weights is None:
            if self.labels:
                raise SettingsError("--labels goes with --weights", remedy="An adapter has its own structures")
            return self.adapter.load()
        if self.adapter != AdapterOption():
            raise SettingsError("both --weights and an adapter are given", remedy="Give one of them")
        from fm3d_core.adaptation import FinetuneSettings
        from fm3d_core.adaptation.zero_shot import known_structures, require_zero_shot
        from fm3d_core.tasks import SegmentationTask

        settings = FinetuneSettings(method="none", weights=self.weights, device=self.device)
        known = known_structures(settings)
        structures = known.head.structures if known is not None else ("structure",)  # which is refused in words
        return require_zero_shot(SegmentationTask(self.labels or structures), settings)

    def _segment(self, image: Path, predictor: Predictor, console: Console) -> None:
        from fm3d_core.cli.console import progress_bar
        from fm3d_core.volumes import read_volume, write_label

        volume = read_volume(image, frame=self.frame, allow_nonfinite=self.replace_nonfinite)
        target = self.out / f"{volume.name}{self.suffix}"
        if target.exists():
            raise SettingsError("exists already", path=target, remedy="Choose another folder with --out")
        with progress_bar(console) as show:
            segmentation = predictor.segment(volume, progress=show)
        write_label(target, segmentation, like=volume)
        console.print(f"{target}", soft_wrap=True)

    def _found(self) -> list[Path]:
        from fm3d_core.volumes import find_cases, is_dicom_series

        found: list[Path] = []
        for path in self.images:
            if path.is_dir() and not is_dicom_series(path):
                found += [case.image for case in find_cases(path)]
            else:
                found.append(path)
        return found
