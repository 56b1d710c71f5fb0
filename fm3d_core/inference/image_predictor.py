"""Answers about whole volumes: class probabilities, findings, values in their own unit, risk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fm3d_core.devices import autocast, choose_device, has_bfloat16
from fm3d_core.errors import SettingsError, Stopped
from fm3d_core.progress import ShouldStop, never_stop
from fm3d_core.tasks import WholeVolumeTask

if TYPE_CHECKING:
    import torch

    from fm3d_core.adaptation import Adapter, AdapterCard
    from fm3d_core.models.backbone import Size
    from fm3d_core.models.network import DenseNetwork
    from fm3d_core.volumes import Volume

FLIPS: tuple[tuple[int, ...], ...] = ((), (1,), (2,), (3,))  # axes of (C, X, Y, Z): none, and each one


class ImagePredictor:
    """Answers a question about whole volumes with one adapter, or with the mean of several of the same question.

    Args:
        adapters: one, or those of several folds.
        device: auto, cpu or cuda.
        flips: whether the answers for the volume and for it flipped along each axis are averaged; None: as the recipe
            says that the adapter was trained by.

    Raises:
        AdapterError: an adapter does not fit its backbone.
        WeightsError: a backbone's weight file is missing.
        SettingsError: the adapter is about voxels, or the adapters ask different questions.
    """

    def __init__(
        self, adapters: Adapter | Sequence[Adapter], device: str = "auto", *, flips: bool | None = None
    ) -> None:
        each = list(adapters) if isinstance(adapters, Sequence) else [adapters]
        self.card: AdapterCard = each[0].card
        task = self.card.task
        if not isinstance(task, WholeVolumeTask):
            raise SettingsError(
                f"the adapter answers about voxels ({task.kind}), not about whole volumes",
                remedy="Use fm3d_core.inference.Predictor, or choose another adapter",
            )
        if any((one.card.task.kind, one.card.task.labels) != (task.kind, task.labels) for one in each):
            raise SettingsError("the adapters answer different questions", remedy="Give the folds of one training")
        self.task: WholeVolumeTask = task
        self.cards = [one.card for one in each]
        self.flips = bool(self.card.settings.get("test_flips")) if flips is None else flips
        self.device = choose_device(device)
        self.networks = [_ready(one, self.device) for one in each]

    def activated(self, volume: Volume, *, should_stop: ShouldStop = never_stop) -> list[float]:
        """The numbers behind the answer (classes,): probabilities, values in their own unit, or a survival curve.

        Raises:
            SettingsError: another number of channels than the task is for.
            Stopped: ``should_stop`` said so.
        """
        import torch

        found = []
        for card, network in zip(self.cards, self.networks, strict=True):
            task = card.task
            assert isinstance(task, WholeVolumeTask) and task.preprocessing is not None
            prepared = task.preprocessing.prepare(volume)
            task.check_channels(len(prepared.image))
            if should_stop():
                raise Stopped("The prediction")
            views = FLIPS if self.flips else FLIPS[:1]
            found.append(
                image_answers(network, task, prepared.image, card.window, prepared.spacing, self.device, views)
            )
        return [float(value) for value in torch.stack(found).mean(0)]

    def predict(self, volume: Volume, *, should_stop: ShouldStop = never_stop) -> dict[str, Any]:
        """The answer in plain data, see the task's ``describe``: class and probabilities, findings, value, or risk.

        Raises:
            SettingsError: another number of channels than the task is for.
            Stopped: ``should_stop`` said so.
        """
        return self.task.describe(self.activated(volume, should_stop=should_stop))


def image_answers(
    network: DenseNetwork,
    task: WholeVolumeTask,
    image: torch.Tensor,
    crop: Size,
    spacing: tuple[float, float, float],
    device: torch.device,
    views: Sequence[tuple[int, ...]] = FLIPS[:1],
) -> torch.Tensor:
    """What the middle of a prepared image (C, X, Y, Z) says (classes,): the mean of what flipped copies say.

    Args:
        network: in evaluation mode.
        task: whose ``activate`` is averaged.
        image: prepared.
        crop: voxels of the middle.
        spacing: mm per voxel.
        device: where the network is.
        views: axes of ``image`` that are flipped, of each copy.
    """
    import torch

    from fm3d_core.adaptation.image_batches import cut

    middle = cut(image, crop).float()
    with torch.inference_mode():
        answers = []
        for axes in views:
            with autocast(device):
                scores = network((middle.flip(axes) if axes else middle)[None].to(device), spacing)
            answers.append(task.activate(scores.float()).cpu())
    return torch.cat(answers).mean(0)


def _ready(adapter: Adapter, device: torch.device) -> DenseNetwork:
    network = adapter.build_network().to(device)
    if network.backbone.kind == "tokens" and has_bfloat16(device):
        from fm3d_core.models.half_precision import for_inference

        network = for_inference(network, network.backbone)
    return network
