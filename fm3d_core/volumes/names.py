"""File names of images: which suffixes are images, and the case's name without them."""

from __future__ import annotations

from pathlib import Path

# Longest first, so that the whole of a double suffix is taken off.
IMAGE_SUFFIXES = (
    ".seg.nrrd",
    ".nii.gz",
    ".img.gz",
    ".hdr.gz",
    ".nii",
    ".img",
    ".hdr",
    ".mgz",
    ".mgh",
    ".nrrd",
    ".nhdr",
    ".mha",
    ".mhd",
)


def image_suffix(path: str | Path) -> str:
    """The image suffix of a file name in lower case, such as ".nii.gz"; "" when it has none we know."""
    name = Path(path).name.lower()
    return next((suffix for suffix in IMAGE_SUFFIXES if name.endswith(suffix)), "")


def case_name(path: str | Path) -> str:
    """The file name without its image suffix; a folder's name (DICOM series) stays whole."""
    name = Path(path).name
    return name[: len(name) - len(image_suffix(path))] or name
