"""What a recipe would learn from here: the submitted labels, and the table of answers in the study folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fm3d_core.errors import CaseError, LabelError
from fm3d_core.recipes import Recipe
from MonaiLabelApp.lib.cases import chosen_cases
from MonaiLabelApp.lib.datastore import CheckedDatastore
from MonaiLabelApp.lib.dicom_datastore import DicomDatastore
from MonaiLabelApp.lib.errors import Conflict, told_as
from MonaiLabelApp.lib.labels import FINAL, NO_STRUCTURES
from MonaiLabelApp.lib.recipes.offered import ANSWERS, asked_columns, drawn_structures

if TYPE_CHECKING:
    from fm3d_core.volumes import DataList, ListedCase

PARTS: tuple[Literal["training", "validation", "test"], ...] = ("training", "validation", "test")


@dataclass(frozen=True)
class RecipeCases:
    """What a recipe would learn from here.

    Attributes:
        listed: the cases.
        remarks: of what was left out or is not used, in words.
    """

    listed: DataList
    remarks: tuple[str, ...] = ()

    @property
    def ids(self) -> tuple[str, ...]:
        """Of all cases, training ones first."""
        return tuple(case.name for case in (*self.listed.training, *self.listed.validation, *self.listed.test))


def recipe_cases(recipe: Recipe, datastore: CheckedDatastore, wanted: Sequence[str] | None = None) -> RecipeCases:
    """The images that a recipe can learn from, with what is known of each; no image is opened.

    A recipe about voxels takes the submitted labels, whose structures must have the recipe's names. One about whole
    volumes takes the rows of ``answers.csv`` in the study folder; one that asks both takes both.

    Raises:
        UnknownImage: one of ``wanted`` is not on the server.
        Conflict: nothing here can teach it; it says what is missing.
    """
    table, remarks = _answers(recipe, datastore) if asked_columns(recipe) else (None, [])
    if recipe.built_task().whole_volume:
        assert table is not None
        return RecipeCases(_only(table, wanted, datastore), tuple(remarks))
    ids, said = _labelled(recipe, datastore, wanted)
    remarks += said
    if table is None:
        return RecipeCases(_as_list(datastore, tuple(_listed(datastore, each, {}) for each in ids)), tuple(remarks))
    parts = {name: tuple(each for each in getattr(table, name) if each.name in ids) for name in PARTS}
    known = {each.name for cases in parts.values() for each in cases}
    remarks += [f"{each} is not in {ANSWERS}" for each in ids if each not in known]
    listed = {name: tuple(_listed(datastore, each.name, each.fields) for each in parts[name]) for name in PARTS}
    if not listed["training"]:
        raise Conflict(f"no labelled image is in {ANSWERS}", remedy="Submit labels of the images that it lists")
    return RecipeCases(replace(table, **listed), tuple(remarks))


def _answers(recipe: Recipe, datastore: CheckedDatastore) -> tuple[DataList, list[str]]:
    from fm3d_core.volumes import read_answers

    columns = asked_columns(recipe)
    if isinstance(datastore, DicomDatastore):
        raise Conflict(
            f"recipe {recipe.name} needs {ANSWERS} in a study folder, and this server serves a DICOMweb archive",
            remedy="Use fm3d finetune --recipe with a list of files, or a server of a study folder",
        )
    images = {}
    for image_id in datastore.list_images():
        images[image_id] = datastore.image_file(image_id)
    try:
        with told_as(ANSWERS):
            table, left_out = read_answers(datastore.folder / ANSWERS, images, " and ".join(columns))
    except CaseError as error:
        raise Conflict(
            f"recipe {recipe.name} needs {ANSWERS} in the study folder: {error.problem}", remedy=error.remedy
        ) from error
    return table, left_out


def _only(table: DataList, wanted: Sequence[str] | None, datastore: CheckedDatastore) -> DataList:
    if wanted is None:
        return table
    known = {case.name for part in PARTS for case in getattr(table, part)}
    for each in wanted:
        datastore.image_file(each)
        if each not in known:
            raise Conflict(f"{each} is not in {ANSWERS}", remedy="Add its line or leave it out")
    return replace(table, **{part: tuple(c for c in getattr(table, part) if c.name in wanted) for part in PARTS})


def _labelled(
    recipe: Recipe, datastore: CheckedDatastore, wanted: Sequence[str] | None
) -> tuple[tuple[str, ...], list[str]]:
    """The labelled images whose structures have names; and what of them is not used."""
    needed, seen = drawn_structures(recipe), dict[str, None]()
    ids, remarks = [], []
    for case in chosen_cases(datastore, wanted):
        entries = datastore.get_label_info(case, FINAL).get("label_info") or []
        names = [str(entry.get("name")).strip() for entry in entries]
        names = [name for name in names if name.lower() not in NO_STRUCTURES]
        seen.update(dict.fromkeys(names))
        if set(names) & set(needed):
            ids.append(case)
        else:
            has = ", ".join(names) or "no name of a structure"
            remarks.append(f"{case}: its label has {has}, none of {', '.join(needed)}")
    if missing := [name for name in needed if name not in seen]:
        raise Conflict(
            f"recipe {recipe.name} learns {', '.join(needed)}, but no submitted label has {', '.join(missing)};"
            f" there are {', '.join(seen) or 'no names'}",
            remedy="Name the segments as the recipe does and submit them again, or train without a recipe",
        )
    if further := [name for name in seen if name not in needed]:
        remarks.append(f"{', '.join(further)} counts as background: the recipe does not learn it")
    return tuple(ids), remarks


def _listed(datastore: CheckedDatastore, case: str, fields: Mapping[str, Any]) -> ListedCase:
    from fm3d_core.volumes import ListedCase

    return ListedCase(case, (datastore.image_file(case),), fields, None, datastore.folder)


def _as_list(datastore: CheckedDatastore, cases: tuple[ListedCase, ...]) -> DataList:
    from fm3d_core.volumes import DataList

    return DataList(Path("submitted labels"), cases)


def with_labels(recipe: Recipe, cases: RecipeCases, datastore: CheckedDatastore) -> RecipeCases:
    """The cases with label files and the meaning of their voxel values, for a check that reads them."""
    remarks = list(cases.remarks)

    def complete(case: ListedCase) -> ListedCase | None:
        try:
            values = datastore.values_of(case.name)
            label = datastore.label_file(case.name)
        except LabelError as error:
            remarks.append(str(error))
            return None
        return replace(case, fields={**case.fields, recipe.label_field: str(label), "label_values": values})

    if recipe.built_task().whole_volume:
        return cases
    parts = {part: tuple(c for c in map(complete, getattr(cases.listed, part)) if c) for part in PARTS}
    return RecipeCases(replace(cases.listed, **parts), tuple(remarks))
