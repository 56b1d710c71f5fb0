"""``fm3d weights`` as a user runs it; downloads come from a small server on this computer that answers like the Hub."""

from __future__ import annotations

import hashlib
import json
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import safetensors.torch
import torch
from command import run as fm3d

from fm3d_core.errors import WeightsError
from fm3d_core.models.weights import catalogue as catalogue_module
from fm3d_core.models.weights.catalogue import WeightEntry, read_catalogue
from fm3d_core.models.weights.fetching import downloaded
from fm3d_core.models.weights.store import weight_cards, weights_folder
from fm3d_core.models.zoo import BackboneSpec, create_backbone

COMMIT = "0123456789abcdef0123456789abcdef01234567"
HUB_FILES = [f"/lab/open/resolve/{COMMIT}/{name}.pth" for name in ("hub", "hub_cut")]
# entries of a small network, one per kind of place; its names are those of our residual U-Net below the entry's id
TEMPLATE = """
{id}:
  about: a small test network
  backbone: residual_unet_small
  files: [{id}.pth]
  source: {source}
  licence: Example Licence 1.0
  terms: for tests only
  citation: Example et al. 2026
  {gated}
  wrapper: state_dict
  rename: [['^{id}\\.', '']]
  encoder: '.'
  unused: '^head\\.'
  signature: '^{id}\\.'
  properties: {{}}
  preprocessing: {{intensity: a, spacing: b, window: c}}
"""


run = partial(fm3d, "weights")


class _Hub(BaseHTTPRequestHandler):
    """Answers for one public file, one gated repository, one plain address and one broken connection."""

    content = b""

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        if "/gated/" in self.path or self.path.startswith("/lab/gated"):
            self.send_response(403)
            self.send_header("X-Error-Code", "GatedRepo")
            self.send_header("X-Error-Message", "Access to model lab/gated is restricted")
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif self.path.split("?")[0] in (*HUB_FILES, "/files/address.pth", "/cut/cut.pth"):
            self.send_response(200)
            self.send_header("ETag", f'"{hashlib.sha256(self.content).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Content-Length", str(len(self.content)))
            self.end_headers()
            if body:
                self.wfile.write(self.content[:1000] if "cut" in self.path else self.content)
                self.close_connection = True
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The server's address; its file is a residual U-Net saved as training scripts do."""
    state = create_backbone(BackboneSpec("residual_unet_small", seed=11)).state_dict()  # type: ignore[attr-defined]
    path = tmp_path_factory.mktemp("hub") / "file.pth"
    names = {f"hub.{name}": tensor for name, tensor in state.items()}
    torch.save({"state_dict": {**names, "head.weight": torch.zeros(3)}, "epoch": 4}, path)
    _Hub.content = path.read_bytes()
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{httpd.server_port}"
    httpd.shutdown()


@pytest.fixture
def entries(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, WeightEntry]:
    """A catalogue whose places are on the server, the Hub's cache empty, no token, no proxy."""
    from huggingface_hub import constants

    hub = "{{hub: {{repo: lab/{repo}, revision: {revision}, file: {file}}}}}"
    open_hub = hub.format(repo="open", revision=COMMIT, file="hub.pth")
    places = {
        "hub": (open_hub, ""),
        "lost": (hub.format(repo="open", revision=COMMIT, file="lost.pth"), ""),
        "hub_cut": (hub.format(repo="open", revision=COMMIT, file="hub_cut.pth"), ""),
        "gated": (hub.format(repo="gated", revision=COMMIT, file="gated.pth"), "gated: Ask for access on its page"),
        "address": (f"{{url: '{server}/files/address.pth?dl=1', page: '{server}/about'}}", ""),
        "cut": (f"{{url: '{server}/cut/cut.pth'}}", ""),
        "gone": (f"{{url: '{server}/gone.pth'}}", ""),
        "manual": ("{page: 'https://example.org/manual'}", ""),
    }
    text = "".join(TEMPLATE.format(id=id, source=source, gated=gated) for id, (source, gated) in places.items())
    text = text.replace("'^address\\.'", "'^hub\\.'")
    found = read_catalogue(text)
    monkeypatch.setattr(catalogue_module, "catalogue", lambda: found)
    monkeypatch.setattr("fm3d_core.models.weights.importing.catalogue", lambda: found)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub_cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no_token"))
    monkeypatch.setenv("HF_ENDPOINT", server)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    return found


@pytest.mark.parametrize("id", ["hub", "address"])
def test_fetching_shows_licence_and_citation_then_downloads_checks_and_keeps(
    id: str, entries: dict[str, WeightEntry], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("fetch", id, "--accept-licence") == 0
    printed = capsys.readouterr().out
    assert printed.index("Example Licence 1.0 (for tests only)") < printed.index("tensors landed")
    assert printed.index("Example et al. 2026") < printed.index("tensors landed")
    assert "36 of 36 encoder tensors landed" in printed and "1 tensors of the file are not used: head" in printed
    (card,) = weight_cards()
    assert (
        card.id == id and card.source == f"{id}.pth" and card.source_sha256 == hashlib.sha256(_Hub.content).hexdigest()
    )
    assert sorted(path.suffix for path in weights_folder().iterdir()) == [".json", ".safetensors"]
    loaded = create_backbone(BackboneSpec("residual_unet_small", weights=card.sha256)).state_dict()  # type: ignore[attr-defined]
    original = create_backbone(BackboneSpec("residual_unet_small", seed=11)).state_dict()  # type: ignore[attr-defined]
    assert all(torch.equal(loaded[name], tensor) for name, tensor in original.items())
    assert run("list") == 0
    assert f"yes, {card.sha256[:8]}" in capsys.readouterr().out


def test_nothing_is_downloaded_before_the_licence_is_accepted(
    entries: dict[str, WeightEntry], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("fetch", "hub") == 2
    output = capsys.readouterr()
    assert "Example Licence 1.0" in output.out and "add --accept-licence" in output.err
    for answer, code in (("n", 2), ("", 2), ("yes", 0)):
        monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
        monkeypatch.setattr("builtins.input", lambda *_, answer=answer: answer)
        assert run("fetch", "hub") == code
        assert len(weight_cards()) == (code == 0)


@pytest.mark.parametrize(
    ("id", "reason"),
    [
        ("gated", "access to lab/gated was not granted to this computer. Ask for access on its page"),
        ("lost", f"lost.pth of lab/open at {COMMIT} was not found"),
        ("cut", "the download ended after 1000 of"),
        ("hub_cut", "hub_cut: the download failed"),
        ("gone", "the download failed (HTTP Error 404"),
        ("manual", "cannot be downloaded by a program. Get the file from https://example.org/manual and run"),
        ("magic", "unknown weights 'magic'"),
    ],
)
def test_what_cannot_be_fetched_is_explained_in_one_line(
    id: str, reason: str, entries: dict[str, WeightEntry], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("fetch", id, "--accept-licence") == 2
    message = capsys.readouterr().err.strip()
    assert reason in message and message.splitlines()[-1].startswith("fm3d: ")
    assert not weights_folder().exists() or not list(weights_folder().iterdir())


@pytest.mark.parametrize("id", ["hub", "address"])
def test_offline_nothing_is_tried(id: str, entries: dict[str, WeightEntry], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with (
        pytest.raises(WeightsError, match=rf"elsewhere and run fm3d weights import FILE --as {id}"),
        downloaded(entries[id]),
    ):
        pass


def test_without_the_hubs_program_the_way_by_hand_is_named(
    entries: dict[str, WeightEntry], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(WeightsError, match="pip install huggingface_hub, or download it"), downloaded(entries["hub"]):
        pass


def test_an_imported_file_is_listed_described_and_verified(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = create_backbone(BackboneSpec("swin_unetr_tiny_legacy")).state_dict()  # type: ignore[attr-defined]
    named = {f"module.{name.removeprefix('network.')}": tensor for name, tensor in state.items()}
    torch.save({**named, "module.classifier.weight": torch.zeros(29, 12, 1, 1, 1)}, tmp_path / "file.pth")
    assert run("import", tmp_path / "file.pth", "--backbone", "swin_unetr_tiny_legacy") == 0
    printed = capsys.readouterr().out
    assert "Read as fseft (recognised by its tensors and its name)" in printed and "157 of 157" in printed
    assert "--weights fseft" in printed
    assert run("info", "fseft") == 0
    printed = capsys.readouterr().out
    for fact in ("swin_unetr_base_legacy", "2303.17051", "-175 to 250 HU", "1.5 x 1.5 x 1.5 mm", "legacy", "file.pth"):
        assert fact in printed
    assert run("verify") == 0
    assert "1 weight files" in capsys.readouterr().out
    (copy,) = weights_folder().glob("*.safetensors")
    copy.write_bytes(copy.read_bytes()[:-1])
    assert run("verify") == 2
    output = capsys.readouterr()
    assert f"damaged: {copy}" in output.out and "1 files are damaged" in output.err


@pytest.mark.parametrize("own_shape", [False, True])
def test_a_pretrained_file_is_used_by_the_path_that_was_given(
    own_shape: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    options = {"channels": [4, 8]} if own_shape else None
    state = create_backbone(BackboneSpec("residual_unet_small"), options).state_dict()  # type: ignore[attr-defined]
    preset = None if own_shape else "residual_unet_small"
    about = {"objective": "pretext", "preset": preset, "class": "ResidualUNet", "config": options}
    file = Path("runs/first/backbone.safetensors")
    file.parent.mkdir(parents=True)
    tensors = {name: tensor.contiguous() for name, tensor in state.items()}
    safetensors.torch.save_file(tensors, file, {"fm3d": json.dumps(about)})
    assert run("import", file) == 0
    end = "" if own_shape else " --backbone residual_unet_small"
    assert capsys.readouterr().out.strip().endswith(f"Use it with --weights {file}{end}")


def test_gating_steps_are_told_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("info", "3dino_vit") == 0
    printed = capsys.readouterr().out
    assert "huggingface.co/AICONSlab/3DINO-ViT" in printed and "hf auth login" in printed and "CC BY-NC-ND" in printed


def test_mistakes_are_one_line_with_a_remedy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.pth").write_text("nothing")
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    mistakes: dict[str, tuple[object, ...]] = {
        "info needs an id": ("info",),
        "import needs a file": ("import",),
        "unknown weights 'magic'": ("info", "magic"),
        "no such weight file": ("import", tmp_path / "absent.pth"),
        "not a readable weight file": ("import", tmp_path / "text.pth"),
        "no known layout": ("import", tmp_path / "other.pth"),
        "157 of the 157 encoder tensors of btcv are missing": ("import", tmp_path / "other.pth", "--as", "btcv"),
        "unknown backbone 'magic'": ("import", tmp_path / "other.pth", "--as", "btcv", "--backbone", "magic"),
        "fetched as itself": ("fetch", "btcv", "--as", "fseft"),
    }
    for reason, arguments in mistakes.items():
        assert run(*arguments) == 2, reason
        message = capsys.readouterr().err.strip()
        assert message.count("\n") == 0 and message.startswith("fm3d: ") and reason in message, message
