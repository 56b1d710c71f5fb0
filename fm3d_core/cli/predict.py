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
    from fm3d_core.inference import CaseQuality, Predictor, References

SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha")


@dataclass(frozen=True)
class Predict:
    """Segment volumes; each result lies on its image's own voxel grid.

    With --weights nothing need be labelled or trained: fm3d predict scan.nii.gz --weights fseft --labels liver spleen.

    With --quality, each segmentation gets an expected Dice with an interval, and reasons where it looks doubtful: look
    at those first. It is an estimate without the truth and replaces no eye.

    Attributes:
        images: image files, folders of images, or folders of one DICOM series each.
        out: folder for the results; each is named like its image.
        quality: say what Dice to expect of each volume and write it to quality.csv in the folder of the results.
        labelled: folder of labelled cases, for example those that were learned from; --quality then also checks
            whether they would be found by what was segmented.
        uncertainty: also write a map of how unsure each voxel is, from 0 to 1 (NAME_uncertainty).
        variants: so many slightly changed images (0 to 4) are segmented too, for --quality and --uncertainty; each
            takes as long again. Default: 1 with --quality, else none.
        refine: where a structure is more than 30 % smaller or larger than in the labelled volumes, adapt the linear
            head to this volume until it is not, or 50 steps were made; says what that changed. Helps where a structure
            is of much the same size in everybody, and harms where sizes differ: compare both results.
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
    quality: bool = False
    labelled: Path | None = None
    uncertainty: bool = False
    variants: int | None = None
    refine: bool = False
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

        from fm3d_core.cli.console import progress_bar
        from fm3d_core.cli.quality_report import quality_table, read_references
        from fm3d_core.inference import Predictor

        if self.labelled is not None and not self.quality:
            raise SettingsError("--labelled is for --quality", remedy="Give --quality too, or leave it out")
        if self.variants and not (self.quality or self.uncertainty):
            raise SettingsError(
                "--variants is for --quality and --uncertainty", remedy="Give one of them too, or leave it out"
            )
        if self.suffix not in SUFFIXES:
            raise SettingsError(f"unknown format {self.suffix}", remedy=f"Choose one of: {', '.join(SUFFIXES)}")
        console = Console()
        images = self._found()
        adapter = self._adapter()
        for note in adapter.card.notes if self.weights is not None else ():
            console.print(note, soft_wrap=True)
        predictor = Predictor(adapter, self.device)
        references = None
        if self.labelled is not None:
            with progress_bar(console) as show:
                references = read_references(self.labelled, predictor, show)
            if references is None:
                console.print("The reverse check is left out: this adapter's training began with no linear head")
        console.print(f"Segmenting {', '.join(adapter.card.task.labels)} in {len(images)} volumes")
        refused: list[FM3DError] = []
        judged: dict[str, CaseQuality] = {}
        for image in images:
            try:
                self._segment(image, predictor, references, judged, console)
            except FM3DError as error:
                if len(images) == 1:
                    raise
                refused.append(error)
                console.print(f"[red]Refused[/red] {error}", soft_wrap=True)
        if judged:
            console.print(quality_table(judged))
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

    def _segment(
        self,
        image: Path,
        predictor: Predictor,
        references: References | None,
        judged: dict[str, CaseQuality],
        console: Console,
    ) -> None:
        from fm3d_core.cli.console import progress_bar
        from fm3d_core.cli.quality_report import refinement_in_words, write_quality
        from fm3d_core.inference import case_quality, refine
        from fm3d_core.volumes import read_volume, write_label, write_map

        volume = read_volume(image, frame=self.frame, allow_nonfinite=self.replace_nonfinite)
        target = self.out / f"{volume.name}{self.suffix}"
        if target.exists():
            raise SettingsError("exists already", path=target, remedy="Choose another folder with --out")
        said: list[str] = []
        variants = self.variants if self.variants is not None else int(self.quality)
        with progress_bar(console) as show:
            if self.quality or self.uncertainty or self.refine:
                prediction = predictor.predict(volume, variants=variants, progress=show)
                if self.refine:
                    refined = refine(predictor, prediction, progress=show)
                    prediction, said = refined.prediction, [refinement_in_words(refined)]
                labels = prediction.labels
            else:
                labels = predictor.segment(volume, progress=show)
            if self.quality:
                judged[volume.name] = case_quality(predictor, prediction, references=references, progress=show)
        write_label(target, labels, like=volume)
        if self.uncertainty:
            path = self.out / f"{volume.name}_uncertainty{self.suffix}"
            write_map(path, prediction.uncertainty, like=volume)
        if self.quality:
            write_quality(self.out, volume.name, judged[volume.name])
        for line in (f"{target}", *said):
            console.print(line, soft_wrap=True)

    def _found(self) -> list[Path]:
        from fm3d_core.volumes import find_cases, is_dicom_series

        found: list[Path] = []
        for path in self.images:
            if path.is_dir() and not is_dicom_series(path):
                found += [case.image for case in find_cases(path)]
            else:
                found.append(path)
        return found
