"""From a weight file, an id or nothing to a backbone's preset and its converted weights."""

from __future__ import annotations

import json
import logging
import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fm3d_core.errors import SettingsError, WeightsError
from fm3d_core.models.weights.catalogue import NetworkInput, WeightEntry, catalogue, find_entry
from fm3d_core.models.weights.known_head import KnownHead, find_head, keep_head, own_head
from fm3d_core.models.weights.pretrained import no_backbone, told_by
from fm3d_core.models.weights.shipped_weights import shipped_weights
from fm3d_core.models.weights.store import WeightCard, keep_weights, weight_cards, weights_folder
from fm3d_core.models.zoo import BackboneSpec, check_preset, create_backbone, meaning, presets

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)
DEFAULT_BACKBONE = "residual_unet_small"
RANDOM = "random"  # what users say for no pretrained weights


def import_checkpoint(
    path: str | Path,
    id: str | None = None,
    backbone: str | None = None,
    input_channels: int = 1,
    *,
    own_backbone: str | None = None,
    may_fold: bool = False,
) -> WeightCard:
    """Convert a weight file and keep it in the cache.

    Args:
        path: a public file as its authors published it, or a file with the names of our own modules.
        id: of the catalogue; None: recognised by the names of its tensors, then by its own name.
        backbone: for a public file of another size, another preset of the same family; for our own names, the preset.
        input_channels: image channels.
        own_backbone: the preset for our own names if ``backbone`` is None.
        may_fold: where the image has several channels and the file's first layers are of one, take it as a backbone of
            one channel, which then sees the channels one by one.

    Raises:
        SettingsError: unknown id or preset, or a preset that contradicts the weights.
        WeightsError: unreadable, of no known or of several layouts, or not the whole encoder lands.
    """
    from fm3d_core.models.weights.reading import read_checkpoint

    path = Path(path)
    content = read_checkpoint(path)
    told = None if id is not None else told_by(path)
    if told is not None:
        # a file that fits no preset is of its own options, unless the user insists on a preset
        options = told.options if backbone in (None, told.preset) else None
        if options is not None:
            _check_options(told.preset, options, path)
        chosen, head = backbone or told.preset, own_head(path)
        return _keep_own(content, path, chosen, input_channels, options, may_fold=may_fold, head=head)
    entry = find_entry(id) if id is not None else recognise(content, path)
    if entry is not None:
        chosen = backbone or entry.backbone
        if may_fold and input_channels > 1:
            input_channels = _channels_of(entry, content, path, chosen, input_channels)
        return _convert(entry, content, path, chosen, input_channels, id=entry.id)
    preset = backbone or own_backbone
    if preset is None:
        raise WeightsError(
            "its tensors have names of no known layout",
            path=path,
            remedy="Say with --as which weights it holds, or with --backbone for which backbone of ours it is",
        )
    return _keep_own(content, path, preset, input_channels, may_fold=may_fold)


def recognise(content: dict[str, Any], path: Path) -> WeightEntry | None:
    """The entry whose layout a file has; None if it has none of them.

    Raises:
        WeightsError: several fit.
    """
    candidates = [entry for entry in catalogue().values() if _has_signature(entry, content)]
    if len(candidates) > 1:
        candidates = [entry for entry in candidates if _is_complete(entry, content, path)] or candidates
    if len(candidates) > 1:
        candidates = [entry for entry in candidates if path.name in entry.files] or candidates
    if len(candidates) > 1:
        names = " or ".join(entry.id for entry in candidates)
        raise WeightsError(
            f"its tensors have the names of {names}, which nothing in the file tells apart",
            path=path,
            remedy="Say with --as which weights it holds (fm3d weights list)",
        )
    return candidates[0] if candidates else None


def choose_weights(weights: str | Path | None, backbone: str | None, input_channels: int = 1) -> tuple[str, str | None]:
    """The preset and the sha256 of the converted weights that a user's ``--weights`` and ``--backbone`` mean.

    Args:
        weights: a file in our own layout, a public file, an id of the catalogue that was fetched or imported, the id of
            weights that come with the package, or None or "random" for random weights.
        backbone: a preset; None: the one the weights are for.
        input_channels: image channels. The weights may be of one channel instead: see their card.

    Raises:
        SettingsError: unknown preset, or one that contradicts the weights.
        WeightsError: no such file or id, unreadable, or not the whole encoder lands.
    """
    if backbone is not None:
        check_preset(backbone)
    if weights is None or str(weights) == RANDOM:
        return backbone or DEFAULT_BACKBONE, None
    if (shipped := shipped_weights().get(str(weights))) is not None:
        if backbone not in (None, shipped.backbone):
            raise SettingsError(
                f"the weights {shipped.id} are for {shipped.backbone}, not {backbone}",
                remedy=f"Leave --backbone out, or say {shipped.backbone}",
            )
        return shipped.backbone, shipped.sha256
    path = Path(weights)
    if not path.is_file() and str(weights) in catalogue():
        card = imported(str(weights))
        if backbone not in (None, card.backbone):
            raise _contradiction(find_entry(str(weights)), card.backbone, backbone)
        return _chosen(card)
    if not path.is_file():
        raise WeightsError(
            "no such weight file", path=path, remedy="Give a file, or an id of fm3d weights list that is here"
        )
    card = import_checkpoint(path, None, backbone, input_channels, own_backbone=DEFAULT_BACKBONE, may_fold=True)
    return _chosen(card)


def _chosen(card: WeightCard) -> tuple[str, str]:
    if card.report.random:
        logger.warning("weights %s: %s", card.id or card.source, "; ".join(card.report.lines()))
    return card.backbone, card.sha256


def imported(id: str) -> WeightCard:
    """The newest converted copy of a catalogue entry.

    Raises:
        WeightsError: it is not on this computer.
    """
    found = next((card for card in weight_cards() if card.id == id), None)
    if found is None:
        remedy = f"Get it with fm3d weights fetch {id}, or fm3d weights import FILE --as {id}"
        raise WeightsError(f"the weights {id} are not on this computer", remedy=remedy)
    return found


def import_own(path: str | Path, preset: str, input_channels: int = 1) -> WeightCard:
    """Convert a file with the names of our own modules; every tensor of the backbone must be in it.

    Raises:
        SettingsError: unknown preset.
        WeightsError: unreadable, not a weight file, or not all of the backbone's tensors land.
    """
    from fm3d_core.models.weights.reading import read_checkpoint

    return _keep_own(read_checkpoint(path), Path(path), preset, input_channels)


def expected_tensors(preset: str, input_channels: int = 1, options: str | None = None) -> dict[str, torch.Tensor]:
    """Names, shapes and dtypes of a preset's tensors; they hold no memory.

    Args:
        options: of its class, in place of the preset's, as JSON.

    Raises:
        SettingsError: unknown preset.
    """
    check_preset(preset)
    return _blueprint(preset, input_channels, options)[0]


@cache
def _blueprint(
    preset: str, input_channels: int = 1, options: str | None = None
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """A preset's tensors, on the meta device, and the options that give them their meaning."""
    import torch

    # MONAI's Swin UNETR computes with tensors while it is built and cannot be built without memory
    place = "cpu" if presets()[preset]["class"] == "SwinUNETRBackbone" else "meta"
    with torch.device(place):
        backbone = create_backbone(
            BackboneSpec(preset, input_channels), None if options is None else json.loads(options)
        )
    state: dict[str, torch.Tensor] = backbone.state_dict()  # type: ignore[attr-defined]
    return {name: tensor.to("meta") for name, tensor in state.items()}, meaning(backbone.config)


def _check_options(preset: str, options: str, path: Path) -> None:
    """Raise WeightsError unless a backbone of the preset's class, with tensors, can be built with the options."""
    try:
        tensors, _ = _blueprint(preset, 1, options)
    except (TypeError, ValueError, LookupError, ArithmeticError, AttributeError, AssertionError, RuntimeError) as error:
        raise no_backbone(path) from error
    if not tensors:
        raise no_backbone(path)


def _keep_own(
    content: dict[str, Any],
    path: Path,
    preset: str,
    input_channels: int,
    options: str | None = None,
    *,
    may_fold: bool = False,
    head: KnownHead | None = None,
) -> WeightCard:
    check_preset(preset)
    wrapper = next((key for key in ("state_dict", "model", "net") if isinstance(content.get(key), dict)), None)
    layout = WeightEntry(
        id=preset,
        backbone=preset,
        wrapper=wrapper,
        encoder=".",
        unused=".",
        properties=_blueprint(preset, 1, options)[1],
    )
    if may_fold and input_channels > 1:
        input_channels = _channels_of(layout, content, path, preset, input_channels, options)
    return _convert(layout, content, path, preset, input_channels, id=None, options=options, head=head)


def _channels_of(
    entry: WeightEntry, content: dict[str, Any], path: Path, preset: str, wanted: int, options: str | None = None
) -> int:
    """1 if every tensor whose shape depends on the image's channels has that of one channel, else ``wanted``."""
    from fm3d_core.models.weights.landing import rename

    one, several = expected_tensors(preset, 1, options), expected_tensors(preset, wanted, options)
    shapes = {ours: tensor.shape for ours, (_, tensor) in rename(entry, content, path).items()}
    first = [name for name, tensor in one.items() if tensor.shape != several[name].shape and name in shapes]
    return 1 if first and all(shapes[name] == one[name].shape for name in first) else wanted


def _convert(
    entry: WeightEntry,
    content: dict[str, Any],
    path: Path,
    preset: str,
    input_channels: int,
    *,
    id: str | None,
    options: str | None = None,
    head: KnownHead | None = None,
) -> WeightCard:
    from fm3d_core.models.weights.landing import land

    if options is None:
        _check_family(entry, preset)
    tensors, report = land(entry, content, expected_tensors(preset, input_channels, options), path)
    head = head or _head_in(entry, content, path)
    if head is not None:
        report = replace(report, known=head.structures)
    if head is not None and entry.head is not None:
        used = {f"{entry.head.name}.{kind}" for kind in ("weight", "bias")}
        unused = tuple(name for name in report.unused if entry.renamed(name) not in used)
        report = replace(report, unused=unused)
    header: dict[str, Any] = {"properties": dict(entry.properties), "random": list(report.random)}
    if options is not None:
        header["options"] = json.loads(options)
    card = keep_weights(
        tensors,
        header,
        path,
        id=id,
        backbone=preset,
        input_channels=input_channels,
        licence=entry.licence_and_terms,
        citation=entry.citation,
        report=report,
    )
    if head is not None:
        keep_head(card.sha256, head, weights_folder())
    return card


def _head_in(entry: WeightEntry, content: dict[str, Any], path: Path) -> KnownHead | None:
    """The classifier in a file, if the catalogue says what its rows mean."""
    from fm3d_core.models.weights.landing import rename

    if entry.head is None:
        return None
    tensors = {ours: tensor for ours, (_, tensor) in rename(entry, content, path).items()}
    return find_head(entry.head, entry.input or NetworkInput((-1.0, 1.0)), tensors, path)


def _check_family(entry: WeightEntry, preset: str) -> None:
    check_preset(preset)
    same_class = presets()[preset]["class"] == presets()[entry.backbone]["class"]
    if not same_class or _blueprint(preset)[1] != dict(entry.properties):
        raise _contradiction(entry, entry.backbone, preset)


def _contradiction(entry: WeightEntry, belongs: str, backbone: str | None) -> SettingsError:
    why = "".join(f", {name} {value}" for name, value in entry.properties.items())
    return SettingsError(
        f"the weights {entry.id} are for the backbone {belongs}{why}, not for {backbone}",
        remedy=f"Leave --backbone out, or say --backbone {belongs}",
    )


def _has_signature(entry: WeightEntry, content: dict[str, Any]) -> bool:
    from fm3d_core.models.weights.reading import named_tensors

    return any(re.search(entry.signature, name) for name in named_tensors(content, entry.wrapper))


def _is_complete(entry: WeightEntry, content: dict[str, Any], path: Path) -> bool:
    """Whether by its names the whole encoder is there, and nothing the catalogue does not know."""
    from fm3d_core.models.weights.landing import rename

    ours = set(rename(entry, content, path))
    expected = expected_tensors(entry.backbone)
    encoder = {name for name in expected if re.search(entry.encoder, name)}
    return encoder <= ours and all(re.search(entry.unused, name) for name in ours - set(expected))
