"""Transductive refinement: the head is adapted to one volume until its structures have a believable size.

FSEFT's transductive inference (Silva-Rodriguez et al. 2023, "Towards foundation models and few-shot parameter-efficient
fine-tuning for volumetric organ segmentation"): a penalty on sizes outside of a margin around the mean size in the
labelled volumes, with gradient steps on the head alone. There it is added to the loss on the labelled volumes; here,
where these are not at hand, to the divergence from what the head said before. The reference implementation adds the
margin on the negative side where it should subtract it, and so punishes sizes that are right; here both sides are the
same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from fm3d_core.adaptation.size_prior import MARGIN, size_priors
from fm3d_core.errors import SettingsError, Stopped
from fm3d_core.progress import ProgressCallback, ShouldStop, StageClock, ignore_progress, never_stop

if TYPE_CHECKING:
    import torch

    from fm3d_core.inference.prediction import Prediction
    from fm3d_core.inference.predictor import Predictor
    from fm3d_core.inference.volume_maps import MapsOfWindow, SizeSample


@dataclass(frozen=True)
class RefinementSettings:
    """How far the head may go; the defaults are FSEFT's, but for the learning rate.

    Attributes:
        weight: of the penalty against the divergence from the first probabilities.
        margin: relative deviation of a size that is not punished.
        steps: of AdamW at most; it ends as soon as all sizes are within the margin.
        learning_rate: of AdamW, on features of unit variance.
    """

    weight: float = 0.1
    margin: float = MARGIN
    steps: int = 50
    learning_rate: float = 0.01


@dataclass(frozen=True)
class Refinement:
    """What the refinement changed.

    Attributes:
        prediction: the refined one, with its own scores and sizes.
        changed: voxels of the volume that have another class than before.
        before, after: structure -> ml.
        wanted: structure -> mean ml in the labelled volumes.
        steps: that were made; 0 where every size was within the margin.
    """

    prediction: Prediction
    changed: int
    before: dict[str, float]
    after: dict[str, float]
    wanted: dict[str, float]
    steps: int


def refine(
    predictor: Predictor,
    prediction: Prediction,
    *,
    settings: RefinementSettings | None = None,
    progress: ProgressCallback = ignore_progress,
    should_stop: ShouldStop = never_stop,
) -> Refinement:
    """Adapt the head to one volume; the predictor itself stays as it is.

    Args:
        predictor: with a linear head.
        prediction: of :meth:`Predictor.predict`.
        settings: None for the usual ones.
        progress: receives the stages "features of this volume" and "refining".
        should_stop: asked at every window and step.

    Raises:
        SettingsError: the structures overlap, the head is not linear, or the adapter knows no sizes.
        Stopped: ``should_stop`` said so.
    """
    from fm3d_core.adaptation.closed_form import linear_part
    from fm3d_core.inference.volume_maps import maps_of_volume, size_sample
    from fm3d_core.models.heads import LinearHead

    if not predictor.card.task.exclusive:
        raise SettingsError("regions that overlap cannot be refined", remedy="Leave the refinement out")
    settings = settings or RefinementSettings()
    head = linear_part(predictor.network.head)
    if not isinstance(head, LinearHead) or predictor.network.runs_backbone:
        raise SettingsError(
            f"the head {predictor.card.head} of this adapter is not linear and cannot be refined",
            remedy="Leave the refinement out, or train with --head linear",
        )
    priors = {name: prior for name, prior in size_priors(predictor.card.sizes).items() if not prior.absent}
    if not priors:
        raise SettingsError(
            "the adapter does not know how large its structures are, so nothing can be refined",
            remedy="Train again, with at least one volume labelled as a whole",
        )
    errors = [_error(prediction.sizes[name], prior.mean) for name, prior in priors.items()]
    wanted = {name: prior.mean for name, prior in priors.items()}
    if all(abs(error) <= settings.margin for error in errors):
        return Refinement(prediction, 0, prediction.sizes, prediction.sizes, wanted, 0)
    windows = maps_of_volume(predictor, prediction, progress, should_stop)
    sample = size_sample(windows, prediction)
    targets = {predictor.card.task.values[name]: size for name, size in wanted.items()}
    clock = StageClock("refining", settings.steps, progress)
    change, made = _steps(sample, targets, settings, clock, should_stop)
    return replace(_applied(predictor, prediction, windows, change), wanted=wanted, steps=made)


def _error(size: float, wanted: float) -> float:
    """FSEFT's relative error of a size, from -1 to 1."""
    return (wanted - size) / max(wanted, size)


def _steps(
    sample: SizeSample,
    targets: Mapping[int, float],
    settings: RefinementSettings,
    clock: StageClock,
    should_stop: ShouldStop,
) -> tuple[torch.Tensor, int]:
    """The change of the head's weights (C + 1, classes), the bias last, and the number of steps."""
    import torch
    from torch.nn import functional as F

    before, share = sample.scores.softmax(1), sample.ml / sample.ml.sum()
    # features of a common scale: one learning rate then suits all of them
    scale = sample.features.std(0) + 1e-3
    design = F.pad((sample.features - sample.features.mean(0)) / scale, (0, 1), value=1.0)
    change = torch.zeros((design.shape[1], sample.scores.shape[1]), requires_grad=True)
    optimiser, made = torch.optim.AdamW([change], lr=settings.learning_rate, weight_decay=0.0), 0
    for made in range(settings.steps):
        if should_stop():
            raise Stopped("The refinement")
        clock.report(made)
        now = (sample.scores + design @ change).log_softmax(1)
        penalty = size_penalty((now.exp() * sample.ml[:, None]).sum(0), targets, settings.margin)
        if float(penalty.detach()) == 0:
            break
        divergence = (F.kl_div(now, before, reduction="none").sum(1) * share).sum() / (1 - before[:, 0] @ share)
        optimiser.zero_grad(set_to_none=True)
        (divergence + settings.weight * penalty).backward()
        optimiser.step()
    else:
        made = settings.steps
    clock.report(settings.steps)
    slopes = change.detach()[:-1] / scale[:, None]
    bias = change.detach()[-1] - sample.features.mean(0) @ slopes
    return torch.cat([slopes, bias[None]]), made


def size_penalty(sizes: torch.Tensor, targets: Mapping[int, float], margin: float) -> torch.Tensor:
    """The part of each structure's relative error that is beyond the margin, added up.

    Args:
        sizes: (classes,) ml.
        targets: class -> ml.
        margin: of the relative error (target - size) / max(target, size).
    """
    import torch

    errors = [(target - sizes[value]) / torch.clamp(sizes[value], min=target) for value, target in targets.items()]
    return (torch.stack(errors).abs() - margin).clamp(min=0).sum()


def _applied(
    predictor: Predictor, prediction: Prediction, windows: Sequence[MapsOfWindow], change: torch.Tensor
) -> Refinement:
    """Add what the changed weights change to the scores, which keep their blending of windows."""
    import numpy as np
    import torch

    from fm3d_core.inference.prediction import confidence_of, normalised_entropy, sizes_in_ml
    from fm3d_core.models.heads import LinearHead

    difference = LinearHead([each.shape[1] for each in windows[0].maps], change.shape[1])
    with torch.no_grad():
        start = 0
        for classifier in difference.classifiers:
            assert isinstance(classifier, torch.nn.Conv3d)
            part = change[start : start + classifier.in_channels].T
            classifier.weight.copy_(part.reshape(classifier.weight.shape))
            start += classifier.in_channels
            if classifier.bias is not None:
                classifier.bias.copy_(change[-1])
        scores = prediction.scores.clone()
        for window in windows:
            added = difference([each.float() for each in window.maps], window.padded)[0]
            x, y, z = scores[0][window.box].shape
            scores[(slice(None), *window.box)] = prediction.scores[(slice(None), *window.box)] + added[:, :x, :y, :z]
    labels = prediction.prepared.restore_segmentation(scores)
    classes, probabilities = scores.argmax(0), scores.softmax(0)
    refined = replace(
        prediction,
        labels=labels,
        uncertainty=prediction.prepared.restore_map(normalised_entropy(probabilities)),
        sizes=sizes_in_ml(labels, prediction.voxel_ml, predictor.card.task.values),
        confidence={
            name: confidence_of(classes == value, probabilities[value])
            for name, value in predictor.card.task.values.items()
        },
        scores=scores,
    )
    changed = int(np.count_nonzero(labels != prediction.labels))
    return Refinement(refined, changed, prediction.sizes, refined.sizes, {}, 0)
