"""Simulated clicks on real volumes: how many until the segmentation is good, and how long a clinician waits for each.

    python benchmarks/clicks.py --data ../shared/data --out clicks.jsonl       # goes on where it was stopped
    python benchmarks/clicks.py --structures "spleen (MR)" --volumes 1 --out clicks.jsonl
    python benchmarks/clicks.py --first --volumes 2 --clicks 10 --methods fm3d # to compare variants

The standard protocol (Xu et al. 2016; Sofiiuk et al. 2022, RITM; Isensee et al. 2025, nnInteractive): the first click
lies in the most interior voxel of the structure's largest part, each further one in the most interior voxel of the
largest part that is wrong, positive if it was missed and negative if it was taken too much. 20 clicks at most. The
volumes are the last ones of their sets; none was used to choose anything. FM3D gets the clicks and nothing else.

Peers in the same run, which need a region of interest and are given the true one with a margin (FM3D is not):
- "random walker": Grady 2006 on intensities, by scipy's conjugate gradients; the region's border is background.
- "graph cut": MONAI Label's histogram-based graph cut for scribbles, its own transforms; each click is a ball of
  2 voxels, as a brush would paint.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tyro
from rich.console import Console
from rich.table import Table
from scipy import ndimage
from scipy.sparse import coo_matrix, diags
from scipy.sparse.linalg import cg

from fm3d_core.evaluation.dice import dice_of_masks
from fm3d_core.inference.interactive import FeatureVolume, Prompts, segment_from_prompts
from fm3d_core.torchvision_guard import ensure_torchvision_importable
from fm3d_core.volumes import Volume, find_cases, read_label, read_volume

Mask = npt.NDArray[np.bool_]
Voxel = tuple[int, int, int]
CLICKS = 20
GOOD = 0.85
WORSE = 0.02  # loss of Dice from one click to the next that counts as worse
SHOWN = (1, 3, 5, 10, 20)
MARGIN = 8  # voxels around the structure that the peers' region of interest has
SMALLEST = 50  # voxels of a structure that is worth a click


@dataclass(frozen=True)
class Structure:
    """What is to be found.

    Attributes:
        folder: below the data folder.
        values: of the label, taken together.
    """

    folder: str
    values: tuple[int, ...]


STRUCTURES = {
    "liver (CT)": Structure("abdomen/btcv_ct", (6,)),
    "spleen (CT)": Structure("abdomen/btcv_ct", (1,)),
    "right kidney (CT)": Structure("abdomen/btcv_ct", (2,)),
    "liver (MR)": Structure("abdomen/chaos_mr_t2", (1,)),
    "right kidney (MR)": Structure("abdomen/chaos_mr_t2", (2,)),
    "spleen (MR)": Structure("abdomen/chaos_mr_t2", (4,)),
    "left atrium (MR)": Structure("other/la_mr", (1,)),
    "hippocampus (MR)": Structure("hippocampus", (1, 2)),
    "lung tumour (CT)": Structure("other/nsclc_ct", (1,)),
}


@dataclass(frozen=True)
class Click:
    """One click on the volume's grid."""

    voxel: Voxel
    positive: bool


Method = Callable[[Sequence[Click]], Mask]


@dataclass(frozen=True)
class Benchmark:
    """What is measured.

    Attributes:
        data: folder of the sets.
        structures: which of them.
        methods: fm3d, random walker, graph cut.
        volumes: of each set, the last ones.
        first: take the first ones instead: for choosing between variants, never for figures.
        clicks: at most.
        threads: of the processor.
        out: a JSON lines file for the figures of each volume; what is in it is not measured again.
        pictures: a folder for a picture of each volume after 1, 3 and 10 clicks of fm3d.
    """

    data: Path = Path("../shared/data")
    structures: tuple[str, ...] = tuple(STRUCTURES)
    methods: tuple[str, ...] = ("fm3d", "random walker", "graph cut")
    volumes: int = 4
    first: bool = False
    clicks: int = CLICKS
    threads: int = 1
    out: Path | None = None
    pictures: Path | None = None

    def run(self) -> None:
        """Measure and print the tables."""
        import torch

        ensure_torchvision_importable()
        torch.set_num_threads(self.threads)
        unknown = (set(self.structures) - set(STRUCTURES)) | (set(self.methods) - set(METHODS))
        if unknown:
            raise SystemExit(f"Unknown: {', '.join(sorted(unknown))}. See --help.")
        rows = [row for row in _read(self.out) if len(row["dice"]) == self.clicks]
        done = {(row["structure"], row["case"], row["method"]) for row in rows}
        for name in self.structures:
            for case, volume, truth in self._cases(STRUCTURES[name]):
                for method in self.methods:
                    if (name, case, method) in done:
                        continue
                    rows.append(
                        {"structure": name, "case": case, "method": method, **self._simulate(method, volume, truth)}
                    )
                    if self.out is not None:
                        with self.out.open("a", encoding="utf-8") as file:
                            file.write(json.dumps(rows[-1]) + "\n")
        show([row for row in rows if row["structure"] in self.structures], self.structures, self.methods)

    def _cases(self, structure: Structure) -> list[tuple[str, Volume, Mask]]:
        found = []
        cases = find_cases(self.data / structure.folder, labelled=True)
        for case in cases if self.first else reversed(cases):
            assert case.label is not None
            truth = np.isin(read_label(case.label).array, structure.values)
            if truth.sum() >= SMALLEST:
                found.append((case.name, read_volume(case.image), truth))
            if len(found) == self.volumes:
                break
        return found

    def _simulate(self, method: str, volume: Volume, truth: Mask) -> dict[str, Any]:
        segment = METHODS[method](volume, truth)
        clicks: list[Click] = []
        found = np.zeros(truth.shape, bool)
        dice: list[float] = []
        wall: list[float] = []
        core: list[float] = []
        for _ in range(self.clicks):
            click = next_click(found, truth, volume.spacing)
            if click is None:
                break
            clicks.append(click)
            before, busy = time.perf_counter(), time.process_time()
            found = segment(clicks)
            wall.append(time.perf_counter() - before)
            core.append(time.process_time() - busy)
            dice.append(dice_of_masks(found, truth))
            if self.pictures is not None and method == "fm3d" and len(clicks) in (1, 3, 10):
                _draw(self.pictures, volume, truth, found, clicks, dice[-1])
        dice += [dice[-1]] * (self.clicks - len(dice))
        return {"dice": dice, "seconds": wall, "core_seconds": core}


def next_click(found: Mask, truth: Mask, spacing: tuple[float, float, float]) -> Click | None:
    """In the most interior voxel of the largest part that is wrong; None where nothing is."""
    box = region_of_interest(found | truth, margin=0)
    missed, excess = largest_part((truth & ~found)[box]), largest_part((found & ~truth)[box])
    positive = bool(missed.sum() >= excess.sum())
    wrong = missed if positive else excess
    if not wrong.any():
        return None
    depth = ndimage.distance_transform_edt(np.pad(wrong, 1), sampling=spacing)[1:-1, 1:-1, 1:-1]
    place = np.unravel_index(depth.argmax(), depth.shape)
    x, y, z = (int(number) + part.start for number, part in zip(place, box, strict=True))
    return Click((x, y, z), positive)


def largest_part(mask: Mask) -> Mask:
    """The connected part with most voxels."""
    parts, count = ndimage.label(mask)
    if count < 2:
        return mask
    result: Mask = parts == np.bincount(parts.ravel())[1:].argmax() + 1
    return result


def fm3d(volume: Volume, truth: Mask) -> Method:
    """FM3D; features are computed at the first click."""
    features = FeatureVolume(volume, device="cpu")

    def segment(clicks: Sequence[Click]) -> Mask:
        prompts = Prompts()
        for click in clicks:
            x, y, z = (volume.affine @ [*click.voxel, 1])[:3]
            prompts = prompts.with_point((x, y, z), click.positive)
        return segment_from_prompts(volume, features, prompts) > 0

    return segment


def random_walker(volume: Volume, truth: Mask) -> Method:
    """Grady's random walker on intensities, in the true region of interest."""
    box = region_of_interest(truth)
    image = volume.array[box].astype(np.float64)
    image = (image - image.min()) / max(float(np.ptp(image)), 1e-6)
    index = np.arange(image.size).reshape(image.shape)
    ends, weights = [], []
    for axis in range(3):
        lower = tuple(slice(None, -1) if each == axis else slice(None) for each in range(3))
        upper = tuple(slice(1, None) if each == axis else slice(None) for each in range(3))
        ends.append((index[lower].ravel(), index[upper].ravel()))
        closeness = (min(volume.spacing) / volume.spacing[axis]) ** 2
        weights.append(closeness * np.exp(-130 * np.diff(image, axis=axis).ravel() ** 2) + 1e-6)  # 130: as scikit-image
    rows, columns = (np.concatenate([pair[side] for pair in ends]) for side in (0, 1))
    half = coo_matrix((np.concatenate(weights), (rows, columns)), (image.size, image.size)).tocsr()
    adjacency = half + half.T
    laplacian = diags(np.asarray(adjacency.sum(axis=1)).ravel()) - adjacency
    border = np.ones(image.shape, bool)
    border[1:-1, 1:-1, 1:-1] = False

    def segment(clicks: Sequence[Click]) -> Mask:
        known, value = border.copy(), np.zeros(image.shape)
        for click in clicks:
            if (place := inside(click.voxel, box)) is not None:
                known[place], value[place] = True, float(click.positive)
        free = ~known.ravel()
        matrix = laplacian[free]
        matrix, right = matrix[:, free], -matrix[:, ~free] @ value.ravel()[~free]
        scale = diags(1 / matrix.diagonal())
        solved, _ = cg(matrix, right, rtol=1e-4, maxiter=1000, M=scale)
        result = value.copy().ravel()
        result[free] = solved
        return placed(result.reshape(image.shape) > 0.5, truth.shape, box)

    return segment


def graph_cut(volume: Volume, truth: Mask) -> Method:
    """MONAI Label's HistogramBasedGraphCut with its defaults, on the volume's own grid; intensities by percentiles."""
    from monailabel.scribbles.transforms import (
        ApplyGraphCutOptimisationd,
        MakeISegUnaryd,
        MakeLikelihoodFromScribblesHistogramd,
    )

    box = region_of_interest(truth)
    low, high = np.percentile(volume.array, (0.5, 99.5))
    image = np.clip((volume.array[box] - low) / (high - low), 0, 1).astype(np.float32)
    steps = [
        MakeLikelihoodFromScribblesHistogramd(image="image", scribbles="label", post_proc_label="prob", num_bins=64),
        MakeISegUnaryd(image="image", logits="prob", scribbles="label", unary="unary"),
        ApplyGraphCutOptimisationd(unary="unary", pairwise="image", post_proc_label="pred", lamda=1.0, sigma=0.1),
    ]

    def segment(clicks: Sequence[Click]) -> Mask:
        paint = np.full(image.shape, 2, np.float32)  # outside of the region of interest is background: a frame of it
        paint[2:-2, 2:-2, 2:-2] = 0
        for click in clicks:
            if (place := inside(click.voxel, box)) is not None:
                axes = np.ogrid[tuple(slice(0, size) for size in image.shape)]
                ball = sum((axis - middle) ** 2 for axis, middle in zip(axes, place, strict=True)) <= 4
                paint[np.asarray(ball)] = 3 if click.positive else 2
        data: dict[str, Any] = {"image": image[None], "label": paint[None]}
        for step in steps:
            data = step(data)
        return placed(np.asarray(data["pred"])[0] > 0.5, truth.shape, box)

    return segment


METHODS = {"fm3d": fm3d, "random walker": random_walker, "graph cut": graph_cut}


def region_of_interest(truth: Mask, margin: int = MARGIN) -> tuple[slice, slice, slice]:
    """The box around the structure with a margin."""
    ends = []
    for axis, size in enumerate(truth.shape):
        found = np.flatnonzero(truth.any(axis=tuple(other for other in range(3) if other != axis)))
        ends.append(slice(max(int(found[0]) - margin, 0), min(int(found[-1]) + margin + 1, size)))
    return ends[0], ends[1], ends[2]


def inside(voxel: Voxel, box: tuple[slice, slice, slice]) -> Voxel | None:
    """The voxel in the box's own indices; None outside."""
    if not all(part.start <= place < part.stop for place, part in zip(voxel, box, strict=True)):
        return None
    x, y, z = (place - part.start for place, part in zip(voxel, box, strict=True))
    return x, y, z


def placed(mask: Mask, shape: tuple[int, ...], box: tuple[slice, slice, slice]) -> Mask:
    """The box's mask in the whole volume."""
    result = np.zeros(shape, bool)
    result[box] = mask
    return result


def clicks_to_good(dice: Sequence[float]) -> int:
    """Number of clicks until Dice is GOOD; the number of clicks made where it never is."""
    return next((number for number, score in enumerate(dice, 1) if score >= GOOD), len(dice))


def share_worse(dice: Sequence[Sequence[float]]) -> float:
    """Share of the clicks after the first that lowered Dice by more than WORSE."""
    steps = np.concatenate([np.diff(each) for each in dice])
    return float((steps < -WORSE).mean()) if len(steps) else 0.0


def show(rows: Sequence[dict[str, Any]], structures: Sequence[str], methods: Sequence[str]) -> None:
    """One table per structure's rows, and the means over structures; "worse": clicks that lowered Dice, see WORSE."""
    shown = [number for number in SHOWN if all(number <= len(row["dice"]) for row in rows)]
    columns = (
        "structure",
        "method",
        "volumes",
        f"clicks to {GOOD}",
        "never",
        *(f"Dice after {n}" for n in shown),
        "worse",
    )
    table = Table(*columns, "median s", "p95 s", "core s", title="Simulated clicks")
    for name in (*structures, "all"):
        for method in methods:
            chosen = [row for row in rows if row["method"] == method and name in ("all", row["structure"])]
            if not chosen:
                continue
            needed = [clicks_to_good(row["dice"]) for row in chosen]
            never = sum(max(row["dice"]) < GOOD for row in chosen)
            seconds, core = (np.concatenate([row[key] for row in chosen]) for key in ("seconds", "core_seconds"))
            table.add_row(
                name,
                method,
                str(len(chosen)),
                f"{np.mean(needed):.1f}",
                str(never),
                *(f"{np.mean([row['dice'][n - 1] for row in chosen]):.3f}" for n in shown),
                f"{share_worse([row['dice'] for row in chosen]):.1%}",
                f"{np.median(seconds):.2f}",
                f"{np.quantile(seconds, 0.95):.2f}",
                f"{np.median(core):.2f}",
            )
    Console(width=160).print(table)


def _read(path: Path | None) -> list[dict[str, Any]]:
    if path is None or not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _draw(folder: Path, volume: Volume, truth: Mask, found: Mask, clicks: Sequence[Click], dice: float) -> None:
    """The slices through the last click: truth in green, result in red, clicks as crosses and circles."""
    from matplotlib.figure import Figure

    folder.mkdir(parents=True, exist_ok=True)
    figure = Figure(figsize=(12, 4.4))
    voxel = clicks[-1].voxel
    low, high = np.percentile(volume.array, (1, 99))
    for axis in range(3):
        panel = figure.add_subplot(1, 3, axis + 1)
        cut = tuple(voxel[axis] if each == axis else slice(None) for each in range(3))
        across, up = (volume.spacing[each] for each in range(3) if each != axis)
        panel.imshow(volume.array[cut].T, cmap="gray", vmin=low, vmax=high, origin="lower", aspect=up / across)
        for mask, colour in ((truth, "lime"), (found, "red")):
            if mask[cut].any():
                panel.contour(mask[cut].T, [0.5], colors=colour, linewidths=1)
        for click in clicks:
            place = [click.voxel[each] for each in range(3) if each != axis]
            if abs(click.voxel[axis] - voxel[axis]) <= 1:
                panel.plot(*place, marker="+" if click.positive else "x", color="cyan" if click.positive else "yellow")
        panel.axis("off")
    figure.suptitle(f"{volume.name}: {len(clicks)} clicks, Dice {dice:.3f} (truth green, result red)")
    figure.savefig(folder / f"{volume.name}_{int(truth.sum())}_{len(clicks):02d}.png", dpi=70)


def main(benchmark: Benchmark) -> None:
    """Measure."""
    benchmark.run()


if __name__ == "__main__":
    main(tyro.cli(Benchmark, description=__doc__))
