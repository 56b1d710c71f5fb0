"""``fm3d data``: find the volumes of a folder tree, and make them ready for pretraining."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from fm3d_core.errors import CaseError
from fm3d_core.volumes.scan import LABEL_FOLDERS

if TYPE_CHECKING:
    from rich.console import Console

    from fm3d_core.volumes.volume_list import LeftOut


@dataclass(frozen=True)
class Scan:
    """List the volumes below FOLDER: NIfTI, MGH, NRRD, MetaImage files and folders of DICOM slices.

    Headers only, many at once. OUT gets one row per volume: path, shape, spacing, frames, axes, modality (a guess
    from the DICOM tag or words of the path; "unknown" when unsure), sha256. What cannot be used is listed with its
    reason in a second file beside it. Example: fm3d data scan /data/ct --out ct.json --min-axis 24

    Attributes:
        folder: searched with all its sub-folders; hidden files and links to folders are passed over.
        out: the list to write, JSON.
        min_axis: leave out volumes with fewer voxels along any axis (3DINO: 25, its high-resolution stage: 49).
        exclude: names of sub-folders that hold label maps.
        hash: compute sha256, which recognises equal files; --no-hash is quicker on slow disks.
        workers: files read at once; default: four per processor.
    """

    folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FOLDER")]
    out: Path
    min_axis: int = 2
    exclude: tuple[str, ...] = LABEL_FOLDERS
    hash: bool = True
    workers: int | None = None

    def run(self) -> None:
        """Scan, write both files, say what was found."""
        from rich.console import Console

        from fm3d_core.cli.console import progress_bar
        from fm3d_core.volumes.scan import scan_folder
        from fm3d_core.volumes.volume_list import write_left_out, write_volume_list

        console = Console()
        with progress_bar(console) as show:
            scan = scan_folder(
                self.folder,
                min_axis=self.min_axis,
                exclude=self.exclude,
                hash_files=self.hash,
                workers=self.workers,
                progress=show,
            )
        write_volume_list(self.out, scan.volumes)
        size = sum(volume.bytes for volume in scan.volumes)
        console.print(f"{len(scan.volumes)} volumes ({size / 1e9:.2f} GB) in {self.out}", soft_wrap=True)
        _print_modalities(console, [volume.modality for volume in scan.volumes])
        if scan.left_out:
            beside = self.out.with_suffix(".left_out.json")
            write_left_out(beside, scan.left_out)
            _print_left_out(console, scan.left_out, beside)


@dataclass(frozen=True)
class Cache:
    """Prepare each volume of LIST once, so that pretraining reads its crops in milliseconds.

    Percentiles become [-1, 1], the axes of equal spacing come first, empty borders are cut off; stored as packed
    chunks in two resolutions (about 10 MB for a chest CT). Started again it goes on where it stopped; volumes already
    there are recognised by their content. Example: fm3d data cache ct.json --out store

    Attributes:
        list: of fm3d data scan, or any JSON array of {"image", "shape", "spacing"} as 3DINO uses.
        out: folder of the store; several lists may go into one.
        workers: processes; default: one per processor. Each needs about 15 bytes of memory per voxel.
        bits: of the stored intensities.
        detail: in-plane voxels to keep at least; larger volumes are halved. 100000 keeps full resolution.
        min_axis: leave out volumes whose content has fewer voxels along any axis.
        most_frames: of 4D images; with more, evenly spaced ones are taken.
    """

    list: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="LIST")]
    out: Path
    workers: int | None = None
    bits: int = 10
    detail: int = 168
    min_axis: int = 4
    most_frames: int = 16

    def run(self) -> None:
        """Fill the store and say what is in it."""
        from rich.console import Console

        from fm3d_core.cli.console import progress_bar
        from fm3d_core.volumes.crop_store import LEFT_OUT_FILE, CropStore, CropStoreSettings
        from fm3d_core.volumes.crop_store_building import build_crop_store
        from fm3d_core.volumes.volume_list import read_volume_list

        console = Console()
        settings = CropStoreSettings(
            bits=self.bits, detail=self.detail, min_axis=self.min_axis, most_frames=self.most_frames
        )
        with progress_bar(console) as show:
            report = build_crop_store(
                read_volume_list(self.list), self.out, settings, workers=self.workers, progress=show
            )
        store = CropStore(self.out)
        new = len(report.volumes) - report.kept
        console.print(f"{new} volumes prepared, {report.kept} were there already", soft_wrap=True)
        _print_store(console, store)
        if report.left_out:
            _print_left_out(console, report.left_out, self.out / LEFT_OUT_FILE)


@dataclass(frozen=True)
class Show:
    """Say what a list, a store or a single image holds. Example: fm3d data show store

    Attributes:
        path: a list of fm3d data scan, a store of fm3d data cache, an image file, or a DICOM folder.
    """

    path: tyro.conf.Positional[Path]

    def run(self) -> None:
        """Print it."""
        from rich.console import Console

        from fm3d_core.volumes import inspect_header
        from fm3d_core.volumes.crop_store import SETTINGS_FILE, CropStore
        from fm3d_core.volumes.header import judge
        from fm3d_core.volumes.volume_list import read_volume_list

        console = Console()
        if (self.path / SETTINGS_FILE).is_file():
            _print_store(console, CropStore(self.path))
        elif self.path.suffix.lower() == ".json":
            volumes = read_volume_list(self.path)
            console.print(f"{len(volumes)} volumes, {sum(volume.bytes for volume in volumes) / 1e9:.2f} GB")
            _print_modalities(console, [volume.modality for volume in volumes])
            _print_sizes(console, [volume.shape for volume in volumes], [volume.spacing for volume in volumes])
        elif self.path.exists():
            header = inspect_header(self.path)
            shape, spacing = (" x ".join(f"{number:g}" for number in row) for row in (header.shape, header.spacing))
            console.print(f"{header.format}, {shape} voxels of {spacing} mm, {header.dtype}", soft_wrap=True)
            judge(header, frame=0)  # says why it could not be used
        else:
            raise CaseError("does not exist", path=self.path, remedy="Give a list, a store or an image")


@dataclass(frozen=True)
class Data:
    """Find volumes (scan), make them ready for pretraining (cache), look at either (show).

    Two steps: fm3d data scan FOLDER --out LIST.json, then fm3d data cache LIST.json --out STORE.
    """

    action: Annotated[
        Annotated[Scan, tyro.conf.subcommand("scan", prefix_name=False)]
        | Annotated[Cache, tyro.conf.subcommand("cache", prefix_name=False)]
        | Annotated[Show, tyro.conf.subcommand("show", prefix_name=False)],
        tyro.conf.arg(name=""),
    ]

    def run(self) -> None:
        """Run the chosen action."""
        self.action.run()


def _print_store(console: Console, store: Any) -> None:
    size = sum(store.bytes_on_disk(index) for index in range(len(store)))
    frames = sum(len(volume.frames) for volume in store.volumes)
    console.print(
        f"{store.root}: {len(store)} volumes with {frames} frames, {size / 1e6:.1f} MB "
        f"({size / 1e6 / len(store):.2f} MB each)",
        soft_wrap=True,
    )
    _print_modalities(console, [volume.modality for volume in store.volumes])
    _print_sizes(console, [volume.shape for volume in store.volumes], [volume.spacing for volume in store.volumes])


def _print_modalities(console: Console, modalities: Sequence[str]) -> None:
    from collections import Counter

    counted = ", ".join(f"{count} {name}" for name, count in Counter(modalities).most_common())
    console.print(f"Modalities: {counted}", soft_wrap=True)


def _print_sizes(
    console: Console, shapes: Sequence[tuple[int, int, int]], spacings: Sequence[tuple[float, float, float]]
) -> None:
    from statistics import median

    from rich.table import Table

    table = Table("", "smallest", "median", "largest")
    smallest_axis = sorted(min(shape) for shape in shapes)
    slices = sorted(max(spacing) for spacing in spacings)
    for name, values, unit in (("smallest axis", smallest_axis, "voxels"), ("coarsest spacing", slices, "mm")):
        table.add_row(name, *(f"{value:.3g} {unit}" for value in (values[0], median(values), values[-1])))
    console.print(table)


def _print_left_out(console: Console, left_out: Sequence[LeftOut], path: Path) -> None:
    from fm3d_core.volumes.volume_list import count_reasons

    console.print(f"{len(left_out)} left out, each with its reason in {path}:", soft_wrap=True)
    for reason, count in count_reasons(left_out).items():
        console.print(f"  {count} {reason}", soft_wrap=True, highlight=False)
