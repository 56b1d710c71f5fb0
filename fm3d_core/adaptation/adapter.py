"""The answer to "what was learned": a small folder of tensors and a card that says where they come from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fm3d_core.adaptation.expected_dice import ExpectedDice
from fm3d_core.adaptation.methods.parts import PartChoice
from fm3d_core.errors import AdapterError, FM3DError, WeightsError
from fm3d_core.files import atomic_folder, sha256_of
from fm3d_core.models.zoo import BackboneSpec
from fm3d_core.tasks import Task, task_from_dict

if TYPE_CHECKING:
    import torch

    from fm3d_core.models.backbone import Backbone
    from fm3d_core.models.heads import KnownClassesHead
    from fm3d_core.models.network import DenseNetwork

FORMAT = 1
KNOWN_CLASSES = "known_classes"  # the head of an adapter that was not trained: fm3d_core.models.heads.KnownClassesHead
TENSORS_FILE, CARD_FILE = "adapter.safetensors", "adapter.json"
# what becomes of settings and cards where only a linear head was trained
AS_PROBE: dict[str, Any] = {"method": "linear_probe", "head": "linear", "decoder": "auto", "bottleneck": "auto"}
AS_PROBE |= {"rank": None, "alpha": None}
_LARGEST_HALF = 60_000.0
_FIRST_HEAD = "first_head."  # before the names of Adapter.first_head in the tensors' file


@dataclass(frozen=True)
class UsedCase:
    """A case the adapter has learned from.

    Attributes:
        name: of the case.
        image_sha256, label_sha256: of its files.
        annotation: what of it was annotated (:meth:`fm3d_core.volumes.Annotation.to_dict`); empty: all.
        voxels_sha256: of the image's values, which stay when a file is saved again; empty in cards of before.
    """

    name: str
    image_sha256: str
    label_sha256: str
    annotation: dict[str, Any] = field(default_factory=dict)
    voxels_sha256: str = ""


@dataclass(frozen=True)
class AdapterCard:
    """Everything that makes an adapter usable and its origin checkable.

    Attributes:
        task: what is asked, and the preprocessing used in training, and so in inference.
        method: name of the finetuning method.
        backbone: what rebuilds the backbone.
        backbone_sha256: its identity; another backbone is refused.
        window: voxels of the sliding window (the crop of training).
        cases: what it learned from; empty for an untrained adapter.
        settings: of the run, with the seed.
        training: steps, seconds, loss.
        left_out: cases that could not be used, with the reason.
        notes: choices that were made for the user and change what the network sees.
        head: name of the head, see :data:`fm3d_core.tasks.HEADS`, or :data:`KNOWN_CLASSES`.
        decoder, bottleneck: what became of these parts of the backbone, see
            :class:`fm3d_core.adaptation.methods.parts.WithParts`.
        rank, alpha: of low-rank updates; None: the method's own.
        expected_dice: measured on held-out volumes; None where that was not asked for, or is not done yet.
        stage: of the training in stages: "linear_probe", "decoder", "final"; empty in cards of before.
        sizes: structure -> its size in ml in each labelled volume that was annotated as a whole, 0 where it is absent.
        connected: structures that are one connected part in every labelled volume.
        versions: of the libraries that wrote it.
        created: UTC, ISO 8601.
        format: of this card.
    """

    task: Task
    method: str
    backbone: BackboneSpec
    backbone_sha256: str
    window: tuple[int, int, int]
    cases: tuple[UsedCase, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    training: dict[str, float] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    head: str = "auto"
    decoder: PartChoice = "auto"
    bottleneck: PartChoice = "auto"
    rank: int | None = None
    alpha: float | None = None
    expected_dice: ExpectedDice | None = None
    stage: str = ""
    sizes: dict[str, tuple[float, ...]] = field(default_factory=dict)
    connected: tuple[str, ...] = ()
    versions: dict[str, str] = field(default_factory=dict)
    created: str = ""
    format: int = FORMAT

    def to_dict(self) -> dict[str, Any]:
        """As plain data for JSON."""
        return {**asdict(self), "task": self.task.to_dict(), "backbone": self.backbone.to_dict()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> AdapterCard:
        """The inverse of :meth:`to_dict`.

        Raises:
            TypeError, KeyError, ValueError, FM3DError: the data is not a card of this format.
        """
        if data.get("format") != FORMAT:
            raise ValueError(f"format {data.get('format')!r} instead of {FORMAT}")
        x, y, z = data["window"]
        expected = data.get("expected_dice")
        return cls(
            **{
                **data,
                "task": task_from_dict(data["task"]),
                "backbone": BackboneSpec(**data["backbone"]),
                "window": (x, y, z),
                "cases": tuple(UsedCase(**case) for case in data["cases"]),
                "left_out": tuple(data["left_out"]),
                "expected_dice": None if expected is None else ExpectedDice.from_dict(expected),
                "notes": tuple(data.get("notes", ())),
                "connected": tuple(data.get("connected", ())),
                "sizes": {str(name): tuple(map(float, values)) for name, values in data.get("sizes", {}).items()},
            }
        )


@dataclass(frozen=True)
class Adapter:
    """A card and the tensors by which the trained network differs from the plain backbone.

    Attributes:
        card: what it is and where it comes from.
        tensors: by their names in the network.
        first_head: the linear head on the plain backbone that training began with, some kilobytes: where both agree on
            a new volume, both are more likely right. Empty where there was none.
    """

    card: AdapterCard
    tensors: dict[str, torch.Tensor]
    first_head: dict[str, torch.Tensor] = field(default_factory=dict)

    def save(self, folder: str | Path) -> Path:
        """Write ``adapter.safetensors`` and ``adapter.json`` into a new folder, all or nothing.

        Raises:
            FileExistsError: the folder exists; adapters are never overwritten.
            StorageError: it cannot be written, for example because the disk is full.
        """
        from safetensors.torch import save

        with atomic_folder(folder) as temporary:
            # bytes written by us, not by the library's mapped file: a full disk is then an OSError, not a crash
            first = {_FIRST_HEAD + name: tensor for name, tensor in self.first_head.items()}
            tensors = {name: _smallest(tensor) for name, tensor in {**self.tensors, **first}.items()}
            (temporary / TENSORS_FILE).write_bytes(save(tensors))
            card = {**self.card.to_dict(), "tensors_sha256": sha256_of(temporary / TENSORS_FILE)}
            (temporary / CARD_FILE).write_text(json.dumps(card, indent=2, ensure_ascii=False), encoding="utf-8")
        return Path(folder)

    @classmethod
    def load(cls, folder: str | Path) -> Adapter:
        """Read an adapter and check that its files belong together.

        Raises:
            AdapterError: files are missing, damaged or of another format.
        """
        import safetensors
        from safetensors.torch import load

        folder = Path(folder)
        card, expected = _read_card(folder)
        remedy = "Roll back to another version, or train again"
        try:
            content = (folder / TENSORS_FILE).read_bytes()
            tensors = {name: _whole(tensor) for name, tensor in load(content).items()}
        except (OSError, safetensors.SafetensorError) as error:
            raise AdapterError(
                "the adapter's tensors cannot be read", path=folder / TENSORS_FILE, remedy=remedy
            ) from error
        if sha256_of(folder / TENSORS_FILE) != expected:
            raise AdapterError("the adapter's tensors were changed", path=folder / TENSORS_FILE, remedy=remedy)
        first = [name for name in tensors if name.startswith(_FIRST_HEAD)]
        return cls(card, tensors, {name.removeprefix(_FIRST_HEAD): tensors.pop(name) for name in first})

    def first_stage(self) -> Adapter | None:
        """The linear probe that training began with, as an adapter of its own; None where there was none."""
        if not self.first_head:
            return None
        card = replace(self.card, **AS_PROBE)
        return Adapter(card, {f"head.{name}": tensor for name, tensor in self.first_head.items()})

    def build_network(self) -> DenseNetwork:
        """The trained network, on the CPU, in evaluation mode.

        Raises:
            AdapterError: the tensors do not fit, or the backbone is not the one it was trained on.
            WeightsError: the backbone's weight file cannot be used, and the adapter does not hold all weights itself.
        """
        import torch

        from fm3d_core.adaptation.methods import check_method
        from fm3d_core.models.network import DenseNetwork
        from fm3d_core.models.zoo import backbone_sha256

        method = check_method(
            self.card.method, self.card.decoder, self.card.bottleneck, self.card.rank, self.card.alpha
        )
        backbone = self.plain_backbone()
        if not self._replaces(backbone) and backbone_sha256(backbone) != self.card.backbone_sha256:
            raise AdapterError(
                f"the adapter was trained on another backbone ({self.card.backbone_sha256[:12]})",
                remedy=f"Use the {self.card.backbone.preset} with the weights it was trained on, or train again",
            )
        task = self.card.task
        if self.card.head == KNOWN_CLASSES:
            network = DenseNetwork(backbone, self._known_classes(backbone))
        else:
            network = task.build_network(backbone, self.card.head, linear=method.linear_head)
        network.input_range = task.preprocessing.input_range if task.preprocessing else (-1.0, 1.0)
        method.apply(network)
        wanted = trained_tensors(network)
        if {name: tensor.shape for name, tensor in wanted.items()} != {
            name: tensor.shape for name, tensor in self.tensors.items()
        }:
            raise AdapterError("the adapter's tensors do not fit its backbone and method", remedy="Train again")
        with torch.no_grad():
            for name, tensor in wanted.items():
                tensor.copy_(self.tensors[name])
        network.requires_grad_(False)
        network.eval()
        return network

    def _known_classes(self, backbone: Backbone) -> KnownClassesHead:
        from fm3d_core.models.heads import KnownClassesHead

        others = self.tensors.get("head.others.bias")
        if others is None:
            raise AdapterError("the adapter's tensors do not fit its backbone and method", remedy="Make it again")
        return KnownClassesHead(backbone.feature_channels[0], len(self.card.task.labels), len(others))

    def plain_backbone(self) -> Backbone:
        """The backbone before training; with random weights where their file cannot be used and is not needed."""
        from fm3d_core.models.zoo import create_backbone

        try:
            return create_backbone(self.card.backbone)
        except WeightsError:
            backbone = create_backbone(replace(self.card.backbone, weights=None))
            if not self._replaces(backbone):
                raise
            return backbone

    def _replaces(self, backbone: Backbone) -> bool:
        """Whether the adapter holds every tensor of the backbone, and so does not depend on its initial ones."""
        state: dict[str, torch.Tensor] = backbone.state_dict()  # type: ignore[attr-defined]
        own = {name: tensor.shape for name, tensor in self.tensors.items()}
        return all(own.get(f"backbone.{name}") == tensor.shape for name, tensor in state.items())


def in_half(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same with the backbone's weights rounded to half precision, which makes an adapter's file half as large.

    The rounding, 2^-11 of a weight, is a quarter of that of inference in bfloat16. Heads, in which large terms may
    cancel, stay as they are; they take some kilobytes.
    """
    return {
        name: tensor.half().to(tensor.dtype)
        if name.startswith("backbone.") and tensor.is_floating_point() and bool((tensor.abs() < _LARGEST_HALF).all())
        else tensor
        for name, tensor in tensors.items()
    }


def stored_bytes(name: str, tensor: torch.Tensor) -> int:
    """Bytes that a tensor takes in the file after training: the backbone's are kept in half precision."""
    return tensor.nbytes // 2 if name.startswith("backbone.") and tensor.is_floating_point() else tensor.nbytes


def _smallest(tensor: torch.Tensor) -> torch.Tensor:
    """In half precision if that holds every value exactly."""
    import torch

    half = tensor.half()
    return half if tensor.dtype == torch.float32 and bool((half.float() == tensor).all()) else tensor


def _whole(tensor: torch.Tensor) -> torch.Tensor:
    """The inverse of :func:`_smallest`."""
    import torch

    return tensor.float() if tensor.dtype == torch.float16 else tensor


def trained_tensors(network: DenseNetwork) -> dict[str, torch.Tensor]:
    """The tensors an adapter keeps: all that train, and statistics (buffers) of modules in which something trains.

    A table of integers is no statistic but follows from the module's configuration (Swin's indices, 1 MB a block).
    """
    kept: dict[str, torch.Tensor] = {
        name: parameter.data for name, parameter in network.named_parameters() if parameter.requires_grad
    }
    for prefix, module in network.named_modules():
        if any(parameter.requires_grad for parameter in module.parameters(recurse=False)):
            for name, buffer in module.named_buffers(recurse=False):
                if buffer.is_floating_point() or buffer.ndim == 0:
                    kept[f"{prefix}.{name}" if prefix else name] = buffer
    if all(parameter.requires_grad for parameter in network.parameters()):
        kept |= {name: tensor for name, tensor in network.state_dict().items() if name not in kept}
    return kept


def _read_card(folder: Path) -> tuple[AdapterCard, str]:
    remedy = "Roll back to another version, or train again"
    try:
        data = json.loads((folder / CARD_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise AdapterError(
            "not an adapter folder", path=folder, remedy=f"Give a folder that holds {CARD_FILE} and {TENSORS_FILE}"
        ) from error
    except (OSError, ValueError) as error:
        raise AdapterError("the adapter's card cannot be read", path=folder / CARD_FILE, remedy=remedy) from error
    try:
        expected = data.pop("tensors_sha256")
        return AdapterCard.from_dict(data), str(expected)
    except (AttributeError, KeyError, TypeError, ValueError, FM3DError) as error:
        raise AdapterError(
            f"the adapter's card is not valid ({error})", path=folder / CARD_FILE, remedy=remedy
        ) from error


def read_card(folder: str | Path) -> AdapterCard:
    """The card of an adapter folder, without its tensors.

    Raises:
        AdapterError: missing, damaged or of another format.
    """
    return _read_card(Path(folder))[0]


def tensors_sha256(folder: str | Path) -> str:
    """The hash of an adapter's tensors, as its card has it.

    Raises:
        AdapterError: missing, damaged or of another format.
    """
    return _read_card(Path(folder))[1]


def now() -> str:
    """The present moment, UTC, ISO 8601."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def library_versions() -> dict[str, str]:
    """Versions of what computes: fm3d, torch, monai, peft."""
    from importlib.metadata import version

    from fm3d_core import __version__

    return {"fm3d": __version__, **{name: version(name) for name in ("torch", "monai", "peft", "numpy")}}
