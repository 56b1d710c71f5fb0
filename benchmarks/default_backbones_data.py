"""The volumes from which a default backbone may learn: free ones that no figure tests on, and made-up ones.

    python benchmarks/default_backbones_data.py --shared ../shared/data --out /tmp/volumes
    fm3d data scan /tmp/volumes --out /tmp/volumes.json && fm3d data cache /tmp/volumes.json --out /tmp/store

Weights that ship must be free to ship, so only tier A of the data's README is taken (attribution is enough). Of the
hippocampus volumes those stay out that the few-shot figures test on, learn from or were chosen on, each with the other
volume of the same subject. OUT is temporary: it holds copies, the made-up volumes, and used.json, which names each file
with its source and tier.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.progress import track

from fm3d_core.errors import CaseError
from fm3d_core.files import atomic_file
from fm3d_core.pretraining.synthetic_anatomy.anatomy import draw_anatomy
from fm3d_core.pretraining.synthetic_anatomy.patient import draw_patient
from fm3d_core.pretraining.synthetic_anatomy.random_numbers import chance, generator_of, log_uniform, whole
from fm3d_core.pretraining.synthetic_anatomy.scan import draw_scanner, scan
from fm3d_core.volumes import write_nifti

LEARNING = ("001", "003", "007", "011", "015")  # of the few-shot figures, ../shared/specs/few_shot_anchor.md
TESTING = 20  # the last of the sorted names, as there
CHOOSING = 10  # in the middle of the rest: on these, candidates for the default backbone are compared

# Folder -> name of the copy's folder, whose words tell fm3d data scan the modality.
_SMALL_SETS = {
    "other/ms_mr": "ms_mr",
    "other/spinal_cord_mr": "spinal_cord_mr",
    "abdomen/totalseg": "totalseg",
}
_EDGE = 96  # voxels of a made-up volume


@dataclass(frozen=True)
class Used:
    """A volume that was taken.

    Attributes:
        file: below the folder that was written.
        source: below the shared data, or the seed of a made-up one.
        tier: of its licence; "made up" needs none.
        licence: in words.
    """

    file: str
    source: str
    tier: str
    licence: str


@dataclass(frozen=True)
class Collection:
    """What is collected.

    Attributes:
        out: folder to write; must be empty or not be there.
        shared: the shared data.
        made_up: number of made-up volumes of 96 voxels along each axis, fewer across thick slices.
        seed: of the first made-up volume.
    """

    out: Path
    shared: Path = Path("../shared/data")
    made_up: int = 150
    seed: int = 2026

    def run(self) -> None:
        """Write the folder and say what is in it."""
        console = Console()
        if self.out.exists() and any(self.out.iterdir()):
            raise CaseError("is not empty", path=self.out, remedy="Choose another --out")
        used = [*copy_small_sets(self.shared, self.out), *copy_hippocampus(self.shared, self.out)]
        for number in track(range(self.made_up), "drawing", console=console, transient=True):
            used.append(draw(self.out, self.seed + number))
        write_used(self.out / "used.json", used)
        counted = Counter(f"{item.tier}: {Path(item.file).parent}" for item in used)
        for name, count in sorted(counted.items()):
            console.print(f"{count:4d} {name}", highlight=False)
        console.print(f"{len(used)} volumes in {self.out}, each named in used.json", soft_wrap=True)


def copy_small_sets(shared: Path, out: Path) -> list[Used]:
    """The labelled sets of few volumes, without their labels.

    Raises:
        CaseError: a file whose provenance is not known to be of tier A.
    """
    provenance = {row["file"]: row for row in json.loads((shared / "provenance_files.json").read_text("utf-8"))}
    used = []
    for folder, name in _SMALL_SETS.items():
        for image in sorted((shared / folder / "images").glob("*.nii.gz")):
            row = provenance.get(f"realdata/{image.relative_to(shared).as_posix()}", {})
            if row.get("tier") != "A":
                raise CaseError(
                    f"has tier {row.get('tier', 'unknown')}", path=image, remedy="Only tier A may be shipped"
                )
            used.append(copy(image, shared, out / name, row["licence"]))
    return used


def copy_hippocampus(shared: Path, out: Path) -> list[Used]:
    """The hippocampus volumes that no figure needs."""
    images = sorted((shared / "hippocampus/images").glob("*.nii.gz"))
    free = set(free_ids([number_of(image) for image in images]))
    licence = "CC-BY-SA 4.0 (Medical Segmentation Decathlon, Task04)"
    return [copy(image, shared, out / "hippocampus_mr", licence) for image in images if number_of(image) in free]


def free_ids(ids: Sequence[str]) -> list[str]:
    """The ids of subjects of which no volume is learned from, chosen on or tested on; in sorted order."""
    ids = sorted(ids)
    taken = {subject(name) for name in (*LEARNING, *choosing_ids(ids), *ids[-TESTING:])}
    return [name for name in ids if subject(name) not in taken]


def choosing_ids(ids: Sequence[str]) -> list[str]:
    """The ids in the middle of those that figures neither learn from nor test on."""
    rest = [name for name in sorted(ids)[:-TESTING] if name not in LEARNING]
    start = (len(rest) - CHOOSING) // 2
    return rest[start : start + CHOOSING]


def subject(name: str) -> int:
    """The subject of a hippocampus id: 2k - 1 and 2k are one, says the data's README."""
    return (int(name) + 1) // 2


def number_of(image: Path) -> str:
    """The id in a file name such as hippocampus_001.nii.gz."""
    return image.name.split(".")[0].rsplit("_", 1)[-1]


def copy(image: Path, shared: Path, folder: Path, licence: str) -> Used:
    """Copy one file."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(image, folder / image.name)
    return Used(f"{folder.name}/{image.name}", image.relative_to(shared).as_posix(), "A", licence)


def draw(out: Path, seed: int) -> Used:
    """Write one made-up volume: an anatomy of its own in a field of view of 40 to 300 mm, thick slices in two of five.

    Slices of 2 to 6 times the voxel's width lie across a random axis; the others are cubes.
    """
    generator = generator_of(seed)
    size, spacing = [_EDGE] * 3, [log_uniform(0.4, 3.0, generator)] * 3
    if chance(0.4, generator):
        axis, times = whole(0, 2, generator), whole(2, 6, generator)
        size[axis], spacing[axis] = _EDGE // times, spacing[axis] * times
    anatomy = draw_anatomy(generator)
    label = draw_patient(anatomy, (size[0], size[1], size[2]), generator)
    image = scan(label, draw_scanner(anatomy.labels, anatomy.air, generator), generator)
    values = torch.round((image + 1) * 500).to(torch.int16).numpy()  # 0 to 1000, as a scanner stores whole numbers
    folder = out / "made_up"
    folder.mkdir(parents=True, exist_ok=True)
    path = write_nifti(folder / f"anatomy_{seed:05d}.nii.gz", values, np.diag([*spacing, 1.0]))
    return Used(f"made_up/{path.name}", f"seed {seed}", "made up", "none needed")


def write_used(path: Path, used: Sequence[Used]) -> None:
    """The list as JSON."""
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps([asdict(item) for item in used], indent=1) + "\n", encoding="utf-8")


def main(collection: Collection) -> None:
    """Collect."""
    collection.run()


if __name__ == "__main__":
    main(tyro.cli(Collection))
