"""The client of benchmarks/loop.py, and the server that it asks."""

from __future__ import annotations

import http.client
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from email import message_from_bytes
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from fm3d_core.cli.server_process import ServerProcess
from fm3d_core.volumes import Case, read_label

JSON = {"Content-Type": "application/json"}


class Client:
    """A client of the server: one connection for each request, as MONAI Label's and Slicer's have it."""

    def __init__(self, server: ServerProcess) -> None:
        self.server = server

    def ask(
        self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> tuple[str, bytes]:
        """Content type and body of an answer that must be good."""
        connection = http.client.HTTPConnection(urlsplit(self.server.address).netloc, timeout=1800)
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            content = answer.read()
            if answer.status != 200:
                raise RuntimeError(f"{method} {path}: {answer.status} {content[:500]!r}")
            return answer.getheader("Content-Type", ""), content
        finally:
            connection.close()

    def json(self, method: str, path: str, value: Any = None) -> Any:
        """The JSON of an answer."""
        body, headers = (json.dumps(value).encode(), JSON) if value is not None else (b"", None)
        return json.loads(self.ask(method, path, body, headers)[1])

    def upload(self, case: Case) -> None:
        """Send the image of a case."""
        body, headers = form({"params": "{}"}, ("file", case.image.name, case.image.read_bytes()))
        self.ask("PUT", f"/datastore/image?image={quote(case.name)}", body, headers)

    def submit(self, case: Case, labels: tuple[str, ...]) -> None:
        """Send image and label of a case."""
        self.upload(case)
        assert case.label is not None
        info = [{"name": name, "idx": value} for value, name in enumerate(labels, start=1)]
        fields = {"params": json.dumps({"label_info": info})}
        body, headers = form(fields, ("label", case.label.name, case.label.read_bytes()))
        self.ask("PUT", f"/datastore/label?image={quote(case.name)}", body, headers)

    def infer(self, model: str, case: Case, params: dict[str, Any]) -> tuple[dict[str, Any], Any]:
        """The answer's figures, and its label map on the image's RAS grid."""
        body, headers = form({"params": json.dumps(params)})
        kind, content = self.ask("POST", f"/infer/{model}?image={quote(case.name)}", body, headers)
        message = message_from_bytes(f"Content-Type: {kind}\r\n\r\n".encode() + content)
        parts = {part.get_param("name", header="content-disposition"): part for part in message.get_payload()}  # type: ignore[union-attr]
        with tempfile.NamedTemporaryFile(suffix=".nii.gz") as file:
            file.write(parts["image"].get_payload(decode=True))  # type: ignore[arg-type]
            file.flush()
            return json.loads(parts["params"].get_payload(decode=True)), read_label(file.name).array  # type: ignore[arg-type]


@contextmanager
def served(labels: tuple[str, ...]) -> Iterator[Client]:
    """A server with an empty folder."""
    with (
        tempfile.TemporaryDirectory() as folder,
        ServerProcess(Path(folder) / "studies", Path(folder) / "work", labels=labels) as server,
    ):
        yield Client(server)


def form(fields: dict[str, str], file: tuple[str, str, bytes] | None = None) -> tuple[bytes, dict[str, str]]:
    """A multipart body and its header: text fields and at most one (field, file name, content)."""
    boundary = "----fm3d-loop"
    head = "".join(
        f'--{boundary}\r\nContent-Disposition: form-data; name="{k}"\r\n\r\n{v}\r\n' for k, v in fields.items()
    )
    body = head.encode()
    if file is not None:
        field, name, content = file
        body += f'--{boundary}\r\nContent-Disposition: form-data; name="{field}"; filename="{name}"\r\n\r\n'.encode()
        body += content + b"\r\n"
    return body + f"--{boundary}--\r\n".encode(), {"Content-Type": f"multipart/form-data; boundary={boundary}"}
