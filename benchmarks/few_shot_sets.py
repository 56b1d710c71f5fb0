"""The sets of benchmarks/few_shot.py as data: what is tested on, what may be learned from, how the peers crop it.

Test volumes are the last of the folder in order of name. The rest are the volumes to learn from, one of each patient
and only such as have every structure of the set: whoever labels one volume for a structure chooses one that shows it.
Seed 0 takes the first of them (of hippocampus the ones of ../shared/specs/few_shot_anchor.md), another seed draws; the
volumes of a smaller k are among those of a larger one.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from fm3d_core.volumes import Case, find_cases, read_label, read_label_names

Size = tuple[int, int, int]


def whole_name(name: str) -> str:
    """A set of one volume a patient."""
    return name


def before_underscore(name: str) -> str:
    """acdc: patient001_ED and patient001_ES."""
    return name.split("_")[0]


def pair_of_numbers(name: str) -> str:
    """hippocampus: 2k - 1 and 2k look like one subject, says the data's README."""
    return str((int(name.rpartition("_")[2]) + 1) // 2)


@dataclass(frozen=True)
class FewShotSet:
    """A labelled set.

    Attributes:
        folder: below the data folder.
        test: how many of the last volumes are tested on.
        development: how many of those to learn from are held out where choices are made.
        crop: of the networks from scratch, voxels.
        whole: the volumes are no larger than the crop, so networks from scratch see them whole (unet_anchor.py); else
            crops and a sliding window (unet_anchor_crops.py).
        patient: name of a volume -> its patient.
    """

    folder: str
    test: int
    development: int
    crop: Size
    whole: bool = False
    patient: Callable[[str], str] = whole_name


DEVELOPMENT_DRAW = 7  # of one volume of each patient

SETS = {
    "hippocampus": FewShotSet("hippocampus", 20, 20, (48, 64, 48), whole=True, patient=pair_of_numbers),
    "btcv_ct": FewShotSet("abdomen/btcv_ct", 8, 6, (64, 64, 64)),
    "chaos_mr_t2": FewShotSet("abdomen/chaos_mr_t2", 6, 4, (96, 96, 32)),
    "la_mr": FewShotSet("other/la_mr", 20, 6, (64, 64, 32)),
    "acdc_mr": FewShotSet("other/acdc_mr", 20, 20, (96, 96, 16), patient=before_underscore),
}


@dataclass(frozen=True)
class Split:
    """What one row learns from and what it is tested on.

    Attributes:
        labels: names of the structures, values 1 to N in all label files.
        training, test: labelled cases, of different patients.
    """

    labels: tuple[str, ...]
    training: tuple[Case, ...]
    test: tuple[Case, ...]


def split(data: Path, name: str, shots: int, seed: int) -> Split:
    """The volumes of a row.

    Raises:
        ValueError: the set has fewer volumes to learn from than ``shots``.
    """
    source = SETS[name]
    labels, cases = _labelled(data / source.folder)
    test = cases[-source.test :]
    candidates = _one_of_each_patient(cases[: -source.test], source, {source.patient(case.name) for case in test}, seed)
    training: list[Case] = []
    if seed:
        candidates = random.Random(seed).sample(candidates, len(candidates))
    for case in candidates:
        if len(training) < shots and _has_all(case, len(labels)):
            training.append(case)
    if len(training) < shots:
        raise ValueError(f"{name} has {len(training)} volumes to learn from, not {shots}")
    patients = {source.patient(case.name) for case in test}
    assert not patients & {source.patient(case.name) for case in training}
    return Split(labels, tuple(training), tuple(test))


def development(data: Path, name: str, shots: int, seed: int) -> Split:
    """The same without the test volumes: some of those to learn from are held out, for choices made by measuring.

    Raises:
        ValueError: the set has fewer volumes to learn from than ``shots``.
    """
    source = SETS[name]
    labels, cases = _labelled(data / source.folder)
    tested = {source.patient(case.name) for case in cases[-source.test :]}
    candidates = _one_of_each_patient(cases[: -source.test], source, tested, DEVELOPMENT_DRAW)
    learned, held_out = candidates[: -source.development], candidates[-source.development :]
    drawn = random.Random(seed).sample(learned, len(learned))
    training = [case for case in drawn if _has_all(case, len(labels))][:shots]
    if len(training) < shots:
        raise ValueError(f"{name} has {len(training)} volumes to learn from, not {shots}")
    return Split(labels, tuple(training), tuple(held_out))


def _labelled(folder: Path) -> tuple[tuple[str, ...], list[Case]]:
    """Names of the structures, and the cases."""
    names = read_label_names(folder)
    return tuple(name for value, name in sorted(names.items()) if value), list(find_cases(folder, labelled=True))


def _one_of_each_patient(cases: Sequence[Case], source: FewShotSet, taken: set[str], seed: int) -> list[Case]:
    patients: dict[str, list[Case]] = {}
    for case in cases:
        patients.setdefault(source.patient(case.name), []).append(case)
    chance = random.Random(seed)
    return [
        chance.choice(volumes) if seed else volumes[0] for patient, volumes in patients.items() if patient not in taken
    ]


def _has_all(case: Case, structures: int) -> bool:
    assert case.label is not None
    return structures == _structures(case.label)


@cache
def _structures(label: Path) -> int:
    return int(np.count_nonzero(np.unique(read_label(label).array)))
