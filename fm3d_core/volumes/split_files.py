"""Lists of labelled cases as FSEFT writes them: a line "image<white space>label", relative to one folder."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from fm3d_core.errors import CaseError
from fm3d_core.volumes.cases import Case
from fm3d_core.volumes.names import case_name


def read_split(file: str | Path, folder: str | Path) -> list[Case]:
    """The cases of a list, in its order.

    A case is called as its image file; where several images have one name (``s0011/ct.nii.gz``), as its folder.

    Args:
        file: the list; empty lines are passed over.
        folder: to which the paths are relative.

    Raises:
        CaseError: no such list, a line that is not two paths, a file that is not there, a case twice.
    """
    file, folder = Path(file), Path(folder)
    try:
        lines = [line.split() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise CaseError("cannot be read", path=file, remedy="Give a text file of cases") from error
    if not lines or (wrong := next((line for line in lines if len(line) != 2), None)) is not None:
        said = f"has the line '{' '.join(wrong)}'" if lines and wrong is not None else "names no case"
        raise CaseError(said, path=file, remedy="Write one case a line: path of the image, white space, of its label")
    pairs = [(folder / image, folder / label) for image, label in lines]
    for path in (path for pair in pairs for path in pair):
        if not path.exists():
            raise CaseError(
                f"names {path}, which is not there", path=file, remedy=f"Its paths are relative to {folder}"
            )
    names = [case_name(image) for image, _ in pairs]
    if len(set(names)) < len(names):
        names = [image.parent.name for image, _ in pairs]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise CaseError(f"has {twice[0]} twice", path=file, remedy="Name each case once")
    return [Case(name, image, label) for name, (image, label) in zip(names, pairs, strict=True)]
