"""FSEFT's lists of cases are read as they are, and a mistake in one is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from fm3d_core.errors import CaseError
from fm3d_core.volumes.split_files import read_split


def _folder(root: Path) -> Path:
    for number in (11, 12):
        for file in ("ct.nii.gz", "segmentations/duodenum.nii.gz"):
            path = root / f"14_TotalSegmentator/data/s00{number}" / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    return root


def _line(number: int, space: str = "   ") -> str:
    folder = f"14_TotalSegmentator/data/s00{number}"
    return f"{folder}/ct.nii.gz{space}{folder}/segmentations/duodenum.nii.gz"


def test_cases_come_in_the_order_of_the_list_and_are_called_by_their_folder(tmp_path: Path) -> None:
    split = tmp_path / "duodenum_train.txt"
    split.write_text(f"{_line(12)}\n{_line(11, chr(9))}\n\n")
    cases = read_split(split, _folder(tmp_path))
    assert [case.name for case in cases] == ["s0012", "s0011"]
    assert cases[0].label == tmp_path / "14_TotalSegmentator/data/s0012/segmentations/duodenum.nii.gz"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "names no case"),
        ("one.nii.gz", "has the line 'one.nii.gz'"),
        (_line(13), "s0013/ct.nii.gz, which is not there"),
        (f"{_line(11)}\n{_line(11)}", "has s0011 twice"),
    ],
)
def test_a_list_that_cannot_be_used_is_refused(text: str, said: str, tmp_path: Path) -> None:
    split = tmp_path / "split.txt"
    split.write_text(text)
    with pytest.raises(CaseError, match=said):
        read_split(split, _folder(tmp_path))
    with pytest.raises(CaseError, match="cannot be read"):
        read_split(tmp_path / "other.txt", tmp_path)
