"""Writing is all or nothing, also when the disk is full or the writer fails."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fm3d_core.errors import StorageError
from fm3d_core.files import atomic_file, atomic_folder, home_folder, sha256_of

FULL_DISK_SCRIPT = """
import sys, pathlib
from fm3d_core.adaptation import AdapterStore, FinetuneSettings, untrained_adapter
from fm3d_core.errors import StorageError
from fm3d_core.tasks import SegmentationTask
store = AdapterStore(sys.argv[1])
task = SegmentationTask(("a",))
store.save(untrained_adapter(task, FinetuneSettings(method="linear_probe")))
try:
    store.save(untrained_adapter(task, FinetuneSettings(method="full")))
except StorageError as error:
    print(error)
    print(sorted(path.name for path in store.root.iterdir()), store.active().version)
"""


def test_a_file_appears_complete_and_replaces_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "a.json"
    target.write_text("old")
    with atomic_file(target) as temporary:
        temporary.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_failed_writer_leaves_the_old_file_and_no_rest(tmp_path: Path) -> None:
    target = tmp_path / "a.json"
    target.write_text("old")
    with pytest.raises(ValueError, match="half"), atomic_file(target) as temporary:
        temporary.write_text("ne")
        raise ValueError("half")
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_folder_is_never_overwritten(tmp_path: Path) -> None:
    for expected in ("first", "first"):
        try:
            with atomic_folder(tmp_path / "v0001") as folder:
                (folder / "x").write_text("first" if not (tmp_path / "v0001").exists() else "second")
        except FileExistsError:
            pass
        assert (tmp_path / "v0001" / "x").read_text() == expected
    assert [path.name for path in tmp_path.iterdir()] == ["v0001"]


def test_an_adapter_that_does_not_fit_the_disk_leaves_nothing_and_the_old_one_active(tmp_path: Path) -> None:
    """A real file system of 700 kB, mounted in a namespace of its own."""
    if shutil.which("unshare") is None:
        pytest.skip("unshare is not installed")
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = f'mount -t tmpfs -o size=700k tmpfs "{disk}" || exit 77; exec "{sys.executable}" -c "$0" "{disk}"'
    done = subprocess.run(
        ["unshare", "-Urm", "sh", "-c", mount, FULL_DISK_SCRIPT], capture_output=True, text=True, check=False
    )
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip(f"no mount namespace here: {done.stderr.strip()}")
    message, rest = done.stdout.strip().splitlines()
    assert "the disk is full" in message and str(disk / "v0002") in message
    assert rest == "['active.json', 'v0001'] 1"


def test_a_place_that_cannot_be_a_folder_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file" / "a", tmp_path / "file" / "below" / "a"):
        with pytest.raises(StorageError, match="file"), atomic_file(place):
            pass


def test_the_home_folder_follows_the_environment(fm3d_home: Path) -> None:
    assert home_folder() == fm3d_home


def test_the_hash_is_sha256(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_of(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
