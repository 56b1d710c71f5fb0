"""The whole loop on real volumes: a real server, driven over HTTP by the Slicer module's own client."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

import nibabel
import numpy as np
import pytest
from SlicerFM3DLib.client import ServerClient
from SlicerFM3DLib.errors import ServerRefused

from fm3d_core.cli.server_process import ServerProcess
from fm3d_core.evaluation import dice_per_label, mean_dice
from fm3d_core.volumes import read_label

STRUCTURES = ("anterior", "posterior")
# Ids 2k-1 and 2k are one subject, so no test case is the partner (2, 4, 8) of a labelled one.
LABELLED = ("001", "003", "007")
TEST_CASES = ("011", "015", "017", "023", "025", "035", "037", "041", "044", "048")
TRAINING_SECONDS = 60


@dataclass
class Loop:
    """What happened, for the tests to look at."""

    folder: Path
    before: dict[str, float] = field(default_factory=dict)
    after: dict[str, float] = field(default_factory=dict)
    results: dict[str, Path] = field(default_factory=dict)
    answers: dict[str, dict] = field(default_factory=dict)
    refusal: str = ""
    events: list = field(default_factory=list)
    info: dict = field(default_factory=dict)
    samples: list = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)


def test_subjects_are_on_one_side_only():
    subject = {number: (int(number) + 1) // 2 for number in (*LABELLED, *TEST_CASES)}
    assert not {subject[number] for number in LABELLED} & {subject[number] for number in TEST_CASES}


@pytest.fixture(scope="module")
def loop(hippocampus: Path, tmp_path_factory: pytest.TempPathFactory) -> Loop:
    folder = tmp_path_factory.mktemp("loop")
    done = Loop(hippocampus)
    with ServerProcess(folder / "studies", folder / "server", labels=STRUCTURES) as server:
        done.seconds["start"] = server.start_took
        _drive(ServerClient(server.address), done, folder)
    return done


def _drive(client: ServerClient, done: Loop, folder: Path) -> None:
    for number in (*LABELLED, *TEST_CASES):
        client.uploadImage(done.folder / "images" / f"hippocampus_{number}.nii.gz", f"case_{number}")
    done.samples.append(client.nextSample("first"))
    for number in LABELLED:
        entries = [{"name": name, "idx": value} for value, name in enumerate(STRUCTURES, start=1)]
        client.saveLabel(f"case_{number}", done.folder / "labels" / f"hippocampus_{number}.nii.gz", entries)
    done.samples.append(client.nextSample("first"))
    with pytest.raises(ServerRefused) as refusal:
        client.infer("segmentation", "case_011", folder, {"version": "active"})
    done.refusal = str(refusal.value)
    for number in TEST_CASES:
        done.before[number] = _segment(client, done, folder, number, "untrained")
    started = time.monotonic()
    client.train("segmentation", {"seconds": TRAINING_SECONDS, "seed": 0})
    while (status := client.trainStatus()).isActive and time.monotonic() - started < 600:
        done.events.append(status)
        time.sleep(0.5)
    done.events.append(status)
    done.seconds["train"] = time.monotonic() - started
    started = time.monotonic()
    for number in TEST_CASES:
        done.after[number] = _segment(client, done, folder, number, "active")
    done.seconds["infer"] = (time.monotonic() - started) / len(TEST_CASES)
    done.info = client.info()


def _segment(client: ServerClient, done: Loop, folder: Path, number: str, version: str) -> float:
    """Mean Dice of one test case; its label never went to the server."""
    (folder / version).mkdir(exist_ok=True)
    file, done.answers[number] = client.infer("segmentation", f"case_{number}", folder / version, {"version": version})
    done.results[number] = file
    truth = read_label(done.folder / "labels" / f"hippocampus_{number}.nii.gz").array
    assert done.answers[number]["label_names"] == {"anterior": 1, "posterior": 2}
    return mean_dice(dice_per_label(read_label(file).array, truth, STRUCTURES))


def test_before_training_the_client_reads_why_nothing_can_be_segmented(loop):
    assert "press Train" in loop.refusal


def test_the_next_volume_is_one_without_a_label(loop):
    assert [sample["id"] for sample in loop.samples] == ["case_001", "case_011"]


def test_three_labelled_volumes_teach_the_structures(loop):
    before, after = (float(np.mean(list(scores.values()))) for scores in (loop.before, loop.after))
    assert after > 0.7, f"mean Dice {after:.3f} after {loop.seconds}"
    assert after > before + 0.5, f"mean Dice {before:.3f} before, {after:.3f} after"


def test_what_comes_back_has_the_images_shape_and_affine(loop):
    for number in TEST_CASES:
        image = nibabel.load(loop.folder / "images" / f"hippocampus_{number}.nii.gz")
        result = nibabel.load(loop.results[number])
        assert result.shape == image.shape
        assert np.allclose(result.affine, image.affine, atol=1e-5)
        assert set(np.unique(np.asarray(result.dataobj))) <= {0, 1, 2}


def test_progress_was_told_with_the_time_left(loop):
    training = [event for event in loop.events if event.stage == "training"]
    assert len(training) >= 3
    lefts = [event.eta for event in training if event.eta is not None]
    assert lefts and lefts[0] > lefts[-1] >= 0
    assert training[0].step < training[-1].step
    assert all(event.loss is not None for event in training[1:])
    assert len({event.runId for event in loop.events}) == 1  # never the figures of another run


def test_the_new_adapter_is_version_2_and_active(loop):
    # version 1 is the linear head, which was there while the rest trained
    assert loop.events[-1].state == "done" and loop.events[-1].version == 2
    assert loop.answers[TEST_CASES[0]]["version"] == "2"
    assert loop.info["models"]["segmentation"]["config"]["version"] == ["active", "untrained", "1", "2"]
    assert loop.info["datastore"] == {"total": 13, "completed": 3, "label_tags": {"final": 3}}


def test_inference_answers_quickly(loop):
    assert loop.seconds["infer"] < 10, loop.seconds
