"""``fm3d demo`` as a stranger runs it: one command, a real server, a picture at the end."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from functools import partial

import psutil
import pytest


def run(*arguments, **how):
    return subprocess.run(
        [sys.executable, "-c", "from fm3d_core.cli.main import main; main()", "demo", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=400,
        **how,
    )


@pytest.mark.slow
def test_the_demo_learns_and_leaves_a_picture_and_no_server(tmp_path):
    started = time.monotonic()
    done = run("--out", tmp_path / "demo", "--seconds", 45, "--test-cases", 2)
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - started < 180
    assert (tmp_path / "demo" / "comparison.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert str(tmp_path / "demo" / "comparison.png") in done.stdout
    figures = json.loads((tmp_path / "demo" / "demo.json").read_text())
    assert figures["after"]["ellipsoid"] > figures["before"]["ellipsoid"] + 0.4, figures
    assert figures["training"]["version"] == 2  # the first is the linear head, there after seconds
    assert len(list((tmp_path / "demo" / "segmentations").glob("*.nii.gz"))) == 4  # two cases, before and after
    labels = {path.name for path in (tmp_path / "demo" / "server" / "studies" / "labels" / "final").iterdir()}
    assert labels == {f"synthetic_{number:03d}.nii.gz" for number in range(3)}  # no test label went to the server
    assert servers_of(tmp_path) == []


@pytest.mark.slow
def test_the_users_own_folder_is_shown_and_ctrl_c_stops_the_server(hippocampus, tmp_path):
    command = [sys.executable, "-c", "from fm3d_core.cli.main import main; main()", "demo", "--data", str(hippocampus)]
    command += ["--out", str(tmp_path / "demo"), "--seconds", "600"]
    # a background job of a shell, as CI may be, ignores Ctrl-C and hands that down
    heeding = partial(signal.signal, signal.SIGINT, signal.default_int_handler)
    demo = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, preexec_fn=heeding)
    try:
        trainings = tmp_path / "demo" / "server" / "app" / "model" / "trainings"
        deadline = time.monotonic() + 180

        def stages():
            return [json.loads(file.read_text())["stage"] for file in trainings.glob("*/progress.json")]

        while "training" not in stages():
            assert time.monotonic() < deadline and demo.poll() is None
            time.sleep(0.5)
        assert servers_of(tmp_path)
    finally:
        demo.send_signal(signal.SIGINT)
        output, _ = demo.communicate(timeout=60)
    assert demo.returncode == 130, output
    assert "Traceback" not in output and "anterior hippocampus, posterior hippocampus" in output
    assert servers_of(tmp_path) == []


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [(["--shots", "0"], "shots is 0"), (["--method", "magic"], "magic"), (["--data", "nowhere"], "nowhere")],
)
def test_a_mistake_is_one_line_and_starts_nothing(tmp_path, arguments, problem):
    done = run("--out", tmp_path / "demo", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert problem in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "demo" / "server").exists()


def test_a_folder_with_other_content_is_never_touched(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    done = run("--out", tmp_path)
    assert done.returncode == 2 and "not empty" in done.stderr
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
    assert not (tmp_path / "server").exists()


def servers_of(folder):
    """Processes that work in ``folder``."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        line = " ".join(process.info["cmdline"] or [])
        if "monailabel" in line and (str(folder) in line or "interfaces.utils.app" in line):
            try:
                if str(folder) in line or process.cwd().startswith(str(folder)):
                    found.append(process.pid)
            except psutil.Error:
                continue
    return found
