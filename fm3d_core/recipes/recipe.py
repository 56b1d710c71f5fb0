"""What a recipe file says, read strictly, and what follows from it for training."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

from fm3d_core.adaptation.plan import CropSampling, Schedule, TrainingPlan
from fm3d_core.adaptation.settings import FinetuneSettings
from fm3d_core.errors import SettingsError
from fm3d_core.strict_settings import put_in, read_yaml, validated
from fm3d_core.tasks import DenseTask, Task, WholeVolumeTask, task_from_dict
from fm3d_core.volumes import Preprocessing

if TYPE_CHECKING:
    from fm3d_core.adaptation.methods import PartChoice

RECIPES = Path(__file__).parent
Size = tuple[int, int, int]


@dataclass(frozen=True)
class Input:
    """How volumes are prepared; what is not said is :class:`fm3d_core.volumes.Preprocessing`'s default.

    Attributes:
        spacing: mm per voxel, or
        resize: edges of the whole volume in multiples of the crop's.
        window, percentiles, crop_foreground, input_range: as of Preprocessing.
    """

    spacing: tuple[float, float, float] | None = None
    resize: tuple[float, float, float] | None = None
    window: tuple[float, float] | None = None
    percentiles: tuple[float, float] = (0.05, 99.95)
    crop_foreground: bool = True
    input_range: tuple[float, float] = (-1.0, 1.0)


@dataclass(frozen=True)
class Network:
    """What is trained.

    Attributes:
        backbone, weights, head, method, decoder, bottleneck: as of :class:`FinetuneSettings`.
        rank, alpha: of the method's low-rank updates; None: the method's own.
    """

    backbone: str
    weights: str | None = None
    method: str = "full"
    head: str = "auto"
    decoder: str = "auto"
    bottleneck: str = "auto"
    rank: int | None = None
    alpha: float | None = None


@dataclass(frozen=True)
class Training:
    """How it is trained, by AdamW with a straight warm-up and a cosine to 0.

    Attributes:
        learning_rate, weight_decay: of AdamW.
        epochs: rounds of ``iterations`` steps.
        iterations: steps of a round; None: one for each training case.
        warm_up: steps.
        batch_size: volumes in a step.
        crops_per_volume: crops of each, of a task about voxels.
        positive, negative: crops centred on a structure to crops centred anywhere.
        augmentation: a name of augmentations.yaml, or none.
        shots: so many training cases, drawn as FSEFT draws them; None: all of the list.
    """

    learning_rate: float
    epochs: int
    iterations: int | None
    weight_decay: float = 0.01
    warm_up: int = 0
    batch_size: int = 2
    crops_per_volume: int = 1
    positive: float = 1
    negative: float = 1
    augmentation: str = "none"
    shots: int | None = None


@dataclass(frozen=True)
class Validation:
    """How the best weights are chosen, if the list has validation cases.

    Attributes:
        every: steps between two looks.
        selected_by: figures whose mean is to be highest (of an error, lowest).
        overlap: of the sliding window.
    """

    every: int
    selected_by: tuple[str, ...]
    overlap: float = 0.0


@dataclass(frozen=True)
class Test:
    """How test cases are predicted.

    Attributes:
        overlap: of the sliding window.
        flips: whether a whole volume's answers are averaged over flips.
    """

    overlap: float = 0.25
    flips: bool = False
    __test__: ClassVar[bool] = False  # no test of pytest


@dataclass(frozen=True)
class Reported:
    """A published figure.

    Attributes:
        figure, value: what was measured.
        cases: on which it was.
        how: in words, where something is special.
    """

    figure: str
    value: float
    cases: str
    how: str = ""


@dataclass(frozen=True)
class Recipe:
    """A published training.

    Attributes:
        about, source, modality, note: for the reader.
        task: plain data of a task without preprocessing and crop, see :func:`fm3d_core.tasks.task_from_dict`.
        input: how volumes are prepared.
        crop: voxels of a crop.
        network, training, validation, test: see there.
        label_values: structure -> voxel value in label files; None: the task's own.
        label_field: of a list, in which a case's label file stands.
        folds: of the published cross-validation, whose networks are averaged; None: none.
        variants: name -> changed values, by dotted keys.
        reported: published figures.
        split: cases of the published split.
    """

    about: str
    source: str
    modality: str
    task: dict[str, Any]
    input: Input
    crop: Size
    network: Network
    training: Training
    validation: Validation | None = None
    test: Test = Test()
    label_values: dict[str, int] | None = None
    label_field: str = "label"
    folds: int | None = None
    variants: dict[str, dict[str, Any]] = field(default_factory=dict)
    reported: tuple[Reported, ...] = ()
    split: dict[str, int] = field(default_factory=dict)
    note: str = ""
    name: str = ""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    def built_task(self) -> Task:
        """The task, with preprocessing and crop.

        Raises:
            SettingsError: it makes no sense.
        """
        data: dict[str, Any] = {**self.task, "preprocessing": self.preprocessing().to_dict()}
        task = task_from_dict(data)
        return cast("Task", replace(task, crop=self.crop)) if isinstance(task, WholeVolumeTask) else task

    def dense_task(self) -> DenseTask:
        """The task of a recipe about voxels."""
        return cast("DenseTask", self.built_task())

    def preprocessing(self) -> Preprocessing:
        """How volumes are prepared.

        Raises:
            SettingsError: both spacing and resize, or an impossible value.
        """
        size = None
        if self.input.resize is not None:
            x, y, z = (max(round(share * edge), 2) for share, edge in zip(self.input.resize, self.crop, strict=True))
            size = (x, y, z)
        others = {name: value for name, value in asdict(self.input).items() if name != "resize"}
        return Preprocessing(**others, size=size)

    def settings(self, cases: int, **given: Any) -> FinetuneSettings:
        """As settings of a training from so many ``cases``; ``given`` goes before.

        Raises:
            SettingsError: an impossible value, or a rank that the method does not have.
        """
        network, training = self.network, self.training
        weights = None if network.weights is None else Path(network.weights)
        values: dict[str, Any] = {
            "method": network.method,
            "backbone": network.backbone,
            "weights": weights,
            "head": network.head,
            "decoder": cast("PartChoice", network.decoder),
            "bottleneck": cast("PartChoice", network.bottleneck),
            "rank": network.rank,
            "alpha": network.alpha,
            "closed_form": False,
            "match_weights": False,
            "learning_rate": training.learning_rate,
            "batch_size": training.batch_size,
            "steps": training.epochs * (training.iterations or cases),
        }
        if given.get("method", network.method) != network.method:
            del values["rank"], values["alpha"]  # they are of the recipe's own method
        return FinetuneSettings(**{**values, **given})

    @property
    def shots(self) -> int | None:
        """So many training cases are drawn; None: all are used."""
        return self.training.shots

    def noted(self) -> dict[str, Any]:
        """What goes into the adapter's card."""
        return {"recipe": self.to_dict()}

    def cut_to(self, steps: int, cases: int) -> Recipe:
        """The recipe for so many ``steps`` from so many ``cases``: warm-up and looks at validation shrink alike."""
        share = min(steps / max(self.training.epochs * (self.training.iterations or cases), 1), 1.0)
        validation = self.validation
        if validation is not None:
            validation = replace(validation, every=max(round(share * validation.every), 1))
        training = replace(self.training, warm_up=round(share * self.training.warm_up))
        return replace(self, training=training, validation=validation)

    def plan(self) -> TrainingPlan:
        """What is fixed of the training besides."""
        training = self.training
        share = training.positive / (training.positive + training.negative)
        return TrainingPlan(
            Schedule(training.warm_up, "cosine", training.weight_decay, None),
            CropSampling(share, structures_alike=False, crops_per_volume=training.crops_per_volume),
            self.crop,
            training.augmentation,
        )

    def to_dict(self) -> dict[str, Any]:
        """As plain data for YAML, JSON and an adapter's card."""
        return dict(_plain(asdict(self)))


def shipped_recipes() -> dict[str, Path]:
    """Name -> file of the recipes that come with the package."""
    return {path.stem: path for path in sorted(RECIPES.glob("*.yaml"), key=lambda path: path.stem.lower())}


def read_recipe(name: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe, with ``overrides`` such as "training.epochs=2" put in.

    Args:
        name: of a shipped recipe, or a YAML file; "NAME:VARIANT" for one of its variants.
        overrides: values are read as YAML.

    Raises:
        SettingsError: no such recipe or variant, an unknown key or an impossible value; it names the key.
    """
    path, variant = _find(str(name))
    content = _read(path)
    if variant is not None:
        changes = content.get("variants", {}).get(variant)
        if not isinstance(changes, dict):
            known = ", ".join(content.get("variants", {})) or "none"
            raise SettingsError(f"has no variant {variant}", path=path, remedy=f"Its variants: {known}")
        for key, value in changes.items():
            put_in(content, f"{key}={value}")
    for override in overrides:
        put_in(content, override)
    content.setdefault("name", path.stem if variant is None else f"{path.stem}:{variant}")
    recipe = validated(Recipe, content, path=path)
    _check(recipe, path)
    return recipe


def _check(recipe: Recipe, path: Path) -> None:
    """What no type says: numbers in range, names that exist, a task that can be built."""
    from fm3d_core.adaptation.published_augmentation import check_augmentation

    training = recipe.training
    numbers = (training.epochs, training.batch_size, training.crops_per_volume, *recipe.crop)
    try:
        if (
            min(numbers) < 1
            or min(training.positive, training.negative) < 0
            or training.positive + training.negative <= 0
        ):
            raise SettingsError("training: a number is too small", remedy="Give epochs, batch and crop of 1 or more")
        if not 0 <= recipe.test.overlap < 1 or (recipe.validation and not 0 <= recipe.validation.overlap < 1):
            raise SettingsError("overlap is not a share from 0 to below 1", remedy="Correct test and validation")
        check_augmentation(training.augmentation)
        task = recipe.built_task()
        if recipe.label_values is not None and set(recipe.label_values) != set(task.labels):
            raise SettingsError("label_values names other structures than task.labels", remedy="Name the same")
        recipe.settings(1)
        recipe.plan()
    except SettingsError as error:
        raise SettingsError(error.problem, path=path, remedy=error.remedy) from error


def _find(name: str) -> tuple[Path, str | None]:
    shipped = shipped_recipes()
    if Path(name).is_file() and name not in shipped:
        return Path(name), None
    base, _, variant = name.partition(":")
    if base in shipped:
        return shipped[base], variant or None
    if Path(base).is_file():
        return Path(base), variant or None
    raise SettingsError(f"no recipe '{name}'", remedy=f"Give a YAML file or one of: {', '.join(shipped)}")


def _read(path: Path) -> dict[str, Any]:
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise SettingsError("holds no recipe", path=path, remedy="fm3d recipes show LA_SEG shows one")
    return copy.deepcopy(content)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return str(value) if isinstance(value, Path) else value
