"""The published table of sets is complete, and a wrong file of one's own is refused by name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fm3d_core.errors import CaseError, SettingsError
from fm3d_core.pretraining.partial_labels.label_maps import read_label_maps
from fm3d_core.pretraining.partial_labels.labelled_sets import find_labelled_sets

# fseft.md section 1.1, in its order
PUBLISHED = re.findall(
    r"\S+",
    "spleen rkidney lkidney gall esophagus liver stomach aorta postcava psv pancreas radrenal ladrenal duodenum "
    "bladder prost_ut liver_tumor kidney_tumor kidney_cyst celiac_truck rlung llung bone brain lung_tumor "
    "pancreas_tumor hv hvt colon_tumor",
)
NINE = ("BTCV", "CHAOS", "LiTS", "KiTS", "AbdomenCT-1K", "AMOS", "CT-ORG", "AbdomenCT-12organ")


def test_the_29_structures_stand_in_the_published_order() -> None:
    names = list(read_label_maps().structures)
    assert len(names) == len(PUBLISHED) == 29
    assert [name[0] for name in names] == [short[0] for short in PUBLISHED]
    assert (names[1], names[16], names[28]) == ("right_kidney", "liver_tumor", "colon_tumor")


def test_the_nine_sets_label_all_29_structures_together() -> None:
    maps = read_label_maps()
    nine = [item for item in maps.sets.values() if item.name in NINE or item.group == "MSD"]
    assert len({item.group or item.name for item in nine}) == 9
    assert maps.union(nine) == tuple(maps.structures)


@pytest.mark.parametrize(
    ("name", "value", "structure"),
    [("AMOS", 15, "prostate_or_uterus"), ("FLARE22", 13, "left_kidney"), ("AbdomenCT-12organ", 12, "celiac_trunk")],
)
def test_values_mean_what_the_specification_says(name: str, value: int, structure: str) -> None:
    assert read_label_maps().find(name.lower()).values[value] == structure


def test_only_the_sets_with_one_label_for_both_sides_are_split() -> None:
    split = {item.name: dict(item.left_right) for item in read_label_maps().sets.values() if item.left_right}
    assert split == {
        "KiTS": {1: "left_kidney"},
        "AbdomenCT-1K": {2: "left_kidney"},
        "CT-ORG": {3: "left_lung", 4: "left_kidney"},
        "AbdomenCT-12organ": {2: "left_kidney"},
        "KiPA": {1: "left_kidney"},
    }
    assert read_label_maps().find("KiTS").structures == {"right_kidney", "left_kidney", "kidney_tumor", "kidney_cyst"}


@pytest.mark.parametrize(
    ("sets", "complaint"),
    [
        ("{A: {values: {1: heart}}}", "heart"),
        ("{A: {values: {0: liver}}}", "label value 0"),
        ("{A: {values: {1: liver}, left_right: {2: spleen}}}", "splits the value 2"),
        ("{A: {value: {1: liver}}}", "no label map"),
        ("{A: {values: {1: liver}, ignored: [1]}}", "both ignores and names"),
    ],
)
def test_a_wrong_map_is_refused_with_its_set(tmp_path: Path, sets: str, complaint: str) -> None:
    path = tmp_path / "maps.yaml"
    path.write_text(f"structures: {{liver: liver, spleen: spleen}}\nsets: {sets}\n", encoding="utf-8")
    with pytest.raises(SettingsError, match=complaint) as caught:
        read_label_maps(path)
    assert caught.value.path == path


def test_sets_are_found_in_a_list_and_by_the_names_of_folders(tmp_path: Path) -> None:
    maps = read_label_maps()
    for name in ("LiTS", "kits"):
        (tmp_path / "sets" / name).mkdir(parents=True)
    found = find_labelled_sets(tmp_path / "sets", maps)
    assert [(item.name, item.label_map.name) for item in found] == [("LiTS", "LiTS"), ("kits", "KiTS")]
    listed = tmp_path / "sets.yaml"
    listed.write_text("- {name: ours, folder: sets/LiTS, map: lits}\n- {folder: sets/kits, map: KiPA}\n")
    assert [(item.name, item.label_map.name) for item in find_labelled_sets(listed, maps)] == [
        ("ours", "LiTS"),
        ("KiPA", "KiPA"),
    ]


@pytest.mark.parametrize(
    ("text", "kind", "complaint"),
    [
        ("- {folder: nowhere, map: LiTS}", CaseError, "nowhere"),
        ("- {folder: ., map: Tits}", SettingsError, "Known are BTCV"),
        ("- {folder: ., map: LiTS}\n- {folder: ., map: LiTS}", SettingsError, "two sets are called 'LiTS'"),
        ("liver", SettingsError, "no list of sets"),
        ("[]", CaseError, "no labelled sets"),
    ],
)
def test_a_wrong_list_of_sets_is_refused(tmp_path: Path, text: str, kind: type[Exception], complaint: str) -> None:
    path = tmp_path / "sets.yaml"
    path.write_text(text)
    with pytest.raises(kind, match=complaint):
        find_labelled_sets(path, read_label_maps())
