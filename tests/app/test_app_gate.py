"""The server as a target: each open point of a stock MONAI Label server (robustness.md, 4b), closed."""

import http.client
import json
import socket
import subprocess
import sys
from urllib.parse import quote, urlsplit

import pytest
from served import JSON, ask, form, get, infer, reason, upload

from fm3d_core.cli.serve import ServeSettings
from fm3d_core.cli.server_process import ServerProcess
from fm3d_core.errors import SettingsError

TOKEN = "a-token-of-more-than-sixteen-characters"
VIEWER = "https://viewer.hospital.example"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
PATIENT = "Doe^Jane^19480311"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Open to this machine only, as by default."""
    folder = tmp_path_factory.mktemp("gate")
    with ServerProcess(folder / "studies", folder / "work", labels=("ellipsoid", "tube"), upload_mb=4) as running:
        yield running


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    """With a token, on all addresses of this machine, and one viewer's origin."""
    folder = tmp_path_factory.mktemp("guarded")
    (folder / "token").write_text(TOKEN + "\n")
    settings = {"token_file": folder / "token", "origins": (VIEWER,), "host": "0.0.0.0"}
    with ServerProcess(folder / "studies", folder / "work", labels=("ellipsoid",), **settings) as running:
        yield running


# 1: beyond loopback only with a token


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "example.org", "::"])
def test_beyond_this_machine_only_with_a_token(tmp_path, host):
    with pytest.raises(SettingsError, match="--token-file"):
        ServeSettings(tmp_path, host=host)
    (tmp_path / "token").write_text(TOKEN)
    assert ServeSettings(tmp_path, host=host, token_file=tmp_path / "token").host == host


@pytest.mark.parametrize("content", ["", "short", "with spaces in it, and long enough", None])
def test_a_token_that_protects_nothing_is_refused_with_the_command_that_makes_one(tmp_path, content):
    if content is not None:
        (tmp_path / "token").write_text(content)
    with pytest.raises(SettingsError, match=r"secrets\.token_urlsafe"):
        ServeSettings(tmp_path, host="0.0.0.0", token_file=tmp_path / "token")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/info/"),
        ("GET", "/datastore/?output=all"),
        ("POST", "/train/segmentation"),
        ("DELETE", "/datastore/image?id=x"),
        ("GET", "/logs/"),
        ("GET", "/adapters/"),
        ("GET", "/"),
        ("GET", "/openapi.json"),
        ("GET", "/auth/token/valid"),
    ],
)
def test_without_the_token_nothing_is_told(guarded, method, path):
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {TOKEN}"}):
        status, detail = reason(guarded, method, path, headers=headers)
        assert (status, "token" in detail) == (401, True)


def test_with_the_token_everything_works(guarded, synthetic_cases):
    assert ask(guarded, "GET", "/info/", headers=BEARER)[0] == 200
    body, headers = form({"params": "{}"}, ("file", "x.nii.gz", synthetic_cases[0].image.read_bytes()))
    assert ask(guarded, "PUT", "/datastore/image?image=case_1", body, {**headers, **BEARER})[0] == 200


def test_monai_labels_own_client_gets_in_with_the_token_as_password(guarded):
    from monailabel.client import MONAILabelClient
    from monailabel.client.client import MONAILabelClientException

    client = MONAILabelClient(guarded.address)
    assert client.auth_enabled() and not client.auth_valid_token()
    with pytest.raises(MONAILabelClientException):
        client.auth_token("somebody", "a guess that is long enough")
    client.update_auth(client.auth_token("somebody", TOKEN))
    assert client.auth_valid_token() and client.info()["name"] == "FM3D"


def test_from_another_machine_nothing_is_served_without_a_token(synthetic_cases, tmp_path):
    """MONAI Label's own command would listen everywhere; the app itself then still answers this machine only."""
    import asyncio

    from MonaiLabelApp.lib.settings import ServerSettings
    from MonaiLabelApp.lib.web.gate import Gate

    async def inside(scope, receive, send):
        raise AssertionError("was let in")

    sent = []

    async def send(message):
        sent.append(message)

    for client, host in [("192.168.1.7", b"192.168.1.5:8000"), ("127.0.0.1", b"rebound.evil.example")]:
        scope = {"type": "http", "path": "/info/", "method": "GET", "headers": [(b"host", host)], "client": (client, 1)}
        asyncio.run(Gate(inside, ServerSettings())(scope, None, send))
    assert [message["status"] for message in sent if "status" in message] == [401, 403]


def test_with_a_certificate_it_speaks_https(tmp_path):
    import ssl
    import urllib.request

    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    make += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    try:
        subprocess.run(make, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("openssl, which makes the test's certificate, is not installed")
    with ServerProcess(tmp_path / "studies", tmp_path / "work", certificate=certificate, key=key) as server:
        assert server.address.startswith("https://")
        trusted = ssl.create_default_context(cafile=certificate)
        with urllib.request.urlopen(f"{server.address}/info/", context=trusted, timeout=30) as answer:
            assert json.loads(answer.read())["name"] == "FM3D"
    for settings in ({"certificate": certificate}, {"certificate": key, "key": certificate}):
        with pytest.raises(SettingsError, match="certificate"):
            ServeSettings(tmp_path, **settings)


# 2: other web pages


def test_a_page_of_another_origin_is_refused(server):
    for origin in ("http://evil.example", "null", f"https://127.0.0.1:{server.port + 1}"):
        status, detail = reason(server, "GET", "/info/", headers={"Origin": origin})
        assert (status, "--origins" in detail) == (403, True)
    assert ask(server, "GET", "/info/", headers={"Origin": server.address})[0] == 200


def test_a_page_whose_name_leads_to_this_machine_is_refused(server):
    headers = {"Host": f"rebound.evil.example:{server.port}", "Origin": f"http://rebound.evil.example:{server.port}"}
    assert reason(server, "GET", "/info/", headers=headers)[0] == 403
    assert ask(server, "GET", "/info/", headers={"Host": "localhost:8000"})[0] == 200  # through ssh -L


def test_a_listed_origin_may_ask_and_read_with_the_token(guarded):
    preflight = {"Origin": VIEWER, "Access-Control-Request-Method": "PUT"}
    preflight["Access-Control-Request-Headers"] = "authorization"
    status, _, headers = _with_headers(guarded, "OPTIONS", "/datastore/image", preflight)
    assert (status, headers["access-control-allow-origin"]) == (200, VIEWER)
    status, _, headers = _with_headers(guarded, "GET", "/info/", {"Origin": VIEWER, **BEARER})
    assert (status, headers["access-control-allow-origin"]) == (200, VIEWER)
    assert _with_headers(guarded, "GET", "/info/", {"Origin": VIEWER})[0] == 401
    status, _, headers = _with_headers(guarded, "GET", "/info/", {"Origin": "https://other.example", **BEARER})
    assert status == 403 and "access-control-allow-origin" not in headers


@pytest.mark.parametrize("origin", ["*", "viewer", "https://a.example/path", "javascript:1"])
def test_an_origin_that_is_none_is_refused_at_the_start(tmp_path, origin):
    with pytest.raises(SettingsError, match="is no origin"):
        ServeSettings(tmp_path, origins=(origin,))


# 3, 4: names that leave the folder: also test_app_server.py


@pytest.mark.parametrize("name", ["../../x", "/etc/passwd", "..", "a\0b", "x" * 300])
def test_no_address_takes_a_path(server, name):
    sent = quote(name, safe="")
    for method, path in [
        ("GET", f"/datastore/image?image={sent}"),
        ("HEAD", f"/datastore/image?image={sent}"),
        ("GET", f"/datastore/label?label={sent}&tag={sent}"),
        ("DELETE", f"/datastore/image?id={sent}"),
        ("DELETE", f"/datastore/label?id={sent}&tag={sent}"),
        ("POST", f"/activelearning/{sent}"),
    ]:
        assert ask(server, method, path)[0] in (404, 422), path


# 5, 6, 7: paths, devices, model files, configurations from a request


@pytest.mark.parametrize(
    "params",
    [
        {"image": "/etc/passwd"},
        {"device": "cuda:3"},
        {"model_filename": "/tmp/x.pt"},
        {"label": "x"},
        {"version": "../../x"},
        {"save_label": True, "label_tag": "../../final"},
        {"$import": "os"},
        [1, 2],
    ],
)
def test_an_inference_takes_known_keys_only(server, synthetic_cases, params):
    assert upload(server, "case_1", synthetic_cases[0])[0] == 200
    body = form({"params": json.dumps(params)})
    assert reason(server, "POST", "/infer/segmentation?image=case_1", *body)[0] == 422


def test_an_inference_takes_no_file_in_place_of_an_image(server, synthetic_cases):
    body = form({"params": "{}"}, ("file", "x.nii.gz", synthetic_cases[0].image.read_bytes()))
    status, detail = reason(server, "POST", "/infer/segmentation", *body)
    assert (status, "must be on the server" in detail) == (422, True)


@pytest.mark.parametrize(
    "key", ["bundle_path", "run_id/../x", "local_rank", "gpus", "device", "$import", "config_file"]
)
def test_a_training_takes_known_keys_only(server, key):
    assert reason(server, "POST", "/train/segmentation", json.dumps({key: "x"}).encode(), JSON)[0] == 422


# 9: what is not served at all


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/proxy/dicom/studies"),
        ("GET", "/ohif/"),
        ("PUT", "/session/"),
        ("PUT", "/model/segmentation"),
        ("GET", "/model/segmentation"),
        ("POST", "/batch/infer/segmentation"),
        ("POST", "/infer/wsi/segmentation"),
        ("GET", "/datastore/dataset"),
        ("GET", "/logs/gpu"),
        ("POST", "/reload"),
        ("GET", "//proxy/dicom/studies"),
        ("GET", "/static/../../x"),
    ],
)
def test_what_could_reach_other_hosts_or_take_programs_is_not_there(server, method, path):
    assert reason(server, method, path)[0] in (404, 422)


def test_websockets_are_closed(server):
    key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    request = f"GET /info/ HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n{key}\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(request.encode())
        assert b" 101 " not in connection.recv(200)


# 10: no patient in a log


def test_names_of_files_are_in_no_log(server, synthetic_cases, tmp_path):
    case = synthetic_cases[0]
    assert upload(server, "case_9", case, name=f"/home/me/{PATIENT}.nii.gz")[0] == 200
    info = json.dumps({"label_info": [{"name": "ellipsoid", "idx": 1, "patient": PATIENT}, {"name": "tube", "idx": 2}]})
    label = ("label", f"{PATIENT}.nii.gz", case.label.read_bytes())
    assert ask(server, "PUT", "/datastore/label?image=case_9", *form({"params": info}, label))[0] == 200
    assert (
        ask(server, "PUT", "/datastore/label?image=case_9", *form({"params": "{}"}, ("label", PATIENT, b"x")))[0] == 422
    )
    infer(server, "segmentation", "case_9", version="untrained")
    get(server, "/activelearning/first", "POST", {})
    written = list(server.workspace.rglob("*.log"))
    assert written and not [path for path in written if PATIENT in path.read_text()]
    assert PATIENT not in (server.studies / "datastore_v2.json").read_text()


def test_the_log_is_read_as_bounded_text_and_holds_no_token(guarded):
    status, text = ask(guarded, "GET", "/logs/?lines=5", headers=BEARER)
    assert status == 200 and len(text.splitlines()) <= 5
    assert reason(guarded, "GET", "/logs/?lines=1000000", headers=BEARER)[0] == 422
    for path in guarded.workspace.rglob("*"):
        assert not path.is_file() or TOKEN.encode() not in path.read_bytes(), path


# 11: how much may come


def test_a_body_that_says_it_is_too_large_is_refused_before_it_is_sent(server):
    connection = http.client.HTTPConnection(urlsplit(server.address).netloc, timeout=10)
    connection.putrequest("PUT", "/datastore/image?image=big")
    connection.putheader("Content-Type", "multipart/form-data; boundary=X")
    connection.putheader("Content-Length", str(5 << 30))
    connection.endheaders()
    answer = connection.getresponse()
    assert answer.status == 413 and "--upload-limit" in json.loads(answer.read())["detail"]
    connection.close()


def test_a_body_without_a_length_is_cut_off_at_the_limit(server):
    body = form({"params": "{}"}, ("file", "x.nii.gz", bytes(6 << 20)))[0]
    pieces = (body[start : start + 65536] for start in range(0, len(body), 65536))
    connection = http.client.HTTPConnection(urlsplit(server.address).netloc, timeout=20)
    headers = {"Content-Type": "multipart/form-data; boundary=X", "Transfer-Encoding": "chunked"}
    try:
        connection.request("PUT", "/datastore/image?image=big", pieces, headers, encode_chunked=True)
        assert connection.getresponse().status == 413
    except (BrokenPipeError, ConnectionResetError):
        pass  # it has closed the line while we were still sending
    finally:
        connection.close()
    assert "big" not in get(server, "/datastore/?output=all")["objects"]


def test_a_request_without_files_may_be_a_megabyte(server):
    body = json.dumps({"labels": ["x" * 200] * 10_000}).encode()
    assert reason(server, "POST", "/train/segmentation", body, JSON)[0] == 413


def test_what_is_known_of_an_image_cannot_grow_without_end_or_be_forged(server, synthetic_cases):
    assert upload(server, "case_1", synthetic_cases[0])[0] == 200
    for info, word in [
        ({"a": "x" * 20_000}, "longer"),
        ({"scores": {}}, "kept by the server"),
        ([1], "no JSON object"),
    ]:
        body = form({"info": json.dumps(info)})
        status, detail = reason(server, "PUT", "/datastore/image/info?image=case_1", *body)
        assert (status, word in detail) == (422, True)
    assert ask(server, "PUT", "/datastore/image/info?image=case_1", *form({"info": '{"note": "blurred"}'}))[0] == 200
    assert get(server, "/datastore/image/info?image=case_1")["note"] == "blurred"


# 12: the index: test_app_datastore.py


# reasons reach the client, and the loop goes on


def test_a_fault_of_the_servers_own_is_said_without_its_inside(server, synthetic_cases):
    assert upload(server, "case_f", synthetic_cases[0])[0] == 200
    file = server.studies / "case_f.nii.gz"
    file.chmod(0o000)
    file.unlink()
    file.mkdir()
    try:
        status, detail = reason(server, "POST", "/infer/segmentation?image=case_f", *form({"params": "{}"}))
        assert status == 404 and str(server.studies) not in detail
    finally:
        file.rmdir()


def test_the_server_with_a_host_is_started_by_its_command(tmp_path):
    command = [sys.executable, "-c", "from fm3d_core.cli.main import main; main()", "serve", str(tmp_path)]
    done = subprocess.run([*command, "--host", "0.0.0.0"], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "--token-file" in done.stderr and "Traceback" not in done.stderr


def _with_headers(server, method, path, headers):
    connection = http.client.HTTPConnection(urlsplit(server.address).netloc, timeout=60)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    try:
        return answer.status, answer.read(), {name.lower(): value for name, value in answer.getheaders()}
    finally:
        connection.close()
