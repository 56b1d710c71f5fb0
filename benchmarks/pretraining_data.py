"""Samples per second and core of the pretraining data: FM3D's crop store beside MONAI's transforms on .nii.gz.

    python benchmarks/pretraining_data.py [--images a.nii.gz b.nii.gz] [--samples 4] [--no-synthetic]

One sample is 2 crops of 96^3 and 8 of 48^3, as 3DINO cuts them, with all its augmentations. "MONAI" is the published
order built from MONAI's transforms, each sample read anew from its .nii.gz; "in memory" is the same with the volume
already prepared in memory, which no real collection fits into. Boxes and probabilities are the same. CPU seconds of
this process, one thread. A synthetic CT of 512 x 512 x 128 with the noise of a real one is added. "full" is what the
volume would take with its full resolution kept (--detail 100000).
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console
from rich.table import Table

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
REAL = (
    DATA / "abdomen/btcv_ct_native/images/btcv_03.nii.gz",
    DATA / "robustness/dicom_ct_j2k_20slices",
    DATA / "robustness/ok_int16_sclslope_5e-4.nii.gz",
)


@dataclass(frozen=True)
class Benchmark:
    """What is measured.

    Attributes:
        images: files, or DICOM folders (written to .nii.gz first).
        samples: of each volume and pipeline.
        synthetic: add the large synthetic CT.
    """

    images: tuple[Path, ...] = REAL
    samples: int = 4
    synthetic: bool = True


def main(settings: Benchmark) -> None:
    """Measure each volume and print the table."""
    import torch

    torch.set_num_threads(1)
    table = Table("volume", "voxels", ".nii.gz MB", "store MB", "full MB", "MONAI s", "in memory s", "FM3D s", "ratio")
    with tempfile.TemporaryDirectory() as folder:
        files = [path for path in settings.images if path.exists()]
        plain = [as_nifti(path, Path(folder)) for path in files]
        if settings.synthetic:
            plain.append(write_synthetic(Path(folder) / "synthetic_512.nii.gz"))
        totals = [0.0, 0.0]
        for path in plain:
            cells, seconds = measure(path, Path(folder), settings.samples)
            table.add_row(*cells)
            totals = [total + second for total, second in zip(totals, seconds, strict=True)]
    console = Console(width=120)
    console.print(table)
    count = settings.samples * len(plain)
    console.print(
        f"Samples per second and core: MONAI {count / totals[0]:.2f}, FM3D {count / totals[1]:.2f}; "
        f"ratio {totals[0] / totals[1]:.1f}"
    )


def measure(path: Path, folder: Path, samples: int) -> tuple[list[str], tuple[float, float]]:
    """The table's row for one volume, and the CPU seconds of both pipelines."""
    import dataclasses

    import torch

    from fm3d_core.pretraining.loading import CropDataset
    from fm3d_core.pretraining.sampling import Draw
    from fm3d_core.volumes import inspect_header
    from fm3d_core.volumes.crop_store import CropStore, CropStoreSettings
    from fm3d_core.volumes.crop_store_building import build_crop_store
    from fm3d_core.volumes.volume_list import ListedVolume

    header = inspect_header(path)
    x, y, z = header.shape
    dx, dy, dz = header.spacing
    listed = [ListedVolume(path, (x, y, z), (dx, dy, dz))]
    stores = []
    for name, detail in (("store", CropStoreSettings().detail), ("full", 100_000)):
        root = folder / f"{name}_{path.name}"
        build_crop_store(listed, root, dataclasses.replace(CropStoreSettings(), detail=detail), workers=1)
        stores.append(CropStore(root))
    dataset = CropDataset(stores[0])
    read, cut = monai_pipeline()
    prepared = read(path)

    def plain(number: int) -> None:
        cut(read(path), torch.Generator().manual_seed(number))

    def in_memory(number: int) -> None:
        cut(prepared, torch.Generator().manual_seed(number))

    def cached(number: int) -> None:
        dataset[Draw(0, number, 0)]

    cached(samples)  # libraries are loaded
    seconds = [cpu_seconds(form, samples) for form in (plain, in_memory, cached)]
    sizes = [path.stat().st_size, *(store.bytes_on_disk(0) for store in stores)]
    row = [path.name, f"{x} x {y} x {z}", *(f"{size / 1e6:.1f}" for size in sizes)]
    row += [f"{second / samples:.3f}" for second in seconds] + [f"{seconds[0] / seconds[2]:.1f}"]
    return row, (seconds[0], seconds[2])


def cpu_seconds(form: Callable[[int], None], samples: int) -> float:
    """Process time of ``samples`` calls."""
    start = time.process_time()
    for number in range(samples):
        form(number)
    return time.process_time() - start


def monai_pipeline() -> tuple[Callable[[Path], Any], Callable[[Any, Any], list[Any]]]:
    """Reading and preparing a file, and cutting and changing its ten crops, with MONAI's transforms."""
    import monai.transforms as mt
    import torch

    from fm3d_core.pretraining.crops import GLOBAL_CROPS, LOCAL_CROPS, draw_box
    from fm3d_core.volumes.crop_preparation import in_plane_first

    def permute(image: Any) -> Any:
        axes = in_plane_first(tuple(float(step) for step in image.pixdim))
        return image.permute(0, *(axis + 1 for axis in axes))

    read = mt.Compose(
        [
            mt.LoadImage(image_only=True, ensure_channel_first=True),
            mt.Lambda(lambda image: torch.where(torch.isnan(image), image[~torch.isnan(image)].mean(), image)),
            mt.ScaleIntensityRangePercentiles(0.05, 99.95, -1, 1, clip=True),
            mt.Lambda(permute),
            mt.CropForeground(select_fn=lambda image: image > -1),
        ]
    )
    turns: list[Any] = [mt.RandFlip(prob=0.3, spatial_axis=axis) for axis in range(3)]
    turns += [mt.RandRotate90(prob=0.3, spatial_axes=axes) for axes in ((0, 1), (1, 2), (0, 2))]

    def intensity() -> Any:
        return mt.OneOf(
            [
                mt.RandAdjustContrast(prob=0.8, gamma=(0.5, 2)),
                mt.RandGaussianNoise(prob=0.8, std=0.002),
                mt.RandHistogramShift(prob=0.8, num_control_points=10),
            ]
        )

    def one_of_filters(probability: float) -> Any:
        return mt.OneOf([mt.RandGaussianSmooth(prob=probability), mt.RandGaussianSharpen(prob=probability)])

    views: Sequence[Any] = [
        mt.Compose([*turns, intensity(), one_of_filters(1.0)]),
        mt.Compose([*turns, intensity(), one_of_filters(0.1), mt.RandGibbsNoise(prob=0.2, alpha=(0, 1))]),
        *[mt.Compose([*turns, intensity(), mt.RandGaussianSmooth(prob=0.5)])] * LOCAL_CROPS.number,
    ]
    kinds = [GLOBAL_CROPS] * GLOBAL_CROPS.number + [LOCAL_CROPS] * LOCAL_CROPS.number
    resizes = {kind.size: mt.Resize(kind.size, mode="trilinear") for kind in kinds}

    def cut(image: Any, generator: torch.Generator) -> list[Any]:
        crops = []
        for kind, view in zip(kinds, views, strict=True):
            box = draw_box(tuple(image.shape[1:]), kind, generator)
            a, b, c = (slice(start, start + side) for start, side in zip(box.start, box.length, strict=True))
            crops.append(view(resizes[kind.size](image[:, a, b, c])))
        return crops

    return read, cut


def as_nifti(path: Path, folder: Path) -> Path:
    """The file itself, or a DICOM series written as int16 .nii.gz."""
    import numpy as np

    from fm3d_core.volumes import read_volume, write_nifti

    if path.is_file():
        return path
    volume = read_volume(path)
    return write_nifti(folder / f"{path.name}.nii.gz", np.rint(volume.array).astype(np.int16), volume.affine)


def write_synthetic(path: Path) -> Path:
    """A drawn body of 512 x 512 x 128 from -1000 to about 1000 HU, with the noise of a real CT (25 HU per voxel)."""
    import numpy as np

    from fm3d_core.volumes import draw_case, write_nifti

    image, _, _ = draw_case(1, shape=(128, 128, 64))
    large = 2000 / image.max() * image.repeat(4, axis=0).repeat(4, axis=1).repeat(2, axis=2) - 1000
    large += np.random.default_rng(0).normal(0, 25, large.shape).astype(np.float32)
    return write_nifti(path, np.rint(large.clip(-1024)).astype(np.int16), np.diag([0.8, 0.8, 2.5, 1.0]))


if __name__ == "__main__":
    main(tyro.cli(Benchmark))
