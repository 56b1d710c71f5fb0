"""The prompt decoder: prompts decide what it draws, at the size of the image; the shipped file is the stated one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from fm3d_core.errors import WeightsError
from fm3d_core.files import sha256_of
from fm3d_core.models.prompt_decoder import PROMPT_CHANNELS, PromptDecoder

CHANNELS = (4, 6, 8)
SIZE = (16, 24, 8)


@pytest.fixture(scope="module")
def decoder() -> PromptDecoder:
    torch.manual_seed(0)
    return PromptDecoder(CHANNELS, width=4, embedding=4).requires_grad_(False).eval()


def _maps() -> list[torch.Tensor]:
    torch.manual_seed(1)
    return [torch.randn(1, count, *(edge // 2**i for edge in SIZE)) for i, count in enumerate(CHANNELS)]


def test_what_it_draws_has_the_images_size_and_follows_the_prompts(decoder: PromptDecoder) -> None:
    encoded = decoder.encode(_maps())
    image, prompts = torch.zeros(1, 1, *SIZE), torch.zeros(1, PROMPT_CHANNELS, *(edge // 2 for edge in SIZE))
    none = torch.zeros(0, dtype=torch.int64)
    fine, coarse = decoder(encoded, image, prompts, none, none)
    assert fine.shape == (1, 1, *SIZE) and coarse.shape == (1, 1, 8, 12, 4)
    clicked, _ = decoder(encoded, image, prompts, torch.tensor([5]), none)
    excluded, _ = decoder(encoded, image, prompts, none, torch.tensor([5]))
    assert not torch.allclose(fine, clicked) and not torch.allclose(clicked, excluded)
    moved, _ = decoder(encoded, image, prompts + 1, none, none)
    assert not torch.allclose(fine, moved)


def test_likeness_is_greatest_at_the_prompted_voxel_itself(decoder: PromptDecoder) -> None:
    embedding = decoder.encode(_maps()).embedding
    torch.testing.assert_close(embedding.norm(dim=1), torch.ones(1, 8, 12, 4))
    like = decoder._likeness(embedding, torch.tensor([37, 100]))[0, 0].flatten()
    assert like.max() <= 1 + 1e-5 and like[37] == pytest.approx(1, abs=1e-4) and like[100] == pytest.approx(1, abs=1e-4)
    assert not decoder._likeness(embedding, torch.zeros(0, dtype=torch.int64)).any()


def test_the_shipped_decoder_is_the_one_that_its_entry_and_the_model_card_name(monkeypatch: pytest.MonkeyPatch) -> None:
    import yaml

    from fm3d_core.inference.interactive import decoding
    from fm3d_core.inference.interactive.features import default_backbone
    from fm3d_core.models.weights import shipped_weights

    entry = yaml.safe_load((decoding.FOLDER / "prompt_decoder.yaml").read_text(encoding="utf-8"))
    card = (shipped_weights.FOLDER / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert sha256_of(decoding.FOLDER / entry["file"]) == entry["sha256"] and entry["sha256"] in card
    assert entry["backbone"] in shipped_weights.shipped_weights()
    decoder = decoding.prompt_decoder()
    assert decoder.config["feature_channels"] == list(default_backbone().feature_channels)
    assert all(bool(tensor.isfinite().all()) for tensor in decoder.state_dict().values())


def test_a_changed_file_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from fm3d_core.inference.interactive import decoding

    shutil.copytree(decoding.FOLDER, tmp_path / "shipped")
    (tmp_path / "shipped" / "prompt_decoder.safetensors").write_bytes(b"changed")
    monkeypatch.setattr(decoding, "FOLDER", tmp_path / "shipped")
    with pytest.raises(WeightsError, match=r"changed.*Install FM3D again"):
        decoding.prompt_decoder.__wrapped__()
