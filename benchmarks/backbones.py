"""Time and memory of the ViTs and their heads, next to MONAI's ViT and SwinUNETR in the same run.

    python benchmarks/backbones.py --models small base --sizes 96 --heads none --multi-crop
    python benchmarks/backbones.py --models none --heads linear unetr light vit_adapter
    python benchmarks/backbones.py --models large --sizes 112 --precisions fp32 bf16 bf16_weights --threads 1 2
    python benchmarks/backbones.py --models none --heads none --no-multi-crop --floor

Every figure comes from a process of its own: CPU seconds of all its threads for one call (the quickest of ``repeats``
after one to warm up), and the peak of its resident memory, the interpreter and the weights included. Batch 1. SwinUNETR
(feature size 48) gets the next multiple of 32. "bf16" is autocast, which converts the weights at every call;
"bf16_weights" is autocast with weights converted once, as prediction does it (of the peers all of the network), forward
only. With --rounds the three of a row are measured in turn so many times, for a machine that others use. The cosine to
fp32 is that of the outputs. The heads are on ViT-L, 14 classes. The crops are those of 3DINO's pretraining, 2 x 96^3
and 8 x 48^3, through ViT-S.
Anchors of the reference implementation, one thread of an EPYC: ../shared/specs/dino.md, 4.1 and 4.3.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import tyro
from rich.console import Console
from rich.table import Table

SHAPES = {"small": (384, 12, 6), "base": (768, 12, 12), "large": (1024, 24, 16)}
# core-seconds and peak MB of the reference (with its ViT-L) at 112^3
HEAD_ANCHORS = {"backbone": (2.6, 1491), "linear": (3.3, 1748), "unetr": (14.7, 2901), "vit_adapter": (40.1, 5115)}


@dataclass(frozen=True)
class Measurement:
    """One figure: what runs, and how."""

    subject: str
    size: int
    threads: int
    precision: str = "fp32"
    training: bool = False
    repeats: int = 3


@dataclass(frozen=True)
class Benchmark:
    """What is measured.

    Attributes:
        models: ViT sizes; "none" for no backbone alone.
        sizes: edges of the cubic input in voxels.
        threads: of the processor.
        precisions: fp32, bf16 (autocast), bf16_weights.
        training: measure forward and backward as well.
        swin_unetr: measure MONAI's SwinUNETR as well, which takes ten times as long as the largest ViT.
        heads: segmentation heads on ViT-L, at ``head_size``; "none" for none.
        head_size: edge of their input.
        multi_crop: crops of two sizes in one pass against a pass per crop.
        floor: the bare matrix products of the backbone sizes in fp32 and bf16: what a backbone cannot go below.
        repeats: calls per figure.
        rounds: processes per figure of a backbone, in turn with its peers'; the quickest counts.
        out: a JSON file for the figures.
    """

    models: tuple[Literal["small", "base", "large", "none"], ...] = ("small", "base", "large")
    sizes: tuple[int, ...] = (96, 112)
    threads: tuple[int, ...] = (1, 2)
    precisions: tuple[Literal["fp32", "bf16", "bf16_weights"], ...] = ("fp32", "bf16")
    training: bool = True
    swin_unetr: bool = True
    heads: tuple[Literal["linear", "unetr", "light", "vit_adapter", "none"], ...] = (
        "linear",
        "unetr",
        "light",
        "vit_adapter",
    )
    head_size: int = 112
    multi_crop: bool = True
    floor: bool = False
    repeats: int = 3
    rounds: int = 1
    out: Path | None = None

    def run(self) -> None:
        """Measure and print the tables."""
        console, rows = Console(), []
        if set(self.models) != {"none"}:
            table = Table("", "size", "threads", "precision", "pass", title="Backbones, core-seconds (peak MB)")
            for column in ("FM3D", "MONAI ViT", "ratio", "SwinUNETR", "ratio", "cosine"):
                table.add_column(column)
            for case in self._cases():
                rows.append(self._backbone_row(table, **case))
                console.print(rows[-1])
            console.print(table)
        if self.floor:
            rows += self._floor(console)
        if self.multi_crop:
            rows += self._crops(console)
        if set(self.heads) != {"none"}:
            rows += self._heads(console)
        if self.out is not None:
            self.out.write_text(json.dumps(rows, indent=2), encoding="utf-8")

    def _cases(self) -> list[dict[str, Any]]:
        return [
            {"model": model, "size": size, "threads": threads, "precision": precision, "training": training}
            for model in self.models
            if model != "none"
            for size in self.sizes
            for threads in self.threads
            for precision in self.precisions
            for training in ((False, True) if self.training else (False,))
            if not (training and precision == "bf16_weights")
        ]

    def _backbone_row(self, table: Table, model: str, **how: Any) -> dict[str, Any]:
        subjects = [f"fm3d:{model}", f"monai:{model}", *(["swin_unetr"] if self.swin_unetr else [])]
        rounds = [
            [measured(Measurement(subject, repeats=self.repeats, **how)) for subject in subjects]
            for _ in range(self.rounds)
        ]
        quickest = [min(figures, key=lambda found: found["seconds"]) for figures in zip(*rounds, strict=True)]
        mine, peer, swin = (*quickest, None)[:3]
        table.add_row(
            model,
            str(how["size"]),
            str(how["threads"]),
            how["precision"],
            "forward + backward" if how["training"] else "forward",
            _figure(mine),
            _figure(peer),
            f"{mine['seconds'] / peer['seconds']:.2f}",
            _figure(swin) if swin else "",
            f"{mine['seconds'] / swin['seconds']:.2f}" if swin else "",
            f"{mine['cosine']:.5f}" if "cosine" in mine else "",
        )
        return {"model": model, **how, "fm3d": mine, "monai": peer, "swin_unetr": swin}

    def _floor(self, console: Console) -> list[dict[str, Any]]:
        table = Table("", "size", "threads", "fp32", "bf16", "ratio", title="Bare matrix products, core-seconds")
        rows = []
        for model in SHAPES:
            for size in self.sizes:
                for threads in self.threads:
                    how = Measurement(f"floor:{model}", size, threads, repeats=self.repeats)
                    exact, half = (
                        measured(replace(how, precision=name))["seconds"] for name in ("fp32", "bf16_weights")
                    )
                    row = (f"{exact:.2f}", f"{half:.2f}", f"{exact / half:.2f}")
                    table.add_row(model, str(size), str(threads), *row)
                    rows.append({"floor": model, "size": size, "threads": threads, "fp32": exact, "bf16": half})
        console.print(table)
        return rows

    def _crops(self, console: Console) -> list[dict[str, Any]]:
        table = Table(
            "threads", "pass", "one pass", "pass per size", "pass per crop", title="2 x 96^3 + 8 x 48^3, ViT-S"
        )
        rows = []
        for threads in self.threads:
            for training in (False, True) if self.training else (False,):
                figures = {
                    way: measured(Measurement(f"crops:{way}", 96, threads, "fp32", training, self.repeats))
                    for way in ("one", "size", "crop")
                }
                name = "forward + backward" if training else "forward"
                table.add_row(str(threads), name, *(_figure(figure) for figure in figures.values()))
                rows.append({"crops": figures, "threads": threads, "training": training})
        console.print(table)
        return rows

    def _heads(self, console: Console) -> list[dict[str, Any]]:
        table = Table("", "threads", "precision", "FM3D", "reference, 112^3", "ratio", "to backbone", "cosine")
        table.title = f"Segmentation networks on ViT-L, {self.head_size}^3, forward, core-seconds (peak MB)"
        rows = []
        for threads in self.threads:
            for precision in self.precisions:
                alone = 0.0
                for head in ("backbone", *(head for head in self.heads if head != "none")):
                    how = Measurement(f"head:{head}", self.head_size, threads, precision, False, self.repeats)
                    figure = measured(how)
                    alone = alone or figure["seconds"]
                    anchor = HEAD_ANCHORS.get(head)
                    table.add_row(
                        head,
                        str(threads),
                        precision,
                        _figure(figure),
                        f"{anchor[0]:g} ({anchor[1]})" if anchor else "",
                        f"{figure['seconds'] / anchor[0]:.2f} ({figure['peak_mb'] / anchor[1]:.2f})" if anchor else "",
                        f"{figure['seconds'] / alone:.2f}",
                        f"{figure['cosine']:.5f}" if "cosine" in figure else "",
                    )
                    rows.append({"head": head, "threads": threads, "precision": precision, **figure})
        console.print(table)
        return rows


def _figure(figure: dict[str, Any]) -> str:
    return f"{figure['seconds']:.2f} ({figure['peak_mb']:.0f})"


def measured(measurement: Measurement) -> dict[str, Any]:
    """The figures of a measurement, made in a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(measurement.threads), "OMP_WAIT_POLICY": "PASSIVE"}
    command = [sys.executable, __file__, "measure", json.dumps(asdict(measurement))]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(f"{measurement} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def _measure(measurement: Measurement) -> dict[str, Any]:
    import torch

    from fm3d_core.torchvision_guard import ensure_torchvision_importable

    ensure_torchvision_importable()
    torch.manual_seed(0)
    torch.set_num_threads(measurement.threads)
    torch.set_grad_enabled(measurement.training)
    call = _subject(measurement)
    ours = measurement.subject.split(":")[0] in ("fm3d", "head")
    half = measurement.precision == "bf16" or (measurement.precision == "bf16_weights" and ours)

    def once() -> Any:
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            output = call()
        if measurement.training:
            output.float().square().mean().backward()
        return output

    seconds = []
    output = once()
    for _ in range(measurement.repeats):
        del output  # or the peak would count two
        start = time.process_time()
        output = once()
        seconds.append(time.process_time() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    figures = {"seconds": min(seconds), "peak_mb": peak}
    if measurement.precision != "fp32" and not measurement.subject.startswith("floor"):
        torch.manual_seed(0)
        exact = _subject(replace(measurement, precision="fp32"))().detach().double().flatten()
        figures["cosine"] = float(torch.cosine_similarity(output.detach().double().flatten(), exact, dim=0))
    return figures


def _subject(measurement: Measurement) -> Callable[[], Any]:
    """What is called: returns one tensor."""
    import torch

    kind, _, which = measurement.subject.partition(":")
    size = measurement.size
    if kind == "swin_unetr":
        size = -(-size // 32) * 32
    image = torch.rand(1, 1, size, size, size) * 2 - 1
    if kind == "crops":
        return _crops(which)
    if kind == "floor":
        return _products(which, size, torch.bfloat16 if measurement.precision == "bf16_weights" else torch.float32)
    network = _head(which) if kind == "head" else _backbone(kind, which, size)
    network.train(measurement.training)
    if measurement.precision == "bf16_weights" and kind in ("fm3d", "head"):
        from fm3d_core.models.half_precision import for_inference

        network = for_inference(network, getattr(network, "backbone", network))
    elif measurement.precision == "bf16_weights":
        network, image = network.to(torch.bfloat16), image.to(torch.bfloat16)
    if kind == "fm3d" or which == "backbone":
        return lambda: network.forward_features(image).patch_tokens
    if kind == "monai":
        return lambda: network(image)[0]
    return lambda: network(image)


def _backbone(kind: str, which: str, size: int) -> Any:
    if kind == "swin_unetr":
        from monai.networks.nets import SwinUNETR

        return SwinUNETR(in_channels=1, out_channels=14, feature_size=48)
    width, depth, heads = SHAPES[which]
    if kind == "monai":
        from monai.networks.nets import ViT

        edges = (size,) * 3
        return ViT(1, edges, (16,) * 3, hidden_size=width, mlp_dim=4 * width, num_layers=depth, num_heads=heads)
    from fm3d_core.models.vit import VisionTransformer3D

    return VisionTransformer3D(image_size=size, width=width, depth=depth, heads=heads)


def _head(which: str) -> Any:
    from fm3d_core.models.decoders import LinearDecoder, UNETRHead, ViTAdapterUNETR
    from fm3d_core.models.light_decoder import LightDecoder
    from fm3d_core.models.network import DenseNetwork
    from fm3d_core.models.vit_adapter import ViTAdapter

    vit = _backbone("fm3d", "large", 112)
    if which == "backbone":
        return vit
    if which == "vit_adapter":
        return ViTAdapterUNETR(ViTAdapter(vit), 14)
    return DenseNetwork(vit, {"linear": LinearDecoder, "unetr": UNETRHead, "light": LightDecoder}[which](1024, 14))


def _products(which: str, size: int, dtype: Any) -> Callable[[], Any]:
    """The linear layers of all blocks on as many tokens, each with weights of its own, and nothing else."""
    import torch

    width, depth, _ = SHAPES[which]
    shapes = [(width, 3 * width), (width, width), (width, 4 * width), (4 * width, width)] * depth
    images = {inputs: torch.randn((size // 16) ** 3 + 1, inputs).to(dtype) for inputs in (width, 4 * width)}
    weights = [torch.randn(outputs, inputs).to(dtype) for inputs, outputs in shapes]
    return lambda: [torch.nn.functional.linear(images[weight.shape[1]], weight) for weight in weights][-1]


def _crops(way: str) -> Callable[[], Any]:
    import torch

    vit = _backbone("fm3d", "small", 96)
    groups = [torch.randn(2, 1, 96, 96, 96), torch.randn(8, 1, 48, 48, 48)]
    if way == "one":
        return lambda: torch.cat([features.cls_token for features in vit.forward_many(groups)])
    crops = groups if way == "size" else [crop for group in groups for crop in group.split(1)]
    return lambda: torch.cat([vit(crop) for crop in crops])


if __name__ == "__main__":
    if sys.argv[1:2] == ["measure"]:
        sys.stdout.write(json.dumps(_measure(Measurement(**json.loads(sys.argv[2])))) + "\n")
    else:
        tyro.cli(Benchmark, description=__doc__).run()
