"""A real server process: how fast it answers, what it refuses and in which words."""

import json
import socket
import subprocess
import sys
import time
from urllib.parse import quote

import psutil
import pytest
from served import JSON, ask, form, reason, upload

from fm3d_core.cli.serve import ServeSettings
from fm3d_core.cli.server_log import telling_line
from fm3d_core.cli.server_process import ServerProcess
from fm3d_core.errors import ServerError, SettingsError

LONGEST_START = 20.0  # seconds on a quiet machine of 2 cores


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("server")
    with ServerProcess(folder / "my studies", folder / "work space", labels=("ellipsoid", "tube")) as running:
        yield running


def test_the_server_answers_soon_after_its_start(server):
    load = psutil.getloadavg()[0] / (psutil.cpu_count() or 1)
    assert server.start_took < LONGEST_START * max(1.0, load)


def test_info_answers_at_once(server):
    started = time.monotonic()
    status, content = ask(server, "GET", "/info/")
    assert status == 200 and time.monotonic() - started < 1
    assert json.loads(content)["models"]["segmentation"]["labels"] == {"ellipsoid": 1, "tube": 2}


def test_it_listens_on_this_machine_only(server):
    addresses = {
        connection.laddr.ip
        for connection in psutil.Process(server.pid).net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert addresses == {"127.0.0.1"}


def test_an_unknown_image_is_404_with_the_reason(server):
    status, detail = reason(server, "POST", "/infer/segmentation?image=nobody", *form({"params": "{}"}))
    assert (status, "no image 'nobody'" in detail) == (404, True)


def test_a_path_is_not_an_image(server, synthetic_cases):
    path = quote(str(synthetic_cases[0].image), safe="")
    assert reason(server, "POST", f"/infer/segmentation?image={path}", *form({"params": "{}"}))[0] == 404
    params = json.dumps({"image": str(synthetic_cases[0].image), "version": "untrained"})
    assert reason(server, "POST", "/infer/segmentation?image=nobody", *form({"params": params}))[0] == 404


def test_before_training_the_active_version_is_409_with_the_reason(server, synthetic_cases):
    assert upload(server, "case_1", synthetic_cases[0])[0] == 200
    status, detail = reason(server, "POST", "/infer/segmentation?image=case_1", *form({"params": "{}"}))
    assert (status, "press Train" in detail) == (409, True)


def test_an_unknown_parameter_is_422_with_its_name(server, synthetic_cases):
    assert upload(server, "case_1", synthetic_cases[0])[0] == 200
    params = json.dumps({"device": "cuda:7"})
    status, detail = reason(server, "POST", "/infer/segmentation?image=case_1", *form({"params": params}))
    assert (status, "device: unknown parameter" in detail) == (422, True)


def test_parameters_that_are_not_json_are_422(server):
    assert reason(server, "POST", "/infer/segmentation?image=case_1", *form({"params": "{"}))[0] == 422


def test_an_unknown_model_strategy_and_address_are_404(server):
    assert reason(server, "POST", "/infer/other?image=case_1", *form({"params": "{}"}))[0] == 404
    assert reason(server, "POST", "/activelearning/other", b"{}", JSON)[0] == 404
    for method, path in [
        ("GET", "/proxy/dicom/x"),
        ("POST", "/batch/infer/segmentation"),
        ("PUT", "/model/segmentation"),
        ("POST", "/infer/wsi/segmentation"),
        ("POST", "//infer/wsi/segmentation"),
        ("PUT", "/session/"),
        ("POST", "/reload"),
    ]:
        status, detail = reason(server, method, path)
        assert (status, "not served" in detail) == (404, True), path


@pytest.mark.parametrize("image_id", ["../../x", "..", "/tmp/x", "a/b", ".hidden", "x" * 200, "a\0b"])
def test_an_id_that_could_leave_the_folder_is_422_and_nothing_is_written(server, synthetic_cases, image_id):
    before = sorted(path for path in server.workspace.parent.rglob("*.nii.gz"))
    status, content = upload(server, image_id, synthetic_cases[0])
    assert (status, "image id" in json.loads(content)["detail"]) == (422, True)
    assert sorted(path for path in server.workspace.parent.rglob("*.nii.gz")) == before


def test_a_tag_that_could_leave_the_folder_is_422_and_nothing_is_written(server, synthetic_cases):
    assert upload(server, "case_1", synthetic_cases[0])[0] == 200
    before = sorted(path for path in server.workspace.parent.rglob("*.nii.gz"))
    label = ("label", "label.nii.gz", synthetic_cases[0].label.read_bytes())
    for tag in ("../../x", ".."):
        path = f"/datastore/label?image=case_1&tag={quote(tag, safe='')}"
        status, detail = reason(server, "PUT", path, *form({"params": "{}"}, label))
        assert (status, "the tag" in detail) == (422, True)
    assert sorted(path for path in server.workspace.parent.rglob("*.nii.gz")) == before


def test_another_kind_of_file_is_422(server, synthetic_cases):
    status, content = upload(server, "case_2", synthetic_cases[1], name="weights.pt")
    assert (status, ".pt is not accepted" in json.loads(content)["detail"]) == (422, True)


def test_a_training_without_labels_is_409_and_no_process_starts(server):
    status, detail = reason(server, "POST", "/train/segmentation", b"{}", JSON)
    assert (status, "no labelled volume" in detail) == (409, True)
    assert reason(server, "GET", "/train/")[0] == 404
    assert psutil.Process(server.pid).children() == []


def test_a_training_with_an_unknown_key_is_422_and_names_it(server):
    body = json.dumps({"bundle_path": "/tmp"}).encode()
    status, detail = reason(server, "POST", "/train/segmentation", body, JSON)
    assert (status, "bundle_path: unknown parameter" in detail) == (422, True)


def test_the_servers_own_files_lie_in_its_workspace(server):
    assert {"main.py", "logs"} <= {path.name for path in (server.workspace / "app").iterdir()}
    assert (server.workspace / "app" / "logs" / "app.log").stat().st_size > 0


def test_a_taken_port_is_named_with_the_remedy(server, tmp_path):
    with pytest.raises(ServerError, match=rf"port {server.port} .* is taken .*--port"):
        ServerProcess(tmp_path / "studies", tmp_path / "work", port=server.port).start()
    assert not (tmp_path / "work").exists()


def test_a_second_server_on_the_same_folder_is_refused_in_words(server, tmp_path):
    for studies, workspace in ((server.studies, tmp_path / "work"), (tmp_path / "studies", server.workspace)):
        with pytest.raises(ServerError, match="another server works in this folder"):
            ServerProcess(studies, workspace).start()
    assert ask(server, "GET", "/info/")[0] == 200


def test_a_server_that_ends_early_tells_why(tmp_path):
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies" / "datastore_v2.json").write_text('{"name": 1}')
    with pytest.raises(ServerError, match=r"the server ended: .*(?i:validation|name)") as failure:
        ServerProcess(tmp_path / "studies", tmp_path / "work").start()
    assert "\n" not in str(failure.value)
    assert str(tmp_path / "work" / "server.log") in str(failure.value)


def test_the_telling_line_is_the_last_exception(tmp_path):
    log = tmp_path / "server.log"
    log.write_text("Allow Origins\nTraceback ...\n  line\nfm3d_core.errors.VolumeError: x. Do y.\n\nstartup failed.\n")
    assert telling_line(log) == "x. Do y."


def test_stopping_leaves_no_process_and_frees_the_port(tmp_path):
    with ServerProcess(tmp_path / "studies", tmp_path / "work") as server:
        pid, port = server.pid, server.port
    assert not psutil.pid_exists(pid)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))


@pytest.mark.parametrize("settings", [{"port": 70000}, {"labels": ("a", "a")}, {"labels": ("a,b",)}])
def test_impossible_settings_are_refused(tmp_path, settings):
    with pytest.raises(SettingsError):
        ServeSettings(tmp_path, **settings)


def test_importing_the_commands_takes_no_torch():
    code = "import sys, fm3d_core.cli.demo, fm3d_core.cli.serve; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
