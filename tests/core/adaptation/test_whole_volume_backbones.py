"""Every method on every family of backbones, about whole volumes: it learns, comes back the same, or says why not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from fm3d_core.adaptation import Adapter, FinetuneSettings, ImageCase, finetune_images
from fm3d_core.adaptation.methods import METHODS
from fm3d_core.errors import SettingsError
from fm3d_core.inference import ImagePredictor
from fm3d_core.models import zoo
from fm3d_core.tasks import ClassificationTask
from fm3d_core.volumes import Preprocessing, read_channels

# each family at its narrowest: preset it is like, and what is changed of that
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "suprem_unet": ("suprem_unet", {"channels": [8, 16, 16, 32]}),
    "segresnet": ("suprem_segresnet", {"init_filters": 8, "blocks_down": [1, 1, 1], "blocks_up": [1, 1]}),
    "rotary_vit": ("vit_small_rotary", {"width": 96, "depth": 2, "heads": 3}),
    "swin_legacy": ("swin_unetr_tiny_legacy", {}),
    "swin": ("swin_unetr_tiny", {}),
}
CONVOLUTIONS_ONLY = {"adaptformer", "vera", "lora_query_value", "compacter"}
CANNOT = {
    "suprem_unet": CONVOLUTIONS_ONLY,
    "segresnet": CONVOLUTIONS_ONLY,
    "rotary_vit": {"cnn_adapter"},
}
QUICK = ("full", "lora", "adaptformer")
SLOW = ("swin_legacy", "swin")  # building their backbone takes seconds


def _pairs() -> list[Any]:
    pairs = [(family, method) for family in FAMILIES for method in METHODS if method != "none"]
    slow = [family in SLOW and (method not in QUICK or family == "swin") for family, method in pairs]
    return [pytest.param(*pair, marks=pytest.mark.slow if late else ()) for pair, late in zip(pairs, slow, strict=True)]


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """The families as presets."""
    known = zoo.presets()
    made = {
        name: {**known[like], "config": {**known[like]["config"], **changed}}
        for name, (like, changed) in FAMILIES.items()
    }
    monkeypatch.setattr(zoo, "presets", lambda: {**known, **made})


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> list[ImageCase]:
    """Two images of two classes."""
    folder, random, found = tmp_path_factory.mktemp("images"), np.random.default_rng(0), []
    for index in range(2):
        path = folder / f"case_{index}.nii.gz"
        array = (random.random((28, 26, 24)) + 2 * index * np.linspace(0, 1, 24)).astype(np.float32)
        nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), path)
        found.append(ImageCase(path.name[:-7], (path,), (float(index),)))
    return found


@pytest.mark.parametrize(("family", "method"), _pairs())
def test_every_method_learns_on_every_family_or_says_why_not(
    family: str, method: str, narrow: None, cases: list[ImageCase], tmp_path: Path
) -> None:
    task = ClassificationTask(("a", "b"), preprocessing=Preprocessing(spacing=(1, 1, 1)), crop=(32, 32, 32))
    settings = FinetuneSettings(method, family, Path("random"), steps=1, batch_size=2, device="cpu")
    if method == "scratch":
        settings = replace(settings, weights=None)
    if method in CANNOT.get(family, ()):
        with pytest.raises(SettingsError, match=r"needs .* which this backbone has not.*Choose method"):
            finetune_images(cases, task, settings)
        return
    adapter = finetune_images(cases, task, settings)
    loaded = Adapter.load(adapter.save(tmp_path / "a"))
    volume = read_channels(cases[1].images)
    said, again = (ImagePredictor(each, "cpu").activated(volume) for each in (adapter, loaded))
    assert said == pytest.approx(again, abs=2e-2) and sum(said) == pytest.approx(1, abs=1e-5)
    learned = any(name.startswith("backbone.") for name in adapter.tensors)
    assert learned != METHODS[method].frozen_backbone
