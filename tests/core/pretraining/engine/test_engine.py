"""The loop: what it minimises, writes and refuses."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from fm3d_core.cli.main import main
from fm3d_core.errors import CaseError, SettingsError, WeightsError
from fm3d_core.models.weights.importing import choose_weights
from fm3d_core.models.zoo import BackboneSpec, create_backbone
from fm3d_core.pretraining import engine
from fm3d_core.pretraining.engine import pretrain
from fm3d_core.pretraining.flops import step_flops
from fm3d_core.pretraining.objective import Built, Objective, Place
from fm3d_core.pretraining.run_log import read_metrics
from fm3d_core.pretraining.self_distillation_objective import Settings, build
from fm3d_core.pretraining.settings import PretrainSettings, RunSettings, read_configuration
from fm3d_core.strict_settings import validated
from fm3d_core.volumes.crop_store import CropStore, volume_folder

Tiny = Callable[..., PretrainSettings]


@dataclass(frozen=True)
class Numbers:
    """A batch of numbers."""

    values: torch.Tensor
    names: tuple[str, ...]
    unreadable: tuple[str, ...] = ()

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Numbers:
        return self


class NumberLoader:
    """Endless numbers; the batch of a step is the same however it is cut."""

    def __init__(self, batch_size: int, poison: int = -1) -> None:
        self.batch_size, self.poison, self.position = batch_size, poison, 0

    def __iter__(self) -> Iterator[Numbers]:
        while True:
            places = range(self.position, self.position + self.batch_size)
            self.position += self.batch_size
            values = torch.stack([torch.randn(3, generator=torch.Generator().manual_seed(i)) for i in places])
            if self.poison in places:
                values[places.index(self.poison)] = torch.inf
            yield Numbers(values, tuple(f"volume_{i}" for i in places))

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.position = state["position"]


class Line(Objective):
    """A linear map, and the mean of its squared error from the sum of the numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(3, 1)

    def forward(self, batch: Numbers) -> dict[str, torch.Tensor]:
        error = self.line(batch.values).squeeze(1) - batch.values.sum(dim=1)
        return {"squares": error.square().mean(), "noise": 0.0 * torch.rand(()) + 0.0 * error.sum()}

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": list(self.line.parameters()), "lr": 0.1, "weight_decay": 0.0}]

    def before_step(self, step: int, groups: list[dict[str, Any]]) -> dict[str, float]:
        return {"learning_rate": groups[0]["lr"]}

    def clipped_modules(self) -> Mapping[str, nn.Module]:
        return {"line": self.line}

    def pretrained(self) -> nn.Module:
        return self.line


@pytest.fixture
def line(monkeypatch: pytest.MonkeyPatch) -> Callable[..., PretrainSettings]:
    """The toy objective in place of the real ones."""

    def settings(poison: int = -1, **run: Any) -> PretrainSettings:
        def build_line(settings: PretrainSettings, data: Path | None, place: Place) -> Built:
            torch.manual_seed(place.seed)
            return Built(Line(), NumberLoader(place.batch_size, poison), steps=20, gradient_clip=1.0)

        monkeypatch.setattr(engine, "build_objective", build_line)
        return PretrainSettings("a line", "line", {}, RunSettings(accelerator="cpu", log_every=1, **run))

    return settings


def test_it_learns_and_accumulation_equals_the_big_batch(line: Callable[..., PretrainSettings], tmp_path: Path) -> None:
    for name, rounds in (("whole", 1), ("rounds", 4)):
        pretrain(line(batch_size=32, accumulation=rounds), None, tmp_path / name)
    whole, rounds = (read_metrics(tmp_path / name / "metrics.jsonl") for name in ("whole", "rounds"))
    assert whole[-1]["loss"] < 0.5 * whole[0]["loss"]
    for one, other in zip(whole, rounds, strict=True):
        for name in ("loss", "loss/squares", "gradient_norm/line"):
            assert one[name] == pytest.approx(other[name], rel=1e-5)
    one, other = (load_file(tmp_path / name / "backbone.safetensors") for name in ("whole", "rounds"))
    torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


def test_the_optimiser_steps_as_plain_torch_does(line: Callable[..., PretrainSettings], tmp_path: Path) -> None:
    pretrain(line(batch_size=4), None, tmp_path / "run", stop_after=5)
    torch.manual_seed(0)
    objective, loader = Line(), NumberLoader(4)
    optimizer = torch.optim.AdamW(objective.parameter_groups())
    for _, batch in zip(range(5), loader, strict=False):
        objective(batch)["squares"].backward()
        nn.utils.clip_grad_norm_(objective.line.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    expected = {name: value.detach() for name, value in objective.line.state_dict().items()}
    torch.testing.assert_close(load_file(tmp_path / "run" / "backbone.safetensors"), expected)


def test_an_infinite_loss_names_the_volumes_and_spoils_nothing(
    line: Callable[..., PretrainSettings], tmp_path: Path
) -> None:
    settings = line(poison=30, batch_size=4, checkpoint_every=5)
    with pytest.raises(CaseError) as refused:
        pretrain(settings, None, tmp_path / "run")
    said = str(refused.value)
    assert "in step 7, with the volumes volume_28, volume_29, volume_30, volume_31" in said
    assert "the run stands at step 5" in said
    kept = load_file(tmp_path / "run" / "backbone.safetensors")
    assert all(value.isfinite().all() for value in kept.values())
    assert [record["step"] for record in read_metrics(tmp_path / "run" / "metrics.jsonl")] == list(range(1, 8))
    with pytest.raises(CaseError, match="in step 7"):  # the same again, from step 5
        pretrain(settings, None, tmp_path / "run")


def test_bfloat16_runs_and_resumes(tiny_settings: Tiny, crop_store: Path, tmp_path: Path) -> None:
    settings = tiny_settings("run.precision=bf16-mixed", "settings.crop_dtype=float16", "run.accumulation=2")
    pretrain(settings, crop_store, tmp_path / "run", stop_after=3)
    pretrain(settings, crop_store, tmp_path / "run", stop_after=8)
    assert [record["step"] for record in read_metrics(tmp_path / "run" / "metrics.jsonl")] == [4, 8]


def test_float16_on_a_cpu_is_refused(tiny_settings: Tiny, crop_store: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"16-mixed needs a GPU"):
        pretrain(tiny_settings("run.precision=16-mixed"), crop_store, tmp_path / "run")


def test_a_line_of_the_log_says_everything(tiny_settings: Tiny, crop_store: Path, tmp_path: Path) -> None:
    pretrain(tiny_settings(), crop_store, tmp_path / "run", stop_after=4)
    record = read_metrics(tmp_path / "run" / "metrics.jsonl")[0]
    terms = ("dino_global", "dino_local", "ibot", "koleo")
    assert record["loss"] == pytest.approx(sum(record[f"loss/{name}"] for name in terms), rel=1e-5)
    assert all(record[f"gradient_norm/{name}"] > 0 for name in ("backbone", "dino_head", "ibot_head"))
    assert 0 <= record["data_wait"] <= 1 and record["seconds_left"] > 0 and record["samples_per_second"] > 0
    assert record["memory_gigabytes"] > 0.05 and record["unreadable"] == 0
    assert "model_flops_utilisation" not in record  # no peak is made up for a CPU
    assert list((tmp_path / "run" / "tensorboard").glob("events*"))


def test_the_terminal_tells_pace_waiting_utilisation_and_the_time_left(
    tiny: Path, crop_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a processor of a known peak; FM3D knows those of GPUs only."""
    monkeypatch.setattr(engine, "peak_flops", lambda device, precision: 1e12)
    main(["pretrain", str(tiny), "--data", str(crop_store), "--out", str(tmp_path / "run"), "--steps", "4"])
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("step")]
    wanted = (
        r"step 4/60  loss \d+\.\d{4}  learning rate \S+  \S+ samples/s  waiting for data \d+%  utilisation \d+\.\d%"
    )
    assert re.match(wanted + r"  \d:\d\d:\d\d left$", line), line
    (record,) = read_metrics(tmp_path / "run" / "metrics.jsonl")
    flops = _flops_of(crop_store, tiny)
    assert record["model_flops_utilisation"] == pytest.approx(record["samples_per_second"] * flops / 1e12)


def _flops_of(crop_store: Path, tiny: Path) -> float:
    settings = validated(Settings, read_configuration(tiny).settings)
    flops = build(settings, crop_store, Place(batch_size=4)).objective.flops_per_sample()
    assert flops is not None
    return flops


def test_a_file_in_place_of_the_runs_folder_is_refused(tiny_settings: Tiny, crop_store: Path, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    with pytest.raises(SettingsError, match="is a file, not a folder"):
        pretrain(tiny_settings(), crop_store, tmp_path / "run")


def test_unreadable_volumes_are_counted_and_named(tiny_settings: Tiny, crop_store: Path, tmp_path: Path) -> None:
    shutil.copytree(crop_store, tmp_path / "store")
    store = CropStore(tmp_path / "store")
    for file in volume_folder(store.root, store.volumes[2].sha256).glob("*.b2nd"):
        file.write_bytes(b"rubbish")
    pretrain(tiny_settings(), tmp_path / "store", tmp_path / "run", stop_after=8)
    assert read_metrics(tmp_path / "run" / "metrics.jsonl")[-1]["unreadable"] == 1
    lines = (tmp_path / "run" / "unreadable.txt").read_text().splitlines()
    assert len(lines) == 1 and store.volumes[2].sha256 in lines[0]


def test_a_learning_rate_for_another_batch_is_refused(tiny_settings: Tiny, crop_store: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"schedule.batch is 4, run.batch_size 8.*--set settings.schedule.batch=8"):
        pretrain(tiny_settings("run.batch_size=8"), crop_store, tmp_path / "run")
    with pytest.raises(SettingsError, match="Give --data STORE"):
        pretrain(tiny_settings(), None, tmp_path / "run")


def test_the_backbone_is_recognised_by_its_header(
    tiny_settings: Tiny, crop_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FM3D_HOME", str(tmp_path / "home"))
    options = "{image_size: 32, drop_path: 0.1}"
    settings = tiny_settings(f"settings.backbone.options={options}", "run.batch_size=2", "settings.schedule.batch=2")
    path = pretrain(settings, crop_store, tmp_path / "run", stop_after=1)
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["fm3d"])
    assert header["preset"] == "vit_tiny" and header["step"] == 1 and header["objective"] == "self_distillation"
    preset, sha256 = choose_weights(path, None)
    assert preset == "vit_tiny"
    backbone = create_backbone(BackboneSpec(preset, weights=sha256))
    stored = load_file(path)
    assert all(torch.equal(value, stored[name]) for name, value in backbone.state_dict().items())  # type: ignore[attr-defined]
    assert stored["pos_embed"].shape == (1, 1 + 6**3, 192)  # of 2^3 patches, resized to the preset's
    with pytest.raises(WeightsError, match=r"vit_small|tensors"):
        choose_weights(path, "vit_small")


def test_a_second_stage_begins_with_the_teacher_at_another_size(
    tiny_settings: Tiny, crop_store: Path, tmp_path: Path
) -> None:
    pretrain(tiny_settings(), crop_store, tmp_path / "first", stop_after=3)
    teacher = tmp_path / "first" / "teacher.safetensors"
    larger = ("settings.backbone.options.image_size=48", f"settings.initial.path={teacher}")
    place = Place(batch_size=4)
    own = validated(Settings, tiny_settings(*larger).settings)
    model: Any = build(own, crop_store, place).objective
    before = load_file(teacher)
    for network in (model.model.student, model.model.teacher):
        state = network.state_dict()
        assert state["backbone.pos_embed"].shape == (1, 1 + 27, 24)
        assert state.keys() == before.keys()
        same = [name for name in state if name != "backbone.pos_embed"]
        assert all(torch.equal(state[name], before[name]) for name in same)
    other = validated(Settings, tiny_settings(*larger, "settings.step.head.prototypes=16").settings)
    with pytest.raises(WeightsError, match=r"dino_head.last_layer.* has another shape.*initial.heads=false"):
        build(other, crop_store, place)
    fresh = validated(
        Settings, tiny_settings(*larger, "settings.step.head.prototypes=16", "settings.initial.heads=false").settings
    )
    renewed: Any = build(fresh, crop_store, place).objective
    assert torch.equal(renewed.model.student.backbone.norm.weight, before["backbone.norm.weight"])
    deeper = validated(Settings, tiny_settings(*larger, "settings.backbone.options.depth=3").settings)
    with pytest.raises(WeightsError, match=r"blocks.2.* is missing"):
        build(deeper, crop_store, place)


def test_the_public_layout_of_3dino_is_taken_as_a_beginning(parity_folder: Path, tmp_path: Path) -> None:
    from fm3d_core.models.vit import VisionTransformer3D, flat_block_name
    from fm3d_core.models.weights.reading import named_tensors, read_checkpoint
    from fm3d_core.pretraining.initial_weights import InitialWeights, load_initial_weights
    from fm3d_core.pretraining.self_distillation import HeadSettings, SelfDistillation, SelfDistillationSettings

    path = parity_folder / "teacher_checkpoint_tiny.pth"
    tensors = {flat_block_name(k): v for k, v in named_tensors(read_checkpoint(path), "teacher").items()}
    width, depth = (
        tensors["backbone.norm.weight"].numel(),
        1 + max(int(name.split(".")[2]) for name in tensors if ".blocks." in name),
    )
    prototypes, bottleneck = tensors["dino_head.last_layer.weight_v"].shape
    head = HeadSettings(prototypes, tensors["dino_head.mlp.0.weight"].shape[0], bottleneck)
    edge = round((tensors["backbone.pos_embed"].shape[1] - 1) ** (1 / 3))
    backbone = VisionTransformer3D(image_size=16 * edge, width=width, depth=depth, heads=width // 8)
    model = SelfDistillation(backbone, SelfDistillationSettings(head=head, ibot_head=head))
    load_initial_weights(InitialWeights(path), model)
    assert all(torch.equal(value, tensors[name]) for name, value in model.teacher.state_dict().items())


def test_dry_run_and_list_tell_without_training(
    tiny: Path, crop_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(
        ["pretrain", str(tiny), "--data", str(crop_store), "--dry-run", "--set", "settings.views.local_crops.number=3"]
    )
    said = capsys.readouterr().out
    assert "teacher_momentum:" in said and "number: 3" in said
    assert "steps: 60 of 4 samples, 40 passes over 6 volumes" in said and "parameters: backbone" in said
    assert "crops.global_crops: (8, 1, 32, 32, 32) float32" in said
    assert "crops.local_crops: (12, 1, 16, 16, 16) float32" in said
    main(["pretrain", "--list"])
    said = capsys.readouterr().out
    assert all(name in said for name in ("3dino_vit_large", "3dino_high_resolution", "flare", "small_gpu", "small_cpu"))
    for arguments, problem in (
        ([], "no configuration given"),
        ([str(tiny)], "no folder for the run given"),
        ([str(tiny), "--out", str(tmp_path), "--steps", "0"], "--steps 0"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["pretrain", *arguments])
        assert ended.value.code == 2 and problem in capsys.readouterr().err


def test_the_floating_point_operations_are_those_of_the_formula(crop_store: Path, tiny_settings: Tiny) -> None:
    """What the formula counts, test_flops.py compares with what torch counts."""
    own = validated(Settings, tiny_settings().settings)
    built = build(own, crop_store, Place(batch_size=4))
    expected = step_flops(own.backbone.build(), own.step, own.views, own.masks, 4)
    assert built.objective.flops_per_sample() == expected > 0
