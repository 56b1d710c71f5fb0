"""The answer before any label: structures that the weights' own classifier knows by name (FSEFT's "generalization")."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from fm3d_core.adaptation.adapter import KNOWN_CLASSES, Adapter, AdapterCard, library_versions, now
from fm3d_core.adaptation.known_classes import row_of
from fm3d_core.adaptation.settings import FinetuneSettings
from fm3d_core.errors import SettingsError, WeightsError
from fm3d_core.models.weights.importing import choose_weights
from fm3d_core.models.weights.known_head import KnownHead, head_of
from fm3d_core.models.weights.store import card_of, weights_folder
from fm3d_core.models.zoo import BackboneSpec, backbone_sha256, create_backbone
from fm3d_core.tasks import SegmentationTask
from fm3d_core.volumes import Preprocessing

if TYPE_CHECKING:
    import torch

STAGE = "zero_shot"
CROP = (96, 96, 96)  # where the weights' own is not known


@dataclass(frozen=True)
class KnownStructures:
    """What weights know by name.

    Attributes:
        spec: of their backbone.
        head: their classifier.
        name: of the catalogue, or of their file.
    """

    spec: BackboneSpec
    head: KnownHead
    name: str


def known_structures(settings: FinetuneSettings, channels: int = 1) -> KnownStructures | None:
    """What the weights of ``settings`` know; None if they bring no classifier, or are for other images.

    Raises:
        FM3DError: the weights are not there, or are damaged.
    """
    if settings.weights is None or channels != 1:
        return None
    preset, sha256 = choose_weights(settings.weights, settings.backbone, channels)
    card = card_of(sha256) if sha256 is not None else None
    head = head_of(sha256, weights_folder()) if sha256 is not None else None
    if card is None or head is None:
        return None
    return KnownStructures(BackboneSpec(preset, channels, settings.seed, sha256), head, card.id or card.source)


def zero_shot_adapter(task: SegmentationTask, settings: FinetuneSettings) -> Adapter | None:
    """An adapter that needs no training; None if the weights do not know every structure of the task by name.

    Args:
        task: its preprocessing, if None, is that of the weights' pretraining.
        settings: with the weights.

    Raises:
        FM3DError: the weights are not there, or are damaged.
    """
    known = known_structures(settings, task.channels)
    if known is None or any(row_of(known.head, name) is None for name in task.labels):
        return None
    backbone = create_backbone(known.spec)
    if known.head.weight.shape[1] != backbone.feature_channels[0]:
        raise WeightsError(
            f"their classifier takes {known.head.weight.shape[1]} channels, the backbone gives "
            f"{backbone.feature_channels[0]}",
            remedy="Import the weights again",
        )
    fed = known.head.fed
    planned = Preprocessing(spacing=fed.spacing, window=fed.window, input_range=fed.range)
    card = AdapterCard(
        task=replace(task, preprocessing=task.preprocessing or planned),
        method="none",
        backbone=known.spec,
        backbone_sha256=backbone_sha256(backbone),
        window=fed.crop or CROP,
        settings=replace(settings, method="none").to_dict(),
        training={"steps": 0, "seconds": 0.0},
        notes=(_note(known, task),),
        head=KNOWN_CLASSES,
        stage=STAGE,
        versions=library_versions(),
        created=now(),
    )
    return Adapter(card, _rows(known, task))


def require_zero_shot(task: SegmentationTask, settings: FinetuneSettings) -> Adapter:
    """The same, where there is nothing else to fall back to.

    Raises:
        SettingsError: no weights, weights without a classifier, or a structure that they do not know.
    """
    adapter = zero_shot_adapter(task, settings)
    if adapter is not None:
        return adapter
    known = known_structures(settings, task.channels)
    if known is None:
        raise SettingsError(
            f"the weights {settings.weights or 'that come with FM3D'} know no structure by name",
            remedy="Take weights with a classifier, fseft or btcv (fm3d weights list), or label a volume and train",
        )
    missing = [name for name in task.labels if row_of(known.head, name) is None]
    raise SettingsError(
        f"the weights {known.name} do not know {', '.join(missing)}",
        remedy=f"They know: {', '.join(known.head.structures)}. For others label a volume and train",
    )


def _rows(known: KnownStructures, task: SegmentationTask) -> dict[str, torch.Tensor]:
    """The tensors of :class:`fm3d_core.models.heads.KnownClassesHead`.

    A classifier of sigmoids says yes where its logit is above 0: among softmax classes that is a background of 0.
    """
    import torch

    head = known.head
    asked = [row for name in task.labels if (row := row_of(head, name)) is not None]
    others = [row for row in range(len(head.classes)) if row not in asked]
    rest_weight, rest_bias = head.weight[others], head.bias[others]
    if head.rule == "sigmoid":
        rest_weight, rest_bias = torch.zeros(1, head.weight.shape[1]), torch.zeros(1)
    return {
        "head.structures.weight": head.weight[asked][:, :, None, None, None].contiguous(),
        "head.structures.bias": head.bias[asked].contiguous(),
        "head.others.weight": rest_weight[:, :, None, None, None].contiguous(),
        "head.others.bias": rest_bias.contiguous(),
    }


def _note(known: KnownStructures, task: SegmentationTask) -> str:
    names = []
    for label in task.labels:
        row = row_of(known.head, label)
        assert row is not None
        theirs = known.head.classes[row]
        names.append(label if label == theirs else f"{label} (there {theirs})")
    fed = known.head.fed
    window = f"; they know CT with {fed.window[0]:g} to {fed.window[1]:g} HU" if fed.window else ""
    return f"Nothing was trained: the classifier of the weights {known.name} knows {', '.join(names)}{window}"
