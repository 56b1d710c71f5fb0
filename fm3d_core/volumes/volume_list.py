"""Lists of volumes: what a scan found in a folder tree, as JSON that the published pretraining code reads as well."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fm3d_core.errors import CaseError
from fm3d_core.files import atomic_file

UNKNOWN = "unknown"


@dataclass(frozen=True)
class ListedVolume:
    """One image file (or DICOM series folder) as its header describes it.

    Attributes:
        path: the file, or the folder of a DICOM series.
        shape: voxels along the file's own three axes.
        spacing: voxel size along these axes in mm.
        frames: how many 3D frames it holds.
        axes: where the three axes point to, such as "LPS"; "" when not known.
        modality: "CT", "MR", "PT" as in DICOM, or "unknown".
        format: as in :class:`~fm3d_core.volumes.Header`; "" when not known.
        sha256: of its bytes (of a series: of its files' hashes); "" when not computed.
        bytes: its size on disk; 0 when not known.
    """

    path: Path
    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    frames: int = 1
    axes: str = ""
    modality: str = UNKNOWN
    format: str = ""
    sha256: str = ""
    bytes: int = 0


@dataclass(frozen=True)
class LeftOut:
    """A file that was not taken, and why, in one line."""

    path: Path
    reason: str


def count_reasons(left_out: Sequence[LeftOut]) -> dict[str, int]:
    """How often each kind of reason occurs, most frequent first; numbers and details are taken off."""
    kinds = (re.sub(r"\b\d[\d.,]*", "N", re.split(r" \(|: ", item.reason)[0]) for item in left_out)
    return dict(Counter(kinds).most_common())


def write_volume_list(path: str | Path, volumes: Sequence[ListedVolume]) -> None:
    """Write a list as a JSON array with one row per line, atomically.

    Rows hold ``image``, ``shape`` and ``spacing`` as in 3DINO's lists, and the other fields beside them.

    Raises:
        StorageError: disk full, no permission.
    """
    rows = [
        {
            "image": str(volume.path),
            "shape": list(volume.shape),
            "spacing": [round(step, 6) for step in volume.spacing],
            "frames": volume.frames,
            "axes": volume.axes,
            "modality": volume.modality,
            "format": volume.format,
            "sha256": volume.sha256,
            "bytes": volume.bytes,
        }
        for volume in volumes
    ]
    _write_rows(path, rows)


def write_left_out(path: str | Path, left_out: Sequence[LeftOut]) -> None:
    """Write what was left out as a JSON array of ``{"path", "reason"}``, one row per line, atomically.

    Raises:
        StorageError: disk full, no permission.
    """
    _write_rows(path, [{"path": str(item.path), "reason": item.reason} for item in left_out])


def read_volume_list(path: str | Path) -> list[ListedVolume]:
    """Read a list of :func:`write_volume_list`, or any JSON array of ``{"image", "shape", "spacing"}`` (3DINO's).

    Relative image paths count from the list's folder.

    Raises:
        CaseError: missing, no such JSON, or empty.
    """
    path = Path(path)
    remedy = 'Give a list that fm3d data scan wrote, or a JSON array of {"image", "shape", "spacing"}'
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        volumes = [_volume(row, path.parent) for row in rows]
    except OSError as error:
        raise CaseError(f"cannot be read ({error.strerror or error})", path=path, remedy=remedy) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CaseError(f"is no list of volumes ({error!r})", path=path, remedy=remedy) from error
    if not volumes:
        raise CaseError("is an empty list", path=path, remedy="Scan a folder that holds images")
    return volumes


def _volume(row: dict[str, Any], folder: Path) -> ListedVolume:
    sizes = [int(size) for size in row["shape"]]
    x, y, z = sizes[:3]
    dx, dy, dz = (float(step) for step in row["spacing"][:3])
    frames = row.get("frames", sizes[3] if len(sizes) > 3 else 1)
    return ListedVolume(
        folder / row["image"],
        (x, y, z),
        (dx, dy, dz),
        int(frames),
        str(row.get("axes", "")),
        str(row.get("modality", UNKNOWN)),
        str(row.get("format", "")),
        str(row.get("sha256", "")),
        int(row.get("bytes", 0)),
    )


def _write_rows(path: str | Path, rows: Sequence[dict[str, Any]]) -> None:
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    with atomic_file(path) as temporary:
        temporary.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
