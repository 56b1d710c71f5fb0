"""From a weight file, an id or nothing to a backbone's preset and its converted weights."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fm3d_core.errors import SettingsError, WeightsError
from fm3d_core.models.weights.catalogue import WeightEntry, catalogue, find_entry
from fm3d_core.models.weights.store import WeightCard, keep_weights, weight_cards
from fm3d_core.models.zoo import BackboneSpec, check_preset, create_backbone, meaning, presets

if TYPE_CHECKING:
    import torch

DEFAULT_BACKBONE = "residual_unet_small"


def import_checkpoint(
    path: str | Path, id: str | None = None, backbone: str | None = None, input_channels: int = 1
) -> WeightCard:
    """Convert a public weight file and keep it in the cache.

    Args:
        path: the file as its authors published it.
        id: of the catalogue; None: recognised by the names of its tensors, then by its own name.
        backbone: another preset of the same family, for a file of another size.
        input_channels: image channels.

    Raises:
        SettingsError: unknown id or preset.
        WeightsError: unreadable, of no known or of several layouts, or not the whole encoder lands.
    """
    from fm3d_core.models.weights.reading import read_checkpoint

    path = Path(path)
    content = read_checkpoint(path)
    entry = find_entry(id) if id is not None else recognise(content, path)
    return _convert(entry, content, path, backbone, input_channels)


def recognise(content: dict[str, Any], path: Path) -> WeightEntry:
    """The entry whose layout a file has.

    Raises:
        WeightsError: none or several fit.
    """
    remedy = "Say with --as which weights it holds (fm3d weights list)"
    candidates = [entry for entry in catalogue().values() if _has_signature(entry, content)]
    if len(candidates) > 1:
        candidates = [entry for entry in candidates if _is_complete(entry, content, path)] or candidates
    if len(candidates) > 1:
        candidates = [entry for entry in candidates if path.name in entry.files] or candidates
    if not candidates:
        raise WeightsError("its tensors have names of no known layout", path=path, remedy=remedy)
    if len(candidates) > 1:
        names = " or ".join(entry.id for entry in candidates)
        raise WeightsError(
            f"its tensors have the names of {names}, which nothing in the file tells apart", path=path, remedy=remedy
        )
    return candidates[0]


def choose_weights(
    weights: str | Path | None, backbone: str | None, input_channels: int = 1
) -> tuple[str, str | None]:
    """The preset and the sha256 of the converted weights that a user's ``--weights`` and ``--backbone`` mean.

    Args:
        weights: a file in our own layout, a public file, an id of the catalogue that was fetched or imported, or None.
        backbone: a preset; None: the one the weights are for.
        input_channels: image channels.

    Raises:
        SettingsError: unknown preset, or one that contradicts the weights.
        WeightsError: no such file or id, unreadable, or not the whole encoder lands.
    """
    if backbone is not None:
        check_preset(backbone)
    if weights is None:
        return backbone or DEFAULT_BACKBONE, None
    path = Path(weights)
    if not path.is_file() and str(weights) in catalogue():
        card = imported(str(weights))
        if backbone not in (None, card.backbone):
            raise _contradiction(find_entry(str(weights)), card.backbone, backbone)
        return card.backbone, card.sha256
    if not path.is_file():
        raise WeightsError(
            "no such weight file", path=path, remedy="Give a file, or an id of fm3d weights list that is here"
        )
    return _from_file(path, backbone, input_channels)


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
    """Check a file in our own layout against a preset and keep it in the cache.

    Every tensor of the backbone must be in the file under our name and with its shape.

    Raises:
        SettingsError: unknown preset.
        WeightsError: unreadable, not a weight file, or not all of the backbone's tensors land.
    """
    from fm3d_core.models.weights.reading import read_checkpoint

    path = Path(path)
    tensors = _own_tensors(read_checkpoint(path))
    expected = expected_tensors(preset, input_channels)
    landed = {
        name: tensors[name].to(tensor.dtype)
        for name, tensor in expected.items()
        if name in tensors and tensors[name].shape == tensor.shape
    }
    if len(landed) < len(expected):
        missing = next(name for name in expected if name not in landed)
        raise WeightsError(
            f"only {len(landed)} of the backbone's {len(expected)} tensors are in it with the right shape "
            f"(first missing: {missing})",
            path=path,
            remedy="Choose the backbone this file was made for",
        )
    return keep_weights(
        landed,
        {"properties": _blueprint(preset, input_channels)[1]},
        path,
        id=None,
        backbone=preset,
        input_channels=input_channels,
        licence="",
        citation="",
        report={"landed": [len(landed), len(expected)], "unused": sorted(set(tensors) - set(landed))},
    )


def expected_tensors(preset: str, input_channels: int = 1) -> dict[str, torch.Tensor]:
    """Names, shapes and dtypes of a preset's tensors; they hold no memory.

    Raises:
        SettingsError: unknown preset.
    """
    check_preset(preset)
    return _blueprint(preset, input_channels)[0]


@cache
def _blueprint(preset: str, input_channels: int = 1) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """A preset's tensors, on the meta device, and the options that give them their meaning."""
    import torch

    # MONAI's Swin UNETR computes with tensors while it is built and cannot be built without memory
    place = "cpu" if presets()[preset]["class"] == "SwinUNETRBackbone" else "meta"
    with torch.device(place):
        backbone = create_backbone(BackboneSpec(preset, input_channels))
    state: dict[str, torch.Tensor] = backbone.state_dict()  # type: ignore[attr-defined]
    return {name: tensor.to("meta") for name, tensor in state.items()}, meaning(backbone.config)


def _from_file(path: Path, backbone: str | None, input_channels: int) -> tuple[str, str]:
    from fm3d_core.models.weights.reading import read_checkpoint

    content = read_checkpoint(path)
    own = backbone or DEFAULT_BACKBONE
    known = [entry for entry in catalogue().values() if _has_signature(entry, content)]
    if not known or set(expected_tensors(own, input_channels)) <= set(_own_tensors(content)):
        card = import_own(path, own, input_channels)
    else:
        card = _convert(recognise(content, path), content, path, backbone, input_channels)
    return card.backbone, card.sha256


def _convert(
    entry: WeightEntry, content: dict[str, Any], path: Path, backbone: str | None, input_channels: int
) -> WeightCard:
    from fm3d_core.models.weights.landing import land

    preset = backbone or entry.backbone
    _check_family(entry, preset)
    tensors, report = land(entry, content, expected_tensors(preset, input_channels), path)
    return keep_weights(
        tensors,
        {"properties": dict(entry.properties), "random": list(report.random)},
        path,
        id=entry.id,
        backbone=preset,
        input_channels=input_channels,
        licence=entry.licence,
        citation=entry.citation,
        report=report.to_dict(),
    )


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


def _own_tensors(content: dict[str, Any], wrappers: Sequence[str] = ("state_dict", "model", "net")) -> dict[str, Any]:
    from fm3d_core.models.weights.reading import named_tensors

    wrapper = next((key for key in wrappers if isinstance(content.get(key), dict)), None)
    return named_tensors(content, wrapper)
