"""The meaning of voxel values, by name."""

import pytest

from fm3d_core.errors import LabelError
from MonaiLabelApp.lib.labels import structures_to_learn, voxel_values


def entries(*pairs):
    return [{"name": name, "idx": index} for name, index in pairs]


def test_idx_is_the_voxel_value():
    assert voxel_values(entries(("tube", 2), ("ball", 1)), {1, 2}) == {"tube": 2, "ball": 1}


def test_a_structure_that_was_not_drawn_keeps_its_value():
    assert voxel_values(entries(("ball", 1), ("tube", 2)), {2}) == {"ball": 1, "tube": 2}


def test_values_may_have_gaps_when_the_voxels_have_them():
    assert voxel_values(entries(("spleen", 3), ("liver", 7)), {3, 7}) == {"spleen": 3, "liver": 7}


def test_slicers_plugin_counts_segments_it_left_out_but_numbers_the_voxels_without_them():
    info = entries(("ball", 2), ("tube", 4))  # segment 1 and 3 of the scene were scribbles
    assert voxel_values(info, {1, 2}) == {"ball": 1, "tube": 2}


def test_scribbles_and_background_are_no_structures():
    info = entries(("background", 0), ("ball", 1), ("foreground_scribbles", 9))
    assert voxel_values(info, {1}) == {"ball": 1}


def test_without_idx_the_order_counts():
    assert voxel_values([{"name": "ball"}, {"name": "tube"}], {1, 2}) == {"ball": 1, "tube": 2}


def test_what_could_mean_two_things_is_refused():
    with pytest.raises(LabelError, match="does not say which structure"):
        voxel_values(entries(("ball", 2), ("tube", 3)), {2})


@pytest.mark.parametrize(
    ("info", "problem"),
    [
        (entries(("ball", 1), ("ball", 2)), "twice"),
        (entries(("ball", 1), ("tube", 1)), "twice"),
        (entries(("ball", 1)), "voxel values 1, 3"),
        (entries(("ball", 300)), "value 300"),
        (entries(("ball", True)), "value True"),
        (entries(("", 1)), "without a name"),
        (["ball"], "without a name"),
    ],
)
def test_label_info_that_does_not_fit_is_refused(info, problem):
    with pytest.raises(LabelError, match=problem):
        voxel_values(info, {1, 3})


def test_what_was_asked_for_is_learned_before_what_was_configured_or_submitted():
    assert structures_to_learn(["a"], ["b"], ["c"], ["d"]) == ("a",)
    assert structures_to_learn(None, ["b"], ["c"], ["d"]) == ("b",)


def test_submitted_structures_keep_the_order_of_the_active_adapter():
    assert structures_to_learn(None, [], ["c", "x", "a"], ["a", "b", "c"]) == ("c", "a", "b")


def test_labels_without_names_leave_the_active_structures():
    assert structures_to_learn(None, [], ["c", "a"], []) == ("c", "a")
