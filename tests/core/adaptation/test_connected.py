"""Which structures are known to be one connected part."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from fm3d_core.adaptation.cases import LoadedCase
from fm3d_core.adaptation.connected import connected_structures, countable
from fm3d_core.tasks import SegmentationTask
from fm3d_core.volumes import IGNORED, Volume


def _case(label: npt.NDArray[np.uint8], annotated: tuple[int, ...] | None = None) -> LoadedCase:
    return LoadedCase("case", _volume(label), _volume(label), "", "", "", annotated=annotated)


def _volume(array: npt.NDArray[np.uint8]) -> Volume:
    return Volume.from_array(array, np.eye(4), Path("case.nii.gz"))


def _label(*boxes: tuple[int, int, int]) -> npt.NDArray[np.uint8]:
    """(20, 6, 6) with slabs (value, first slice, end)."""
    label = np.zeros((20, 6, 6), np.uint8)
    for value, first, end in boxes:
        label[first:end, 1:5, 1:5] = value
    return label


TASK = SegmentationTask(("spleen", "kidneys", "liver tumour"))


def test_one_part_in_every_volume() -> None:
    cases = [_case(_label((1, 0, 4), (2, 5, 8), (2, 10, 13), (3, 15, 18))), _case(_label((1, 9, 12)))]
    assert connected_structures(cases, TASK) == ("spleen",)  # kidneys are two, and of tumours there may be any number


def test_a_slip_of_the_pen_is_no_part_and_two_parts_in_one_volume_are_enough() -> None:
    slip = _label((1, 0, 10))
    slip[15, 2, 2] = 1
    assert connected_structures([_case(slip)], TASK) == ("spleen",)
    assert connected_structures([_case(slip), _case(_label((1, 0, 4), (1, 6, 9)))], TASK) == ()


def test_what_was_annotated_in_part_tells_nothing() -> None:
    partly = _label((1, 0, 4))
    partly[10:] = IGNORED
    assert connected_structures([_case(partly)], TASK) == ()
    assert connected_structures([_case(_label((1, 0, 4), (2, 6, 9)), annotated=(0, 2))], TASK) == ("kidneys",)
    assert connected_structures([_case(_label())], TASK) == ()


@pytest.mark.parametrize(
    ("name", "expected"),
    [("Liver Tumour", True), ("lesions", True), ("lymph nodes", True), ("lung nodule", True), ("left atrium", False)],
)
def test_structures_that_come_in_any_number(name: str, expected: bool) -> None:
    assert countable(name) is expected
