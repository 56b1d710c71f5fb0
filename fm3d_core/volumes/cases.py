"""Folders of cases: which images are there, and which label belongs to which."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fm3d_core.errors import CaseError
from fm3d_core.volumes.names import case_name, image_suffix

_IMAGE_FOLDERS, _LABEL_FOLDERS = ("images", "imagesTr"), ("labels", "labelsTr")


@dataclass(frozen=True)
class Case:
    """One image and, if there is one, its label map.

    Attributes:
        name: the file name without its image suffix, shared by both.
        image: a file, or the folder of a DICOM series.
        label: a file, or None.
    """

    name: str
    image: Path
    label: Path | None


def find_cases(folder: str | Path, *, labelled: bool | None = None) -> list[Case]:
    """The cases of a folder, sorted by name.

    The folder holds ``images`` and ``labels`` (or ``imagesTr`` and ``labelsTr``) with equal file names up to the
    suffix, or directly the images. Sub-folders among the images are DICOM series. Hidden files and links that lead
    outside of the folder are passed over.

    Args:
        labelled: True for cases with a label, each of which must be paired; False for those without; None for all.

    Raises:
        CaseError: no folder, no images, two files of one name, or (``labelled=True``) an image without label or a
            label without image.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CaseError("is no folder", path=folder, remedy="Give a folder with images and labels in it")
    images = _files(_first(folder, _IMAGE_FOLDERS) or folder, folder, series=True)
    label_folder = _first(folder, _LABEL_FOLDERS)
    labels = _files(label_folder, folder, series=False) if label_folder else {}
    if not images:
        raise CaseError(
            "holds no images",
            path=folder,
            remedy="Put images into a sub-folder images, labels into labels (links leading outside are not followed)",
        )
    if labelled:
        _require_pairs(folder, images, labels)
    cases = [Case(name, image, labels.get(name)) for name, image in sorted(images.items())]
    return [case for case in cases if labelled is None or (case.label is not None) == labelled]


def _first(folder: Path, names: tuple[str, ...]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_dir()), None)


def _files(folder: Path, root: Path, *, series: bool) -> dict[str, Path]:
    found: dict[str, Path] = {}
    taken: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or not path.resolve().is_relative_to(root.resolve()):
            continue
        if not (_is_image(path) or (series and is_dicom_series(path))):
            continue
        name = case_name(path)
        # Compared without case: on Windows and macOS "A.nii" and "a.nii" are one file.
        if (other := taken.get(name.casefold())) is not None:
            raise CaseError(
                f"{other.name} and {path.name} have the same case name",
                path=folder,
                remedy="Rename or remove one of them",
            )
        taken[name.casefold()] = found[name] = path
    return found


def _is_image(path: Path) -> bool:
    suffix = image_suffix(path)
    half_of_pair = suffix in (".img", ".img.gz")  # its .hdr stands for both
    return path.is_file() and suffix != "" and not half_of_pair


def is_dicom_series(path: Path) -> bool:
    """Whether ``path`` is a folder that holds DICOM files."""
    return path.is_dir() and any(is_dicom(file) for file in path.iterdir())


def is_dicom(path: Path) -> bool:
    """Whether ``path`` is a file that starts as DICOM does; hidden files do not count."""
    if path.name.startswith(".") or not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def _require_pairs(folder: Path, images: dict[str, Path], labels: dict[str, Path]) -> None:
    for kind, missing in (
        ("images without a label", sorted(images.keys() - labels.keys())),
        ("labels without an image", sorted(labels.keys() - images.keys())),
    ):
        if missing:
            more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
            raise CaseError(
                f"has {kind}: {', '.join(missing[:5])}{more}",
                path=folder,
                remedy="Give image and label the same name in images and labels, or move these files elsewhere",
            )
