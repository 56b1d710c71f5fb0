"""``fm3d predict``: segment volumes with an adapter, or answer its question about them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from fm3d_core.cli.options import AdapterOption
from fm3d_core.cli.predict_inputs import AskedVolume, find_asked
from fm3d_core.cli.run_record import run_record
from fm3d_core.errors import CaseError, FM3DError, SettingsError

if TYPE_CHECKING:
    from rich.console import Console

    from fm3d_core.adaptation import Adapter
    from fm3d_core.cli.predict_answers import CollectedAnswers
    from fm3d_core.inference import CaseQuality, References
    from fm3d_core.inference.answering import Answering

SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha", ".dcm")
DICOM = ".dcm"


@dataclass(frozen=True)
class Predict:
    """Segment volumes; each result lies on its image's own voxel grid. Or answer an adapter's question about them.

    Answers about whole volumes (class, findings, value, risk) go to predictions.csv and predictions.json in the folder
    of the results. Of regions that overlap there is a label map, in which later regions are painted over earlier ones,
    and a mask of each region (NAME_REGION). --suffix .dcm writes DICOM SEG beside DICOM series.

    With --weights nothing need be labelled or trained: fm3d predict scan.nii.gz --weights fseft --labels liver spleen.

    With --quality, each segmentation gets an expected Dice with an interval, and reasons where it looks doubtful: look
    at those first. It is an estimate without the truth and replaces no eye.

    Attributes:
        images: image files, folders of images, folders of one DICOM series each, or lists of cases (JSON, CSV).
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
        suffix: file format of the results: .nii.gz, .nii, .nrrd, .mha, or .dcm for DICOM SEG.
        flips: average answers about a whole volume over it and over it flipped along each axis: yes, no, or as the
            recipe says that it was trained by.
        views: how many turned and stretched copies of a volume are segmented and averaged, 1 to 8; default: as many as
            take little time.
        overlap: of neighbouring windows, 0 to below 1 (3DINO tests with 0.75, which takes longer).
        keep_islands: leave small parts of a structure in, though in every labelled volume it was one connected part;
            without it what is under half of the largest part becomes what it was second best, mostly background.
        root: where a list's relative paths begin; default: the list's folder.
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
    flips: Literal["recipe", "yes", "no"] = "recipe"
    views: int | None = None
    overlap: float = 0.25
    keep_islands: bool = False
    root: Path | None = None
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
        from fm3d_core.cli.predict_answers import CollectedAnswers
        from fm3d_core.cli.quality_report import quality_table, read_references
        from fm3d_core.inference.answering import Answering

        if self.labelled is not None and not self.quality:
            raise SettingsError("--labelled is for --quality", remedy="Give --quality too, or leave it out")
        if self.variants and not (self.quality or self.uncertainty):
            raise SettingsError(
                "--variants is for --quality and --uncertainty", remedy="Give one of them too, or leave it out"
            )
        if self.suffix not in SUFFIXES:
            raise SettingsError(f"unknown format {self.suffix}", remedy=f"Choose one of: {', '.join(SUFFIXES)}")
        console = Console()
        asked = find_asked(self.images, self.root)
        adapter = self._adapter()
        for note in adapter.card.notes if self.weights is not None else ():
            console.print(note, soft_wrap=True)
        flips = None if self.flips == "recipe" else self.flips == "yes"
        answering = Answering(
            adapter,
            self.device,
            views=self.views,
            overlap=self.overlap,
            flips=flips,
            keep_islands=self.keep_islands,
        )
        self._check(answering)
        references = None
        if self.labelled is not None and answering.dense is not None:
            with progress_bar(console) as show:
                references = read_references(self.labelled, answering.dense, show)
            if references is None:
                console.print("The reverse check is left out: this adapter's training began with no linear head")
        doing = "Segmenting" if answering.dense is not None else "Answering about"
        console.print(f"{doing} {', '.join(adapter.card.task.labels)} in {len(asked)} volumes")
        refused: list[FM3DError] = []
        judged: dict[str, CaseQuality] = {}
        answers = CollectedAnswers(answering.answered_task)
        for volume in asked:
            try:
                self._segment(volume, answering, references, judged, answers, console)
            except FM3DError as error:
                if len(asked) == 1:
                    raise
                refused.append(error)
                console.print(f"[red]Refused[/red] {error}", soft_wrap=True)
        if judged:
            console.print(quality_table(judged))
        for path in answers.write(self.out, run_record(self)):
            console.print(f"{path}", soft_wrap=True)
        if refused:
            raise CaseError(
                f"{len(refused)} of {len(asked)} volumes were refused",
                remedy="The lines above say why; the others are done",
            )

    def _check(self, answering: Answering) -> None:
        """Refuse what does not go with the adapter's question, and to write over answers."""
        from fm3d_core.cli.predict_answers import FILES

        if answering.answered_task is not None:
            for name in FILES:
                if (self.out / name).exists():
                    raise SettingsError(
                        "exists already", path=self.out / name, remedy="Choose another folder with --out"
                    )
        judges = self.quality or self.refine
        if (judges or self.uncertainty) and answering.dense is None:
            raise SettingsError(
                "--quality, --uncertainty and --refine are for voxels, not for whole volumes",
                remedy="Leave them out for this adapter",
            )
        if judges and not answering.task.exclusive:
            raise SettingsError(
                "--quality and --refine are for structures that exclude each other",
                remedy="Leave them out for this adapter; --uncertainty goes with it",
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
        asked: AskedVolume,
        answering: Answering,
        references: References | None,
        judged: dict[str, CaseQuality],
        answers: CollectedAnswers,
        console: Console,
    ) -> None:
        from fm3d_core.cli.console import progress_bar
        from fm3d_core.cli.quality_report import refinement_in_words, write_quality
        from fm3d_core.inference import case_quality, refine
        from fm3d_core.inference.answering import Answer, files_of, write_answer
        from fm3d_core.volumes import write_map

        for target in files_of(self.out, asked.name, answering.task, self.suffix):
            if target.exists():
                raise SettingsError("exists already", path=target, remedy="Choose another folder with --out")
        volume = asked.read(answering.task.channels, self.frame, self.replace_nonfinite)
        said: list[str] = []
        variants = self.variants if self.variants is not None else int(self.quality)
        with progress_bar(console) as show:
            if answering.dense is not None and (self.quality or self.uncertainty or self.refine):
                prediction = answering.dense.predict(volume, variants=variants, progress=show)
                if self.refine:
                    refined = refine(answering.dense, prediction, progress=show)
                    prediction, said = refined.prediction, [refinement_in_words(refined)]
                answer = Answer(prediction.labels, prediction.regions or None)
            else:
                answer = answering.answer(volume, progress=show)
            if answering.dense is not None and self.quality:
                judged[asked.name] = case_quality(answering.dense, prediction, references=references, progress=show)
        written = write_answer(self.out, asked.name, answer, answering.task, volume, self.suffix)
        if self.uncertainty:
            map_suffix = self.suffix if self.suffix != DICOM else ".nii.gz"
            written.append(self.out / f"{asked.name}_uncertainty{map_suffix}")
            write_map(written[-1], prediction.uncertainty, like=volume)
        if self.quality:
            write_quality(self.out, asked.name, judged[asked.name])
        said += answers.add(asked, answer)
        for line in (*(f"{path}" for path in written[:1]), *said):
            console.print(line, soft_wrap=True)
