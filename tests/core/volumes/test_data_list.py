"""Lists of cases in JSON and CSV, their folds and fractions, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fm3d_core.errors import CaseError, SettingsError
from fm3d_core.volumes import DataList, read_data_list

CONTENT = {
    "name": "made",
    "training": [
        {"image": ["a_t1.nii.gz", "a_t2.nii.gz"], "label": "a_seg.nii.gz", "fold": 0},
        {"image": ["b_t1.nii.gz", "b_t2.nii.gz"], "label": "b_seg.nii.gz", "fold": 1},
    ],
    "validation": [{"image": "c.nii.gz", "label": 1, "age": 60.5}],
    "test": ["d.nii.gz"],
}


def _listed(tmp_path: Path, content: object) -> DataList:
    path = tmp_path / "list.json"
    path.write_text(json.dumps(content))
    return read_data_list(path)


def test_json_of_the_reference_is_read(tmp_path: Path) -> None:
    listed = _listed(tmp_path, CONTENT)
    first, validation, test = listed.training[0], listed.validation[0], listed.test[0]
    assert first.name == "a_t1" and first.images == (tmp_path / "a_t1.nii.gz", tmp_path / "a_t2.nii.gz")
    assert first.file() == tmp_path / "a_seg.nii.gz" and first.fold == 0 and listed.folds == (0, 1)
    assert validation.fields == {"label": 1, "age": 60.5} and test.images == (tmp_path / "d.nii.gz",)
    with pytest.raises(CaseError, match="has no label file"):
        validation.file()


def test_csv_is_read_with_its_columns(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_text("id,image,split,fold,age\nx,a.nii.gz;b.nii.gz,train,2,61\ny,c.nii.gz,val,,62\nz,d.nii.gz,test,,\n")
    listed = read_data_list(path, root="/data")
    assert listed.training[0].images == (Path("/data/a.nii.gz"), Path("/data/b.nii.gz"))
    assert listed.training[0].fold == 2 and listed.training[0].fields == {"id": "x", "age": "61"}
    assert [case.name for case in (*listed.validation, *listed.test)] == ["y", "z"]
    path.write_text("image_2,image_1\nb.nii,a.nii\n")
    assert [each.name for each in read_data_list(path).training[0].images] == ["a.nii", "b.nii"]


def test_equal_file_names_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    listed = _listed(tmp_path, {"training": [{"image": "p1/t1.nii.gz"}, {"image": "p2/t1.nii.gz"}]})
    assert [case.name for case in listed.training] == ["p1/t1", "p2/t1"]


def test_folds_are_held_out_in_turn_and_drawn_where_the_list_has_none(tmp_path: Path) -> None:
    held = _listed(tmp_path, CONTENT).fold(1)
    assert [case.name for case in held.training] == ["a_t1"] and [case.name for case in held.validation] == ["b_t1"]
    drawn = _listed(tmp_path, {"training": [{"image": f"{i}.nii.gz"} for i in range(7)]}).in_folds(3, seed=1)
    sizes = [len(drawn.fold(fold).validation) for fold in drawn.folds]
    assert sorted(sizes) == [2, 2, 3]
    with pytest.raises(CaseError, match=r"no fold 9.*Its folds: 0, 1, 2"):
        drawn.fold(9)
    with pytest.raises(CaseError, match="cannot be held out in 9 folds"):
        _listed(tmp_path, {"training": ["a.nii"]}).in_folds(9)


def test_fractions_of_one_seed_lie_in_each_other(tmp_path: Path) -> None:
    listed = _listed(tmp_path, {"training": [{"image": f"{i}.nii.gz"} for i in range(20)]})
    tenth, half = ({case.name for case in listed.fraction(share, 3).training} for share in (0.1, 0.5))
    assert len(tenth) == 2 and len(half) == 10 and tenth < half
    with pytest.raises(SettingsError, match="fraction is 0"):
        listed.fraction(0)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.json", "{", "is no list of cases"),
        ("a.json", "{}", "holds no case"),
        ("a.json", '"text"', "neither an object nor a list"),
        ("a.json", '{"training": [{"label": 1}]}', "case 1 has no image"),
        ("a.json", '{"training": [{"image": "a.nii", "fold": "x"}]}', "fold 'x'"),
        ("a.json", '{"training": [{"image": "a.nii"}], "test": [{"image": "a.nii"}]}', r"a twice \(in training"),
        ("a.json", '{"training": [{"image": "a.nii", "id": 1}], "test": [{"image": "a.nii", "id": 2}]}', "twice"),
        ("a.csv", "image,split\na.nii,holdout\n", "split is holdout"),
        ("a.csv", "image,age\na.nii\n", "not as many fields"),
        ("a.csv", "image,image\na.nii,b.nii\n", "two columns"),
        ("a.csv", "file\na.nii\n", "no image file"),
    ],
)
def test_what_is_no_list_is_refused(name: str, text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(CaseError, match=said):
        read_data_list(tmp_path / name)


def test_a_missing_list_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CaseError, match="is no list"):
        read_data_list(tmp_path / "none.json")
