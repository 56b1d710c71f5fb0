"""Adapters as MONAI bundles: a folder that needs no weight file beside it, and that ``monai.bundle run`` executes.

The layout is MONAI's bundle specification (docs.monai.io, mb_specification): configs/metadata.json,
configs/inference.json, models/model.pt, docs/README.md. The model file holds the plain backbone and the adapter's
tensors; from both the very network is built that the adapter describes, with the same checks.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fm3d_core.adaptation.adapter import Adapter, AdapterCard, library_versions
from fm3d_core.errors import AdapterError, FM3DError, SettingsError
from fm3d_core.files import atomic_folder, sha256_of

if TYPE_CHECKING:
    import torch

    from fm3d_core.models.backbone import Backbone

CARD, METADATA, INFERENCE = "configs/adapter.json", "configs/metadata.json", "configs/inference.json"
MODEL, README = "models/model.pt", "docs/README.md"
_SCHEMA = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
_REMEDY = "Export the adapter again: fm3d adapters export"
_KINDS = {"segmentation": "segmentation", "regions": "segmentation", "joint": "segmentation"}


@dataclass(frozen=True)
class BundledAdapter(Adapter):
    """An adapter that brings its plain backbone with it.

    Attributes:
        plain: tensors of the backbone before training.
        options: of its class.
    """

    plain: dict[str, torch.Tensor] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)

    def plain_backbone(self) -> Backbone:
        """The backbone before training, from the bundle alone."""
        from fm3d_core.models.zoo import create_backbone

        backbone: Any = create_backbone(replace(self.card.backbone, weights=None), self.options)
        try:
            backbone.load_state_dict(self.plain)
        except RuntimeError as error:
            raise AdapterError("the bundle's backbone does not fit its card", remedy=_REMEDY) from error
        return backbone

    def first_stage(self) -> Adapter | None:
        """As of an adapter, with the backbone."""
        first = super().first_stage()
        return None if first is None else replace(self, card=first.card, tensors=first.tensors, first_head={})


def is_bundle(folder: str | Path) -> bool:
    """Whether a folder is a bundle of :func:`export_bundle`."""
    return (Path(folder) / CARD).is_file() and (Path(folder) / MODEL).is_file()


def export_bundle(adapter: Adapter, folder: str | Path, name: str) -> Path:
    """Write an adapter as a bundle, all or nothing.

    The names of the cases it has learned from stay here; their hashes go with it, so that they are known again.

    Args:
        adapter: any.
        folder: a new one.
        name: of the bundle, for people.

    Returns:
        ``folder``.

    Raises:
        SettingsError: the folder is there.
        AdapterError, WeightsError: the network cannot be built.
        StorageError: it cannot be written.
    """
    import torch

    backbone: Any = adapter.plain_backbone()
    adapter.build_network()  # says what is wrong before anything is written
    inner = getattr(backbone, "backbone", backbone)  # of an image whose channels are seen one by one
    options = {key: value for key, value in inner.config.items() if key != "input_channels"}
    cases = tuple(replace(case, name=f"case {number}") for number, case in enumerate(adapter.card.cases, start=1))
    card = replace(adapter.card, cases=cases, left_out=())
    try:
        with atomic_folder(folder) as temporary:
            for part in (CARD, MODEL, README):
                (temporary / part).parent.mkdir(parents=True, exist_ok=True)
            torch.save(_tensors(adapter, backbone.state_dict()), temporary / MODEL)
            whole = {"card": card.to_dict(), "options": options, "model_sha256": sha256_of(temporary / MODEL)}
            for path, content in (
                (CARD, whole),
                (METADATA, metadata_of(card, name)),
                (INFERENCE, inference_config()),
            ):
                (temporary / path).write_text(json.dumps(content, indent=2, ensure_ascii=False), encoding="utf-8")
            (temporary / README).write_text(_readme(card, name), encoding="utf-8")
    except FileExistsError:
        raise SettingsError("exists already", path=folder, remedy="Choose another folder") from None
    return Path(folder)


def load_bundle(folder: str | Path) -> BundledAdapter:
    """Read a bundle.

    Raises:
        AdapterError: files are missing, damaged or do not belong together.
    """
    import torch

    folder = Path(folder)
    try:
        content = json.loads((folder / CARD).read_text(encoding="utf-8"))
        card, options = AdapterCard.from_dict(content["card"]), dict(content["options"])
        if sha256_of(folder / MODEL) != content["model_sha256"]:
            raise AdapterError("the bundle's tensors were changed", path=folder / MODEL, remedy=_REMEDY)
        tensors = torch.load(folder / MODEL, map_location="cpu", weights_only=True)
    except AdapterError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, FM3DError) as error:
        raise AdapterError(f"is no bundle that can be read ({error})", path=folder, remedy=_REMEDY) from error
    parts: dict[str, dict[str, torch.Tensor]] = {"backbone": {}, "adapter": {}, "first_head": {}}
    for key, tensor in tensors.items():
        part, _, own = key.partition("/")
        if part not in parts:
            raise AdapterError(f"the bundle has tensors of another kind ({key})", path=folder / MODEL, remedy=_REMEDY)
        parts[part][own] = tensor
    return BundledAdapter(card, parts["adapter"], parts["first_head"], parts["backbone"], options)


def metadata_of(card: AdapterCard, name: str) -> dict[str, Any]:
    """What MONAI's schema asks of a bundle."""
    versions = library_versions()
    task, channels = card.task, card.task.channels
    dense = not task.whole_volume
    outputs = {
        "type": "image" if dense else "probabilities",
        "format": "segmentation" if dense else "classification",
        "num_channels": task.classes,
        "spatial_shape": ["*", "*", "*"] if dense else [],
        "dtype": "uint8" if dense else "float32",
        "value_range": [0, 255] if dense else [],
        "is_patch_data": False,
        "channel_def": {str(value): label for label, value in task.values.items()},
    }
    return {
        "schema": _SCHEMA,
        "version": "1.0.0",
        "changelog": {"1.0.0": f"exported from FM3D {versions['fm3d']}"},
        "monai_version": versions["monai"],
        "pytorch_version": versions["torch"].split("+")[0],
        "numpy_version": versions["numpy"],
        "required_packages_version": {"fm3d": versions["fm3d"], "nibabel": _version("nibabel")},
        "optional_packages_version": {},
        "name": name,
        "task": f"{_KINDS.get(task.kind, task.kind)} of {', '.join(task.labels)}",
        "description": f"FM3D adapter, method {card.method}, backbone {card.backbone.preset}. Research use only.",
        "authors": "made with FM3D",
        "copyright": "as of the training data and the backbone's weights",
        "network_data_format": {
            "inputs": {
                "image": {
                    "type": "image",
                    "format": "magnitude",
                    "modality": "any",
                    "num_channels": channels,
                    "spatial_shape": ["*", "*", "*"],
                    "dtype": "float32",
                    "value_range": [],
                    "is_patch_data": False,
                    "channel_def": {str(index): f"image {index}" for index in range(channels)},
                }
            },
            "outputs": {"pred": outputs},
        },
    }


def inference_config() -> dict[str, Any]:
    """What ``python -m monai.bundle run`` executes."""
    return {
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/inputs'",
        "output_dir": "$@bundle_root + '/outputs'",
        "device": "auto",
        "predictor": {
            "_target_": "fm3d_core.inference.bundle_run.BundleRun",
            "bundle_root": "@bundle_root",
            "device": "@device",
        },
        "run": ["$@predictor.run(@dataset_dir, @output_dir)"],
    }


def _tensors(adapter: Adapter, backbone: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    parts = {"backbone": backbone, "adapter": adapter.tensors, "first_head": adapter.first_head}
    return {
        f"{part}/{name}": tensor.detach().cpu().contiguous().clone()
        for part, tensors in parts.items()
        for name, tensor in tensors.items()
    }


def _version(package: str) -> str:
    from importlib.metadata import version

    return version(package)


def _readme(card: AdapterCard, name: str) -> str:
    return f"""# {name}

{", ".join(card.task.labels)}: {card.task.kind}, learned by FM3D from {len(card.cases)} cases with method {card.method}
on the backbone {card.backbone.preset}. Expected Dice: {card.expected_dice or "not measured"}. Research use only, not a
medical device.

Run it on a folder of images (needs the package fm3d in the versions of configs/metadata.json, and no network):

    python -m monai.bundle run --config_file configs/inference.json --meta_file configs/metadata.json \\
        --bundle_root . --dataset_dir INPUTS --output_dir OUTPUTS

or, with the same result, `fm3d predict INPUTS --adapter THIS_FOLDER --out OUTPUTS`.
"""
