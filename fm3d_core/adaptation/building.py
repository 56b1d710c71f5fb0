"""The network that a training begins from: which weights, which backbone, and what the method adds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fm3d_core.adaptation.known_classes import begin_with, known_rows, known_solution
from fm3d_core.adaptation.methods import Method, Scratch
from fm3d_core.adaptation.settings import FinetuneSettings
from fm3d_core.models.weights.catalogue import find_entry
from fm3d_core.models.weights.importing import DEFAULT_BACKBONE, RANDOM, choose_weights
from fm3d_core.models.weights.shipped_weights import shipped_for
from fm3d_core.models.weights.store import card_of, channels_of_weights
from fm3d_core.models.zoo import BackboneSpec, backbone_sha256, create_backbone
from fm3d_core.tasks import SegmentationTask

if TYPE_CHECKING:
    from fm3d_core.adaptation.closed_form import Solution
    from fm3d_core.models.network import DenseNetwork
    from fm3d_core.models.weights.catalogue import NetworkInput
    from fm3d_core.tasks import Task


def spec_of(settings: FinetuneSettings, channels: int) -> tuple[BackboneSpec, NetworkInput | None]:
    """What builds the backbone, and what its weights were fed with in pretraining, if that is known and wanted."""
    preset, weights = _choose_weights(settings, channels)
    weight_card = card_of(weights) if weights else None
    fold = channels > 1 and weights is not None and channels_of_weights(weights) == 1
    fed = find_entry(weight_card.id).input if weight_card and weight_card.id and settings.match_weights else None
    return BackboneSpec(preset, channels, settings.seed, weights, fold), fed


@dataclass(frozen=True)
class Built:
    """The network ready to train.

    Attributes:
        network: backbone and head, with what the method adds.
        spec: what rebuilds the backbone.
        sha256: the backbone's identity.
        notes: what was chosen for the user.
        known: a linear head of the weights' own classifier, if that knows every structure by name.
    """

    network: DenseNetwork
    spec: BackboneSpec
    sha256: str
    notes: tuple[str, ...]
    known: Solution | None = None


def build(task: Task, settings: FinetuneSettings, method: Method) -> Built:
    """The network that a training with these settings begins from.

    Raises:
        FM3DError: a mistake in settings or weights.
    """
    spec, _ = spec_of(settings, task.channels)
    notes: tuple[str, ...] = ()
    if spec.fold_channels:
        notes = (f"The weights are of one channel: they see the {task.channels} channels of the image one by one",)
    backbone = create_backbone(spec)
    sha256 = backbone_sha256(backbone)

    import torch

    from fm3d_core.adaptation.closed_form import linear_part
    from fm3d_core.models.heads import LinearHead

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        network = task.build_network(backbone, settings.head, linear=method.linear_head)
        method.apply(network)
    rows = known_rows(task, spec) if isinstance(task, SegmentationTask) else {}
    head = linear_part(network.head)
    if rows and not settings.closed_form and isinstance(head, LinearHead):
        begin_with(rows, head)
    # modules that only train (LoRA's dropout, stochastic depth) act; a frozen backbone stays in evaluation mode
    network.train()
    if method.frozen_backbone:
        network.backbone.eval()
    known = known_solution(rows, task.classes, sum(backbone.feature_channels))
    return Built(network, spec, sha256, notes, known)


def _choose_weights(settings: FinetuneSettings, channels: int) -> tuple[str, str | None]:
    """Preset and hash; where the user says nothing of weights, those that come with the package for the backbone."""
    if settings.method == Scratch.name:
        return choose_weights(RANDOM, settings.backbone, channels)
    if settings.weights is None:
        shipped = shipped_for(settings.backbone or DEFAULT_BACKBONE)
        return choose_weights(shipped.id if shipped else None, settings.backbone, channels)
    return choose_weights(settings.weights, settings.backbone, channels)
