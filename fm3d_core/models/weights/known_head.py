"""The classifier that a public weight file brings: one row per structure that it was trained to find.

Kept beside the converted weights as ``FM3D_HOME/weights/heads/<sha256 of the weights>.safetensors``, so that the hash
of the weights, by which adapters name them, is that of the backbone alone.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fm3d_core.errors import WeightsError
from fm3d_core.files import atomic_file
from fm3d_core.models.weights.catalogue import HeadLayout, NetworkInput

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)
Rule = Literal["sigmoid", "softmax"]
BACKGROUND = "background"
_OF_BACKBONES = ("preset", "config", "class")  # what the header of a backbone says and that of its classifier does not


@dataclass(frozen=True)
class KnownHead:
    """A linear classifier on a backbone's finest map.

    Attributes:
        weight: (classes, channels).
        bias: (classes,).
        classes: names of the rows; with softmax the first is background.
        fed: what the network was fed with when it learned them.
        rule: sigmoid: a voxel is of a class if its logit is above 0, whatever the others say; softmax: of the class
            with the largest.
    """

    weight: torch.Tensor
    bias: torch.Tensor
    classes: tuple[str, ...]
    rule: Rule
    fed: NetworkInput

    @property
    def structures(self) -> tuple[str, ...]:
        """The classes without background."""
        return tuple(name for name in self.classes if name != BACKGROUND)


def find_head(
    layout: HeadLayout, fed: NetworkInput, tensors: Mapping[str, torch.Tensor], path: Path | None = None
) -> KnownHead | None:
    """The classifier among a file's tensors; None if the file holds none.

    Args:
        layout: what it is called, and what its rows mean.
        fed: what the network was fed with.
        tensors: of the file, after the catalogue's renaming.
        path: for the message.

    Raises:
        WeightsError: it has not one row for each class that the catalogue names.
    """
    found = {kind: tensors.get(f"{layout.name}.{kind}") for kind in ("weight", "bias")}
    weight, bias = found["weight"], found["bias"]
    if weight is None or bias is None:
        return None
    rows = len(layout.classes)
    if weight.shape[0] != rows or bias.shape != (rows,) or weight[0].numel() != weight.shape[1]:
        raise WeightsError(
            f"its classifier has shape {tuple(weight.shape)}, not {rows} rows for the {rows} known classes",
            path=path,
            remedy="Give the file as its authors published it, or say with --as which weights it holds",
        )
    return KnownHead(weight.flatten(1).float(), bias.float(), layout.classes, layout.rule, fed)


def own_head(path: Path) -> KnownHead | None:
    """The classifier that ``fm3d pretrain`` wrote as ``head.safetensors`` beside a backbone; None if there is none.

    Args:
        path: of the backbone.

    Raises:
        WeightsError: it is damaged, or of another run or step than the backbone.
    """
    import safetensors
    import safetensors.torch

    from fm3d_core.models.weights.store import read_header

    header = read_header(path)
    if not isinstance(header, Mapping) or "classifier" not in header:
        return None
    file = path.with_name("head.safetensors")
    if not file.is_file():
        logger.warning("%s is not there: the structures that %s has learned cannot be asked for by name", file, path)
        return None
    try:
        if read_header(file) != {name: value for name, value in header.items() if name not in _OF_BACKBONES}:
            raise ValueError("it is of another run or step")
        tensors, told = safetensors.torch.load_file(file), header["classifier"]
        layout = HeadLayout("classifiers.0", told["rule"], tuple(map(str, told["classes"])))
        head = find_head(layout, _network_input(told["fed"]), tensors, file)
    except (OSError, KeyError, TypeError, ValueError, safetensors.SafetensorError, WeightsError) as error:
        said = getattr(error, "problem", str(error))
        raise WeightsError(
            f"its classifier {file.name} cannot be used: {said}", path=path, remedy="Keep both files of a run together"
        ) from error
    return head


def keep_head(sha256: str, head: KnownHead, folder: Path) -> None:
    """Write the classifier of the weights with this hash, readable by the user alone.

    Args:
        folder: of the converted weights.

    Raises:
        StorageError: it cannot be written.
    """
    import safetensors.torch

    meaning = json.dumps({"classes": head.classes, "rule": head.rule, "fed": asdict(head.fed)})
    content = safetensors.torch.save({"weight": head.weight, "bias": head.bias}, metadata={"head": meaning})
    target = _file(sha256, folder)
    target.parent.mkdir(mode=0o700, exist_ok=True)
    with atomic_file(target) as temporary:
        temporary.touch(mode=0o600)
        temporary.write_bytes(content)


def head_of(sha256: str, folder: Path) -> KnownHead | None:
    """The classifier of the weights with this hash; None if they brought none.

    Raises:
        WeightsError: it is damaged.
    """
    import safetensors

    path = _file(sha256, folder)
    if not re.fullmatch(r"[0-9a-f]{64}", sha256) or not path.is_file():
        return None
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            meaning: dict[str, Any] = json.loads(file.metadata()["head"])
            weight, bias = file.get_tensor("weight"), file.get_tensor("bias")
        head = KnownHead(weight, bias, tuple(meaning["classes"]), meaning["rule"], _network_input(meaning["fed"]))
        if len(weight) != len(bias) or len(bias) != len(head.classes):
            raise ValueError("the rows are not those of the classes")
        return head
    except (OSError, KeyError, TypeError, ValueError, safetensors.SafetensorError) as error:
        raise WeightsError(
            "the classifier of the weights is damaged", path=path, remedy="Import or fetch the weights again"
        ) from error


def _network_input(data: Mapping[str, Any]) -> NetworkInput:
    """From the JSON of ``dataclasses.asdict``."""
    read: dict[str, Any] = {name: None if value is None else tuple(value) for name, value in data.items()}
    return NetworkInput(**read)


def _file(sha256: str, folder: Path) -> Path:
    return folder / "heads" / f"{sha256}.safetensors"
