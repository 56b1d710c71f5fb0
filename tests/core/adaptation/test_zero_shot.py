"""Structures that the weights know by name are found without a label; all others are refused in words."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
from layouts import swin_tensors, wrapped

from fm3d_core.adaptation import Adapter, FinetuneSettings, finetune
from fm3d_core.adaptation.zero_shot import zero_shot_adapter
from fm3d_core.cli.main import main
from fm3d_core.errors import SettingsError, WeightsError
from fm3d_core.inference import Predictor
from fm3d_core.models.weights.catalogue import find_entry
from fm3d_core.models.weights.importing import import_checkpoint
from fm3d_core.models.weights.known_head import head_of
from fm3d_core.models.weights.store import weights_folder
from fm3d_core.tasks import SegmentationTask
from fm3d_core.volumes import read_volume, write_nifti

SMALL = "swin_unetr_tiny_legacy"


@pytest.fixture(scope="module")
def swin() -> dict[str, torch.Tensor]:
    return swin_tensors(SMALL)


def _write(path: Path, swin: dict[str, torch.Tensor], id: str, weight: torch.Tensor, bias: torch.Tensor) -> Path:
    if id == "fseft":
        head = {"module.classifier.weight": weight, "module.classifier.bias": bias}
        torch.save({f"module.{name}": tensor for name, tensor in swin.items()} | head, path)
    else:
        head = {"out.conv.conv.weight": weight, "out.conv.conv.bias": bias}
        torch.save(wrapped(swin | head, "state_dict"), path)
    return path


def _import(folder: Path, swin: dict[str, torch.Tensor], id: str, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """A small file in the layout of ``id`` with a random classifier, imported."""
    layout = find_entry(id).head
    assert layout is not None
    generator = torch.Generator().manual_seed(seed)
    rows = len(layout.classes)
    weight, bias = torch.randn(rows, 12, 1, 1, 1, generator=generator), torch.randn(rows, generator=generator) / 3
    card = import_checkpoint(_write(folder / f"{id}.pth", swin, id, weight, bias), id, SMALL)
    assert len(card.report.known) == rows - (id == "btcv") and not card.report.unused
    assert "Its classifier knows" in "\n".join(card.report.lines())
    return weight, bias


def _settings(id: str) -> FinetuneSettings:
    return FinetuneSettings(method="none", weights=Path(id), device="cpu")


def _logits(adapter: Adapter, image: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """What the whole classifier of the file says, straight from its rows; (classes, X, Y, Z)."""
    network = adapter.build_network()
    with torch.no_grad():
        finest = network.features(network.prepare(image))[0]
        x, y, z = image.shape[-3:]
        return torch.nn.functional.conv3d(finest, weight, bias)[0, :, :x, :y, :z]


@pytest.mark.parametrize("id", ["fseft", "btcv"])
def test_the_answer_is_that_of_the_whole_classifier(id: str, swin: dict[str, torch.Tensor], tmp_path: Path) -> None:
    weight, bias = _import(tmp_path, swin, id)
    adapter = zero_shot_adapter(SegmentationTask(("Liver", "kidney_right")), _settings(id))
    assert adapter is not None and adapter.card.stage == "zero_shot" and adapter.card.window == (96, 96, 96)
    adapter = Adapter.load(adapter.save(tmp_path / "a"))
    image = torch.rand(1, 1, 32, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
    logits = _logits(adapter, image, weight, bias)
    with torch.no_grad():
        scores = adapter.build_network()(image)[0]
    classes = find_entry(id).head.classes  # type: ignore[union-attr]
    liver, kidney = classes.index("liver"), classes.index("right_kidney")
    if id == "fseft":  # sigmoids: yes above one half
        yes = (logits[[liver, kidney]].sigmoid() > 0.5).any(0)
        assert ((scores.argmax(0) > 0) == yes).float().mean() > 0.9999 and 0 < yes.float().mean() < 1
    else:
        probabilities, expected = scores.softmax(0), logits.softmax(0)
        torch.testing.assert_close(probabilities[1:], expected[[liver, kidney]], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(scores[1:], logits[[liver, kidney]], atol=1e-4, rtol=1e-4)


def test_volumes_are_prepared_as_in_the_pretraining(swin: dict[str, torch.Tensor], tmp_path: Path) -> None:
    _import(tmp_path, swin, "fseft")
    adapter = zero_shot_adapter(SegmentationTask(("spleen",)), _settings("fseft"))
    assert adapter is not None and adapter.card.task.preprocessing is not None
    preprocessing = adapter.card.task.preprocessing
    assert preprocessing.spacing == (1.5, 1.5, 1.5) and preprocessing.window == (-175, 250)
    assert preprocessing.input_range == (0, 1) and "Nothing was trained" in adapter.card.notes[0]
    volume = read_volume(_ct(tmp_path / "ct.nii.gz"))
    assert Predictor(adapter, "cpu").segment(volume).shape == volume.shape


def test_finetune_with_method_none_needs_no_case(swin: dict[str, torch.Tensor], tmp_path: Path) -> None:
    _import(tmp_path, swin, "btcv")
    adapter = finetune([], SegmentationTask(("aorta",)), _settings("btcv"))
    assert adapter.card.method == "none" and adapter.card.cases == ()
    assert adapter.tensors["head.others.bias"].shape == (13,)


@pytest.mark.parametrize(
    ("weights", "label", "said"),
    [
        ("fseft", "left atrium", "do not know left atrium"),
        ("fm3d_small", "liver", "know no structure by name"),
        (None, "liver", "that come with FM3D know no structure by name"),
    ],
)
def test_what_is_not_known_is_refused_in_words(
    weights: str | None, label: str, said: str, swin: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    _import(tmp_path, swin, "fseft")
    settings = FinetuneSettings(method="none", weights=None if weights is None else Path(weights))
    assert zero_shot_adapter(SegmentationTask((label,)), settings) is None
    with pytest.raises(SettingsError, match=said):
        finetune([], SegmentationTask((label,)), settings)


def test_a_classifier_of_other_classes_is_refused_and_a_damaged_copy_named(
    swin: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    path = _write(tmp_path / "x.pth", swin, "fseft", torch.randn(5, 12, 1, 1, 1), torch.randn(5))
    with pytest.raises(WeightsError, match="not 29 rows"):
        import_checkpoint(path, "fseft", SMALL)
    _import(tmp_path, swin, "fseft")
    (file,) = (weights_folder() / "heads").iterdir()
    assert file.stat().st_mode & 0o077 == 0
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(WeightsError, match="classifier of the weights is damaged"):
        head_of(file.stem, weights_folder())


def test_a_file_without_its_classifier_is_still_a_backbone(swin: dict[str, torch.Tensor], tmp_path: Path) -> None:
    path = tmp_path / "bare.pth"
    torch.save(wrapped(swin, "state_dict"), path)
    card = import_checkpoint(path, "btcv", SMALL)
    assert card.report.known == () and head_of(card.sha256, weights_folder()) is None


def test_predict_with_weights_from_the_command_line(
    swin: dict[str, torch.Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _import(tmp_path, swin, "fseft")
    image = _ct(tmp_path / "ct.nii.gz")
    out = tmp_path / "out"
    main(["predict", str(image), "--weights", "fseft", "--labels", "liver", "lien", "--out", str(out)])
    said = capsys.readouterr().out
    assert "lien (there spleen)" in said.replace("\n", " ") and (out / "ct.nii.gz").is_file()
    with pytest.raises(SystemExit):
        main(["predict", str(image), "--weights", "fseft", "--version", "1", "--out", str(out)])
    assert "both --weights and an adapter" in capsys.readouterr().err


def _ct(path: Path) -> Path:
    values = np.random.default_rng(0).integers(-1000, 1000, (40, 40, 24)).astype(np.int16)
    return write_nifti(path, values, np.diag([2.0, 2.0, 3.0, 1.0]))
