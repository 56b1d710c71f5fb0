"""What a client may ask: known keys of known types only. No path, device or file name comes from a client."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from fm3d_core.errors import SettingsError

# No leading dot: neither hidden files nor "..".
SAFE_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True, str_max_length=256)

    client_id: str | None = None  # sent by every MONAI Label client; not used


class UploadRequest(_Request):
    """Parameters beside an uploaded image: none."""


class LabelRequest(_Request):
    """Parameters beside a submitted label map.

    Attributes:
        label_info: entries ``{"name": ..., "idx": ...}``; what else an entry holds is not kept.
    """

    label_info: list[dict[str, Any]] | None = Field(None, max_length=256)

    def kept(self) -> dict[str, Any]:
        """What goes into the index."""
        if self.label_info is None:
            return {}
        return {"label_info": [{key: entry.get(key) for key in ("name", "idx")} for entry in self.label_info]}


class InferRequest(_Request):
    """Parameters of every inference.

    Attributes:
        result_extension: file format of the answer.
        result_dtype, result_compress: sent by MONAI Label's Slicer plugin; label maps are always uint8.
    """

    result_extension: Literal[".nii.gz", ".nii", ".nrrd", ".mha"] = ".nii.gz"
    result_dtype: str | None = None
    result_compress: bool | None = None


class VersionRequest(InferRequest):
    """Parameters of an inference by an adapter.

    Attributes:
        version: "active", "untrained", or the number of an adapter version.
    """

    version: str = Field("active", pattern=r"^(active|untrained|[1-9][0-9]{0,8})$")

    @field_validator("version", mode="before")
    @classmethod
    def _first_version(cls, value: Any) -> Any:
        return _first_choice(value)


class WholeVolumeRequest(VersionRequest):
    """Parameters of an answer about a whole volume.

    Attributes:
        version: "active" or the number of an adapter version.
    """

    version: str = Field("active", pattern=r"^(active|[1-9][0-9]{0,8})$")


class SegmentationRequest(VersionRequest):
    """Parameters of an automatic segmentation.

    Attributes:
        uncertainty: whether slightly changed images are segmented too, which makes the expected Dice more certain.
    """

    uncertainty: bool = False


class InsightRequest(VersionRequest):
    """Parameters of a look into the network.

    Attributes:
        kind: features as colours, attention of the class token, or uncertainty of the segmentation.
    """

    kind: Literal["pca", "attention", "uncertainty"] = "pca"
    result_extension: Literal[".nii.gz", ".nii"] = ".nii.gz"

    @field_validator("kind", mode="before")
    @classmethod
    def _first_kind(cls, value: Any) -> Any:
        return _first_choice(value)


Millimetres = Annotated[float, Field(ge=-1e5, le=1e5, allow_inf_nan=False)]
Position = tuple[Millimetres, Millimetres, Millimetres]


class PointPrompt(BaseModel):
    """A click: right, front, up in mm; whether the structure is there."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    position: Position
    positive: bool = True


class BoxPrompt(BaseModel):
    """Two opposite corners in mm."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    low: Position
    high: Position


class InteractiveRequest(InferRequest):
    """Prompts of one structure, all of them each time.

    Attributes:
        structure: what it is called in the answer.
        points, box: the prompts.
        roi: only this part is looked at.
        given: what the label map that comes with the request is: scribbles, or the segmentation to correct.
    """

    structure: str = Field("structure", min_length=1, max_length=128)
    points: tuple[PointPrompt, ...] = Field((), max_length=10_000)
    box: BoxPrompt | None = None
    roi: BoxPrompt | None = None
    given: Literal["scribbles", "segmentation"] = "scribbles"


class TrainRequest(_Request):
    """Parameters of one training; what is None is left to fm3d_core.

    Attributes:
        preset: stages and their time: fast, balanced, thorough or auto. It takes the place of method, seconds and
            steps. None: auto if these are not given either. "none" is None, for clients that must send something.
        method, backbone, seconds, steps, seed: as in ``fm3d_core.adaptation.FinetuneSettings``.
        continue_from: the version that training goes on from: active, none or a number; None: active.
        labels: the structures to learn; None: see ``labels.structures_to_learn``.
        cases: ids of the labelled images to learn from; None for all.
        shots: how many of them to use, in the order of their names; None for all.
        recipe: a published recipe (GET /recipes/), which says all but seed, cases and length; "none" is None. Its own
            method gives way to ``method``.
        weights: with a recipe: recipe, shipped, random, or an id of weights that are here; None: the recipe's own.
            shipped and random are of a small network unless ``backbone`` says otherwise.
        epochs: with a recipe, rounds of its ``iterations``, instead of seconds or steps.
        run_id: stamped into the progress, so that a client knows its own run.
    """

    preset: Literal["fast", "balanced", "thorough", "auto", "none"] | None = None
    method: str | None = None
    backbone: str | None = None
    seconds: float | None = None
    steps: int | None = None
    seed: int | None = None
    continue_from: str | None = Field(None, pattern=r"^(active|none|[1-9][0-9]{0,8})$")
    labels: tuple[str, ...] | None = Field(None, min_length=1, max_length=255)
    cases: tuple[str, ...] | None = Field(None, min_length=1, max_length=100_000)
    shots: int | None = Field(None, ge=1)
    recipe: str | None = Field(None, pattern=r"^[A-Za-z0-9_]{1,64}(:[A-Za-z0-9_]{1,64})?$")
    weights: str | None = Field(None, pattern=f"^{SAFE_NAME.pattern}$")
    epochs: int | None = Field(None, ge=1, le=100_000)
    run_id: str | None = Field(None, pattern=f"^{SAFE_NAME.pattern}$")

    @field_validator("method", "preset", "recipe", "weights", mode="before")
    @classmethod
    def _first_method(cls, value: Any) -> Any:
        return _first_choice(value)

    @property
    def by_recipe(self) -> str | None:
        """The recipe that was chosen."""
        return None if self.recipe == "none" else self.recipe

    def finetune_settings(self) -> dict[str, Any]:
        """What goes to ``FinetuneSettings``, without a recipe."""
        own = self.model_dump(include={"method", "seconds", "steps"}, exclude_none=True)
        preset = None if self.preset == "none" else self.preset or (None if own else "auto")
        more = self.model_dump(include={"backbone", "seed", "continue_from"}, exclude_none=True)
        return {**more, "preset": preset} if preset else {**more, **own}


class SampleRequest(_Request):
    """Parameters of the choice of the next volume; the others are what MONAI Label's plugin sends."""

    labels: Any = None
    label_tag: str | None = None


_AnyRequest = TypeVar("_AnyRequest", bound=_Request)


def parse(kind: type[_AnyRequest], data: Mapping[str, Any]) -> _AnyRequest:
    """Check ``data``.

    Raises:
        SettingsError: unknown keys or impossible values, each named.
    """
    try:
        return kind.model_validate(dict(data))
    except ValidationError as error:
        raise SettingsError(
            f"the request cannot be used ({faults_in_words(error.errors())})",
            remedy=f"Known parameters: {', '.join(kind.model_fields)}",
        ) from error


def faults_in_words(faults: Any) -> str:
    """Pydantic's findings, each with the name of the field."""
    return "; ".join(
        f"{'.'.join(str(part) for part in fault['loc'])[:64]}: {_in_words(fault['type'], fault['msg'])}"
        for fault in list(faults)[:8]
    )


def check_name(name: object, what: str) -> str:
    """``name`` if it can safely become part of a file name.

    Raises:
        SettingsError: it cannot.
    """
    if not isinstance(name, str) or not SAFE_NAME.fullmatch(name):
        raise SettingsError(
            f"{what} {str(name)[:128]!r} is not allowed",
            remedy="Use 1 to 128 letters, digits, dots, hyphens or underscores, with no dot in front",
        )
    return name


def _first_choice(value: Any) -> Any:
    """MONAI Label's plugin sends the whole list of choices while the user has not picked one."""
    return value[0] if isinstance(value, list) and value else value


def _in_words(kind: str, message: str) -> str:
    return "unknown parameter" if kind == "extra_forbidden" else message[0].lower() + message[1:]
