"""One structure has many names, and no name two structures."""

from __future__ import annotations

import pytest

from fm3d_core.models.weights.catalogue import catalogue
from fm3d_core.volumes.structure_names import canonical_name


@pytest.mark.parametrize(
    "name", ["right kidney", "kidney_right", "rkidney", "Kidney (R)", "R. kidney", "RIGHT-KIDNEY", "right_kidney"]
)
def test_spellings_of_one_structure_are_one_name(name: str) -> None:
    assert canonical_name(name) == "right_kidney"


@pytest.mark.parametrize(
    ("name", "canonical"),
    [
        ("IVC", "postcava"),
        ("left adrenal gland", "left_adrenal_gland"),
        ("Urinary Bladder", "bladder"),
        ("left atrium cavity", "left_atrium_cavity"),  # not listed: only its form is made plain
        ("kidney", "kidney"),  # of no side is not the right one
    ],
)
def test_synonyms_are_found_and_other_names_stay(name: str, canonical: str) -> None:
    assert canonical_name(name) == canonical


def test_every_class_of_the_catalogue_is_a_canonical_name() -> None:
    for entry in catalogue().values():
        for name in entry.head.classes if entry.head else ():
            assert canonical_name(name) == name
