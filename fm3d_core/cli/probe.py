"""``fm3d probe``: what the features of a frozen backbone know of whole volumes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import tyro

from fm3d_core.cli.run_record import run_record
from fm3d_core.cli.task_options import QuestionOption, with_targets
from fm3d_core.cli.whole_volume_results import check_folder, figures_table, write_whole_volume_results
from fm3d_core.errors import CaseError, SettingsError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from fm3d_core.evaluation.probing.features import FrozenBackbone, SeenCases
    from fm3d_core.evaluation.probing.probe import Labelled, Probed
    from fm3d_core.progress import ProgressCallback
    from fm3d_core.tasks import WholeVolumeTask
    from fm3d_core.volumes import DataList, ListedCase

DEFAULT_EDGE = 96  # voxels of an image, for backbones that are for no size


@dataclass(frozen=True)
class Probe:
    """Ask a frozen backbone about whole volumes: the linear-probe grid of 3DINO, and its nearest neighbours.

    fm3d probe cases.csv --target diagnosis --weights 3dino_vit

    104 linear heads (13 learning rates; the class tokens of the last 1, 2, 3 or 4 layers; with and without the mean
    patch token) are trained at once on features that are computed once and kept. The best on the validation cases is
    asked about the test cases. Of a pyramid (U-Net, Swin UNETR) the means of its coarsest maps are taken, scaled.

    Without a task's file that says otherwise, each image is resized to what the ViT was made for, around what is not
    empty, and its intensities are mapped to [-1, 1].

    Writes results.json (all settings), report.html, predictions.json and predictions.csv.

    Attributes:
        data: list of cases, JSON {"training": [{"image": ..., ...}], "validation": [...], "test": [...]} or CSV with
            columns image, split and what is asked.
        out: folder for the results.
        root: where the list's relative paths begin; default: the list's folder.
        fraction: share of the training cases that is learned from.
        validation_share: share of the training cases to choose by, if the list has no validation cases.
        backbone: as for fm3d finetune.
        weights: as for fm3d finetune.
        size: voxels of a side that each image is resized to.
        channels: image channels.
        iterations: steps of the training.
        batch_size: images of a step.
        learning_rates: of the grid.
        layers: of the grid.
        worst: how many of the worst cases are drawn in the report.
        seed: of batches, first weights and random choices of cases.
        device: auto, cpu or cuda.
        question: what is asked.
    """

    data: tyro.conf.Positional[Path]
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("probe")
    root: Path | None = None
    fraction: float = 1.0
    validation_share: float = 0.25
    backbone: str | None = None
    weights: Path | None = None
    size: int | None = None
    channels: int = 1
    iterations: int = 12_500
    batch_size: int = 32
    learning_rates: tuple[float, ...] = ()
    layers: tuple[int, ...] = (1, 2, 3, 4)
    worst: int = 6
    seed: int = 0
    device: str = "auto"
    question: Annotated[QuestionOption, tyro.conf.arg(name="")] = field(default_factory=QuestionOption)

    def run(self) -> None:
        """Compute features, train, choose, measure, write."""
        from rich.console import Console

        from fm3d_core.adaptation.feature_cache import FeatureCache
        from fm3d_core.cli.console import progress_bar
        from fm3d_core.evaluation.probing.probe import probe

        console = Console()
        check_folder(self.out)
        grid = self._grid()
        listed = self._listed()
        task = self.question.read([*listed.training, *listed.validation, *listed.test])
        backbone = self._backbone(task)
        cache = FeatureCache()
        left_out: list[str] = []
        with progress_bar(console) as show:
            parts = {}
            for name in ("training", "validation", "test"):
                parts[name] = _seen(task, getattr(listed, name), backbone, cache, left_out, show)
            training, validation, test = parts["training"], parts["validation"], parts["test"]
            if training is None or validation is None:
                raise CaseError("no case to learn from or to choose by", path=self.data, remedy="Add cases to the list")
            pyramid = backbone.network.backbone.kind == "pyramid"
            asked = None if test is None else test.labelled.vectors
            found = probe(task, training.labelled, validation.labelled, asked, grid, scale=pyramid, progress=show)
        for line in left_out:
            console.print(f"Left out: {line}", soft_wrap=True)
        console.print(_table(found, len(validation.cases)))
        self._write(found, training, validation, test, backbone, left_out, console)

    def _grid(self) -> Any:
        from fm3d_core.evaluation.probing.grid import LEARNING_RATES, ProbeGrid

        return ProbeGrid(
            learning_rates=self.learning_rates or LEARNING_RATES,
            layers=self.layers,
            iterations=self.iterations,
            batch_size=self.batch_size,
            seed=self.seed,
        )

    def _listed(self) -> DataList:
        from fm3d_core.volumes import read_data_list

        listed = read_data_list(self.data, root=self.root).fraction(self.fraction, self.seed)
        if listed.validation:
            return listed
        if not 0 < self.validation_share < 1:
            raise SettingsError(f"validation_share is {self.validation_share}", remedy="Choose a share between 0 and 1")
        return listed.in_folds(max(round(1 / self.validation_share), 2), self.seed).fold(0)

    def _backbone(self, task: WholeVolumeTask) -> FrozenBackbone:
        import torch

        from fm3d_core.adaptation import FinetuneSettings
        from fm3d_core.adaptation.building import spec_of
        from fm3d_core.devices import choose_device
        from fm3d_core.evaluation.probing.features import FrozenBackbone
        from fm3d_core.models.network import DenseNetwork
        from fm3d_core.models.zoo import backbone_sha256, create_backbone
        from fm3d_core.volumes import Preprocessing

        settings = FinetuneSettings(
            method="linear_probe", backbone=self.backbone, weights=self.weights, device=self.device, seed=self.seed
        )
        spec, fed = spec_of(settings, max(self.channels, task.channels))
        backbone, device = create_backbone(spec), choose_device(self.device)
        edge = self.size or backbone.config.get("image_size") or DEFAULT_EDGE
        preprocessing = task.preprocessing or Preprocessing(
            size=(edge,) * 3, input_range=fed.range if fed is not None else (-1.0, 1.0)
        )
        network = DenseNetwork(backbone, torch.nn.Identity(), preprocessing.input_range).to(device)
        return FrozenBackbone(network, backbone_sha256(backbone), preprocessing, task.crop, device)

    def _write(
        self,
        found: Probed,
        training: _Part,
        validation: _Part,
        test: _Part | None,
        backbone: FrozenBackbone,
        left_out: Sequence[str],
        console: Console,
    ) -> None:
        from fm3d_core.evaluation.predictions import Predictions
        from fm3d_core.evaluation.probing.probe import rows_of
        from fm3d_core.evaluation.volume_figures import figures_with_intervals

        if test is None or found.answers is None:
            shown, answers, said = (
                validation,
                found.validation_answers,
                "validation cases, which chose the probe: too good",
            )
        else:
            shown, answers, said = test, found.answers, "test cases"
        figures = figures_with_intervals(found.task, answers, shown.labelled.targets)
        console.print(figures_table(figures, f"{len(shown.cases)} {said}"))
        names = tuple(case.name for case in shown.cases)
        content = {
            "run": run_record(self),
            "measured_on": said,
            "backbone": {"name": self.backbone, "weights": str(self.weights or ""), "sha256": backbone.sha256},
            "preprocessing": {**backbone.preprocessing.to_dict(), "crop": backbone.crop},
            "features_scaled": found.scaled,
            "training_cases": dict(training.hashes),
            "validation_cases": dict(validation.hashes),
            "left_out": list(left_out),
            "chosen": rows_of([found.best])[0],
            "settings": rows_of(found.probes),
            "neighbours": {str(k): _known(each) for k, each in found.neighbours.items()},
            "neighbours_test": {
                str(k): _known(found.task.measure(each, shown.labelled.targets))
                for k, each in found.neighbour_answers.items()
            },
        }
        predictions = Predictions(found.task, names, answers, shown.hashes, {"run": content["run"]})
        write_whole_volume_results(
            self.out,
            f"Linear probe: {', '.join(found.task.labels)}",
            predictions,
            shown.labelled.targets,
            figures,
            shown.cases,
            content,
            worst=self.worst,
        )
        console.print(f"{self.out}: results.json, report.html, predictions.json, predictions.csv", soft_wrap=True)


@dataclass(frozen=True)
class _Part:
    """Cases of one split that could be used."""

    labelled: Labelled
    cases: list[ListedCase]
    hashes: dict[str, str]


def _seen(
    task: WholeVolumeTask,
    cases: Sequence[ListedCase],
    backbone: FrozenBackbone,
    cache: Any,
    left_out: list[str],
    show: ProgressCallback,
) -> _Part | None:
    """Features and targets of a split; None if it has no case."""
    from fm3d_core.evaluation.probing.features import vectors_of_cases
    from fm3d_core.evaluation.probing.probe import Labelled

    known, targets, without = with_targets(task, cases)
    left_out += without
    if not known:
        return None
    seen: SeenCases = vectors_of_cases(known, backbone, cache, progress=show)
    left_out += seen.left_out
    places = {case.name: place for place, case in enumerate(known)}
    kept = [places[name] for name in seen.names]
    labelled = Labelled(seen.vectors, np.array([targets[place] for place in kept], np.float64))
    return _Part(labelled, [known[place] for place in kept], seen.hashes)


def _table(found: Probed, cases: int) -> Table:
    """The best settings and the neighbours."""
    from rich.table import Table

    from fm3d_core.evaluation.volume_figures import NAMES

    names = list(found.best.validation)
    title = f"best of {len(found.probes)} settings on {cases} validation cases"
    table = Table("last layers", "mean patch", "learning rate", *(NAMES.get(name, name) for name in names), title=title)
    for each in found.probes[:5]:
        setting = each.probe.setting
        cells = [_cell(each.validation[name]) for name in names]
        table.add_row(str(setting.layers), "yes" if setting.mean_patch else "no", f"{setting.learning_rate:g}", *cells)
    table.add_section()
    for k, figures in found.neighbours.items():
        table.add_row(f"{k} nearest neighbours", "", "", *(_cell(figures[name]) for name in names))
    return table


def _cell(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


def _known(figures: dict[str, float]) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else value for name, value in figures.items()}
