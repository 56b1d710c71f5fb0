"""Talking to a real server over HTTP, with the standard library only."""

from __future__ import annotations

import http.client
import json
import time
from email import message_from_bytes
from urllib.parse import quote, urlsplit

JSON = {"Content-Type": "application/json"}
NAMED = [{"name": "ellipsoid", "idx": 1}, {"name": "tube", "idx": 2}]


def ask(server, method, path, body=b"", headers=None, timeout=60):
    """Status and body of one request; the path is sent as it is."""
    connection = http.client.HTTPConnection(urlsplit(server.address).netloc, timeout=timeout)
    try:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def reason(server, method, path, body=b"", headers=None):
    """Status and the words of a refusal."""
    status, content = ask(server, method, path, body, headers)
    return status, json.loads(content)["detail"]


def get(server, path, method="GET", value=None):
    """The JSON of an answer that must be 200."""
    body, headers = (json.dumps(value).encode(), JSON) if value is not None else (b"", None)
    status, content = ask(server, method, path, body, headers)
    assert status == 200, (status, content)
    return json.loads(content)


def form(fields, file=None):
    """A multipart body: text fields and at most one (field, file name, content)."""
    parts = [f'--X\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{text}\r\n' for name, text in fields.items()]
    body = "".join(parts).encode()
    if file:
        field, name, content = file
        body += f'--X\r\nContent-Disposition: form-data; name="{field}"; filename="{name}"\r\n\r\n'.encode()
        body += content + b"\r\n"
    return body + b"--X--\r\n", {"Content-Type": "multipart/form-data; boundary=X"}


def upload(server, image_id, case, name=None):
    """PUT an image."""
    body = form({"params": "{}"}, ("file", name or case.image.name, case.image.read_bytes()))
    return ask(server, "PUT", f"/datastore/image?image={quote(image_id, safe='')}", *body)


def submit(server, case, image_id=None):
    """Upload an image and its label."""
    image_id = image_id or case.name
    assert upload(server, image_id, case)[0] == 200
    label = ("label", "label.nii.gz", case.label.read_bytes())
    fields = form({"params": json.dumps({"label_info": NAMED})}, label)
    status, content = ask(server, "PUT", f"/datastore/label?image={image_id}", *fields)
    assert status == 200, content


def infer(server, model, image_id, file=None, query="", **params):
    """Status, the answer's parameters (or the refusal), and the file's content."""
    body = form({"params": json.dumps(params)}, file)
    status, answer, headers = _whole(server, "POST", f"/infer/{model}?image={image_id}{query}", *body)
    if status != 200:
        return status, json.loads(answer)["detail"], None
    if not headers.startswith("multipart/"):
        return status, json.loads(answer), None
    message = message_from_bytes(f"Content-Type: {headers}\r\n\r\n".encode() + answer)
    parts = {part.get_param("name", header="content-disposition"): part for part in message.get_payload()}
    return status, json.loads(parts["params"].get_payload(decode=True)), parts["image"].get_payload(decode=True)


def stats(server):
    """Where the training stands."""
    return get(server, "/info/")["train_stats"]["segmentation"]


def train(server, seconds=120.0, **params):
    """Train and wait for the end; the last figures."""
    task = get(server, "/train/segmentation", "POST", params)
    return wait_for(server, task["run_id"], seconds)


def wait_for(server, run_id, seconds=120.0):
    """Wait until a training has ended; the last figures."""
    deadline = time.monotonic() + seconds
    while True:
        now = get(server, f"/train/?id={run_id}")["stats"]
        if now["state"] not in ("waiting", "running"):
            return now
        assert time.monotonic() < deadline, now
        time.sleep(0.2)


def wait_for_job(server, job_id, seconds=120.0):
    """Wait until a background job has ended; its last state."""
    deadline = time.monotonic() + seconds
    while (job := get(server, f"/jobs/{job_id}"))["state"] in ("waiting", "running"):
        assert time.monotonic() < deadline, job
        time.sleep(0.2)
    return job


def _whole(server, method, path, body, headers):
    connection = http.client.HTTPConnection(urlsplit(server.address).netloc, timeout=120)
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read(), answer.getheader("Content-Type", "")
    finally:
        connection.close()
