"""Going on from an adapter when labels arrive: its weights are the start, its structures keep their rows by name."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from fm3d_core.errors import AdapterError
from fm3d_core.tasks.segmentation import SegmentationTask

if TYPE_CHECKING:
    import torch

    from fm3d_core.adaptation.adapter import Adapter, AdapterCard
    from fm3d_core.adaptation.settings import FinetuneSettings
    from fm3d_core.models.network import DenseNetwork
    from fm3d_core.tasks import DenseTask, Task


def why_not(card: AdapterCard, task: Task, settings: FinetuneSettings, backbone_sha256: str) -> str | None:
    """Why training cannot go on from an adapter, in words; None if it can.

    Args:
        card: of the adapter.
        task: what is to be learned: all of the adapter's structures, and maybe more.
        settings: of the training, with its method and head.
        backbone_sha256: of the backbone before training.
    """
    if card.task.kind != task.kind:
        return f"it answers another kind of question ({card.task.kind})"
    if not card.cases:
        return "it has learned from no volume"
    if card.backbone_sha256 != backbone_sha256:
        return f"it is for another backbone ({card.backbone.preset})"
    for name in ("method", "head", "decoder", "bottleneck", "rank", "alpha"):
        if (its := getattr(card, name)) != (ours := getattr(settings, name)):
            return f"its {name} is {its}, not {ours}"
    if card.task.channels != task.channels:
        return f"it is for images of {card.task.channels} channels"
    if missing := [name for name in card.task.labels if name not in task.labels]:
        return f"it has also learned {', '.join(missing)}"
    if task.preprocessing is not None and task.preprocessing != card.task.preprocessing:
        return "its volumes were prepared otherwise"
    return None


def knows_all(start: Adapter, task: Task) -> bool:
    """Whether an adapter has learned every structure of a task."""
    return set(task.labels) <= set(start.card.task.labels)


def go_on_from(start: Adapter, network: DenseNetwork, task: DenseTask, head: str, *, linear: bool) -> None:
    """Copy an adapter's weights into a network, in place.

    The rows of classes (their weights and biases in the last layer) go by name; those of structures that the adapter
    does not know stay as they are in ``network``.

    Args:
        start: fits, see :func:`why_not`.
        network: of the same backbone, method and head, for ``task``.
        task: what it is for.
        head: name of the head.
        linear: what "auto" means, as in :meth:`fm3d_core.tasks.SegmentationTask.build_head`.

    Raises:
        AdapterError: the tensors do not fit after all.
    """
    import torch

    from fm3d_core.adaptation.adapter import trained_tensors

    old = start.card.task.values
    known = {0: 0, **{value: old[name] for name, value in task.values.items() if name in old}}
    into, source = torch.tensor(list(known)), torch.tensor(list(known.values()))
    rows = _class_rows(network, task, head, linear=linear)
    with torch.no_grad():
        for name, tensor in trained_tensors(network).items():
            given = start.tensors.get(name)
            rows_fit = given is not None and given.shape[1:] == tensor.shape[1:]
            if given is None or not (rows_fit if name in rows else given.shape == tensor.shape):
                raise AdapterError(f"training cannot go on from it: {name} does not fit", remedy="Train without it")
            if name in rows:
                tensor[into.to(tensor.device)] = given[source].to(tensor)
            else:
                tensor.copy_(given)


def _class_rows(network: DenseNetwork, task: DenseTask, head: str, *, linear: bool) -> set[str]:
    """Names of the network's tensors that have one row per class: those that one more structure would change."""
    import torch

    from fm3d_core.models.heads import AdaptedHead

    inner, prefix = network.head, "head."
    if isinstance(inner, AdaptedHead):
        inner, prefix = inner.head, "head.head."
    if not isinstance(task, SegmentationTask):
        return set()
    larger = replace(task, labels=(*task.labels, "/".join(task.labels) + "/"))
    with torch.random.fork_rng(devices=[]):
        other: dict[str, torch.Tensor] = larger.build_head(network.backbone, head, linear=linear).state_dict()
    own: dict[str, torch.Tensor] = inner.state_dict()
    return {prefix + name for name, tensor in other.items() if own[name].shape != tensor.shape}
