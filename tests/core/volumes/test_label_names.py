import json
from pathlib import Path

import pytest

from fm3d_core.errors import SettingsError
from fm3d_core.volumes import find_cases, read_label_names, write_synthetic_cases


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("labels.json", {"2": "tumour", "1": "liver"}),
        ("dataset.json", {"labels": {"0": "background", "1": "liver", "2": "tumour"}}),  # Medical Decathlon
        ("dataset.json", {"labels": {"background": 0, "tumour": 2, "liver": 1}}),  # nnU-Net
    ],
)
def test_names_are_read_in_order_of_value_without_background(file: str, content: object, tmp_path: Path) -> None:
    (tmp_path / file).write_text(json.dumps(content))
    assert list(read_label_names(tmp_path).items()) == [(1, "liver"), (2, "tumour")]


def test_without_a_file_the_values_that_occur_get_names(tmp_path: Path) -> None:
    write_synthetic_cases(tmp_path, 1, shape=(24, 24, 24))
    (tmp_path / "labels.json").unlink()
    assert read_label_names(tmp_path, find_cases(tmp_path)) == {1: "structure 1", 2: "structure 2"}


@pytest.mark.parametrize("text", ["{", "[1]", '{"a": "b"}'])
def test_a_file_that_names_no_labels_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "labels.json").write_text(text)
    with pytest.raises(SettingsError, match=r"labels\.json: names no labels"):
        read_label_names(tmp_path)


@pytest.mark.parametrize(
    ("text", "twice"),
    [
        ('{"1": "liver", "2": "liver"}', "liver"),
        ('{"1": "liver", "2": " liver "}', "liver"),
        ('{"1": "liver", "1": "spleen"}', "1"),
        ('{"liver": 1, "liver": 2}', "liver"),
        ('{"liver": 1, "spleen": 1}', "1"),
    ],
)
def test_two_structures_of_one_name_or_value_are_refused(text: str, twice: str, tmp_path: Path) -> None:
    (tmp_path / "labels.json").write_text(text)
    with pytest.raises(SettingsError, match=rf"labels\.json: has {twice} twice"):
        read_label_names(tmp_path)
