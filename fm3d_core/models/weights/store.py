"""The private cache of converted weight files: ``FM3D_HOME/weights/<sha256>.safetensors``, each with a JSON card."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from hashlib import sha256 as new_sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fm3d_core.errors import WeightsError
from fm3d_core.files import atomic_file, home_folder, sha256_of, storage_error
from fm3d_core.models.weights.report import LandingReport
from fm3d_core.models.weights.shipped_weights import shipped_with_hash

if TYPE_CHECKING:
    import torch

_HEADER = "fm3d"  # the one key of the safetensors header: several would be written in random order


@dataclass(frozen=True)
class WeightCard:
    """Where a converted copy comes from.

    Attributes:
        sha256: of the converted file, its name in the cache.
        id: of the catalogue; None for a file in our own layout.
        backbone: preset it was checked against.
        input_channels: image channels of that backbone.
        source: name of the file it was made from (never its folder).
        source_sha256: of that file.
        licence, citation: as in the catalogue when it was imported.
        report: what landed, what stays random, what was unused.
        created: UTC, ISO 8601.
    """

    sha256: str
    id: str | None
    backbone: str
    input_channels: int
    source: str
    source_sha256: str
    licence: str
    citation: str
    report: LandingReport
    created: str = ""

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> WeightCard:
        """From the JSON of ``dataclasses.asdict``.

        Raises:
            TypeError, KeyError, AttributeError: it is not a card.
        """
        report = {name: tuple(values) for name, values in data["report"].items()}
        return cls(**{**data, "report": LandingReport(**report)})


def weights_folder() -> Path:
    """Where converted weight files are kept, each under its sha256; readable by the user alone."""
    return home_folder() / "weights"


def cached_weights(sha256: str) -> Path:
    """The converted weight file with this hash.

    Raises:
        WeightsError: it is not on this computer.
    """
    if (shipped := shipped_with_hash(sha256)) is not None:
        return shipped.path
    path = weights_folder() / f"{sha256}.safetensors"
    if not re.fullmatch(r"[0-9a-f]{64}", sha256) or not path.is_file():
        raise WeightsError(
            "the backbone's weight file is not on this computer",
            path=path,
            remedy="Import it as on the computer where the adapter was trained (fm3d weights), or copy it from there",
        )
    return path


def keep_weights(
    tensors: Mapping[str, torch.Tensor], header: Mapping[str, Any], source: Path, **card: Any
) -> WeightCard:
    """Write a converted copy and its card, both readable by the user alone, and return the card.

    Args:
        tensors: under our names.
        header: what :func:`read_header` gives back; it counts for the hash, so only what changes the meaning.
        source: the file they come from.
        card: further fields of :class:`WeightCard`.

    Raises:
        StorageError: the cache cannot be written.
    """
    import safetensors.torch

    content = safetensors.torch.save(
        _independent(tensors),
        metadata={_HEADER: json.dumps(dict(header), sort_keys=True)},
    )
    sha256 = new_sha256(content).hexdigest()
    created = datetime.now(timezone.utc).isoformat(timespec="seconds")
    made = WeightCard(sha256=sha256, source=source.name, source_sha256=sha256_of(source), created=created, **card)
    folder = _private_folder()
    text = json.dumps(asdict(made), indent=2, ensure_ascii=False)
    for path, data in ((folder / f"{sha256}.safetensors", content), (folder / f"{sha256}.json", text.encode())):
        with atomic_file(path) as temporary:
            temporary.touch(mode=0o600)
            temporary.write_bytes(data)
    return made


def read_header(path: Path) -> dict[str, Any]:
    """What :func:`keep_weights` wrote into the file's header; empty for a file of before."""
    import safetensors

    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return dict(json.loads((file.metadata() or {}).get(_HEADER, "{}")))
    except (OSError, ValueError, TypeError, RecursionError, safetensors.SafetensorError) as error:
        raise WeightsError("the converted copy is damaged", path=path, remedy="Import or fetch it again") from error


def weight_cards() -> list[WeightCard]:
    """The cards of all converted copies on this computer, the newest first.

    Raises:
        WeightsError: a card that cannot be read.
    """
    if not weights_folder().is_dir():
        return []
    cards = [_read_card(path) for path in weights_folder().glob("*.json")]
    present = [card for card in cards if (weights_folder() / f"{card.sha256}.safetensors").is_file()]
    return sorted(present, key=lambda card: (card.created, card.sha256), reverse=True)


def card_of(sha256: str) -> WeightCard | None:
    """The card of the converted copy with this hash; None for shipped weights and for a copy that was made without one.

    Raises:
        WeightsError: the card cannot be read.
    """
    path = weights_folder() / f"{sha256}.json"
    return _read_card(path) if path.is_file() else None


def channels_of_weights(sha256: str) -> int | None:
    """The image channels that the weights with this hash are for; None where no card tells.

    Raises:
        WeightsError: the card cannot be read, or shipped weights were changed.
    """
    if shipped_with_hash(sha256) is not None:
        return 1
    card = card_of(sha256)
    return card.input_channels if card is not None else None


def damaged_weights() -> list[tuple[Path, str]]:
    """Read every converted copy again: the damaged ones, each with the reason."""
    found = []
    for path in sorted(weights_folder().glob("*.safetensors")):
        if sha256_of(path) != path.stem:
            found.append((path, "its content is not what its name says"))
    for path in sorted(weights_folder().glob("*.json")):
        if not path.with_suffix(".safetensors").is_file():
            found.append((path, "the file it describes is not there"))
            continue
        try:
            _read_card(path)
        except WeightsError as error:
            found.append((path, error.problem))
    return found


def _independent(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same tensors, contiguous, none sharing memory with another: safetensors refuses views."""
    kept: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        place = tensor.untyped_storage()
        shared = place.data_ptr() in seen or place.nbytes() != tensor.nbytes
        kept[name] = tensor.clone().contiguous() if shared else tensor.contiguous()
        seen.add(place.data_ptr())
    return kept


def _read_card(path: Path) -> WeightCard:
    try:
        card = WeightCard.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise WeightsError(
            "the card of a converted copy cannot be read", path=path, remedy="Delete it and import the weights again"
        ) from error
    if card.sha256 != path.stem:
        raise WeightsError("the card belongs to another copy", path=path, remedy="Delete it and import again")
    return card


def _private_folder() -> Path:
    folder = weights_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
    except OSError as error:
        raise storage_error(folder, error) from error
    return folder
