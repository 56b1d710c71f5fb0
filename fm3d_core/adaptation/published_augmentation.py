"""Augmentations of published recipes: MONAI's transforms, put together as augmentations.yaml says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fm3d_core.adaptation.plan import FEW_SHOT
from fm3d_core.errors import SettingsError

if TYPE_CHECKING:
    import torch

NONE = "none"
_SPATIAL = ("RandAffine", "RandFlip", "RandRotate90")  # what is done to the label too


@cache
def augmentations() -> dict[str, dict[str, Any]]:
    """All published ones: name -> {source, transforms}."""
    import yaml

    return dict(yaml.safe_load((Path(__file__).parent / "augmentations.yaml").read_text(encoding="utf-8")))


def check_augmentation(name: str) -> None:
    """Raise SettingsError unless ``name`` is a published augmentation, few_shot or none."""
    known = (*augmentations(), FEW_SHOT, NONE)
    if name not in known:
        raise SettingsError(f"unknown augmentation '{name}'", remedy=f"Choose one of: {', '.join(known)}")


def published(name: str, crop: tuple[int, int, int], *, labelled: bool, seed: int) -> PublishedAugmentation | None:
    """The augmentation of this name; None of few_shot, which is no change after the crop, and of none.

    Raises:
        SettingsError: unknown name, or a crop that cannot be turned.
    """
    check_augmentation(name)
    return None if name in (FEW_SHOT, NONE) else PublishedAugmentation(name, crop, labelled=labelled, seed=seed)


class PublishedAugmentation:
    """Random changes of a crop after it was cut.

    Args:
        name: of augmentations.yaml.
        crop: size of the crops in voxels; quarter turns need edges of one length.
        labelled: whether crops come with labels.
        seed: of all that is random.

    Raises:
        SettingsError: unknown name, or a crop that cannot be turned.
    """

    def __init__(self, name: str, crop: tuple[int, int, int], *, labelled: bool, seed: int) -> None:
        from fm3d_core.torchvision_guard import ensure_torchvision_importable

        ensure_torchvision_importable()
        from monai.transforms import Compose

        check_augmentation(name)
        self.labelled, self.crop = labelled, crop
        self.transforms = Compose([self._built(each) for each in augmentations()[name]["transforms"]])
        self.transforms.set_random_state(seed)

    def with_label(self, image: torch.Tensor, label: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """A changed crop: image (C, X, Y, Z) float32 and its label (1, X, Y, Z)."""
        changed = self._changed({"image": image, "label": label})
        return changed["image"].float(), changed["label"]

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        """A changed crop (C, X, Y, Z) float32 without label."""
        return self._changed({"image": image})["image"].float()

    def _changed(self, data: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        changed: dict[str, Any] = self.transforms(data)
        return {key: value.as_tensor() if hasattr(value, "as_tensor") else value for key, value in changed.items()}

    def _built(self, entry: Mapping[str, Any]) -> Any:
        from monai import transforms

        ((name, options),) = entry.items()
        if name == "one_of":
            return transforms.OneOf([self._built(each) for each in options])
        keys = ["image", "label"] if self.labelled and name in _SPATIAL else ["image"]
        arguments = {key: _as_tuple(value) for key, value in options.items()}
        if name == "RandRotate90" and len(set(self.crop)) > 1:
            raise SettingsError(
                f"crops of {self.crop} voxels cannot be turned by 90 degrees", remedy="Choose edges of one length"
            )
        if name == "RandAffine":
            moved = zip(arguments["translate_range"], self.crop, strict=True)
            arguments["translate_range"] = tuple(share * edge for share, edge in moved)
            arguments["mode"] = ["bilinear", "nearest"][: len(keys)]
            arguments["padding_mode"] = ["border", "zeros"][: len(keys)]  # beyond the crop: what is at its border
        return getattr(transforms, f"{name}d")(keys=keys, **arguments)


def _as_tuple(value: Any) -> Any:
    listed = isinstance(value, Sequence) and not isinstance(value, str)
    return tuple(_as_tuple(each) for each in value) if listed else value
