"""The other end of the line: a small HTTP server in a thread that answers as MONAI Label 0.8.4 was seen to answer.

It is no FM3D server. It stands in where a test needs what a healthy server never does (silence, a broken answer), or
an answer at a chosen moment. The whole loop against the real server is in ``tests/end_to_end``.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit


@dataclass
class Request:
    """What the client sent."""

    method: str
    path: str
    query: dict[str, str]
    body: bytes
    fields: dict[str, bytes] = field(default_factory=dict)
    fileNames: dict[str, str] = field(default_factory=dict)


@dataclass
class Reply:
    """What to answer, and how badly."""

    body: bytes
    status: int = 200
    contentType: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)
    silence: float = 0.0  # seconds before the first byte
    pause: float = 0.0  # seconds in the middle of the body
    cutAfter: int | None = None  # bytes of the body after which the connection breaks


def jsonReply(value: Any, **how: Any) -> Reply:
    return Reply(json.dumps(value).encode(), **how)


class MonaiLabelPeer:
    """Use as ``with MonaiLabelPeer() as peer``; ``peer.address`` is where it listens."""

    def __init__(self, labels: tuple[str, ...] = ("anterior", "posterior"), trainingSeconds: float = 1.0) -> None:
        self.images: dict[str, tuple[str, bytes]] = {}  # id: (suffix, content)
        self.labels: dict[str, tuple[dict[str, Any], bytes]] = {}  # image id: (params, content)
        self.labelNames, self.trainingSeconds = labels, trainingSeconds
        self.segment: Callable[[str, dict[str, Any]], tuple[str, bytes]] | None = None
        # Models beside "segmentation": what they make of an image's id, the parameters and a label that came along.
        self.answers: dict[str, Callable[[str, dict[str, Any], bytes], tuple[str, bytes]]] = {}
        self.answering: dict[str, dict[str, Any]] = {}  # versions about whole volumes: what each says
        self.answerParams: dict[str, Any] = {}  # added to the parameters of each answer
        self.token = ""  # asked for with each request, if there is one
        self.requests: list[Request] = []
        self.overrides: dict[str, Callable[[Request], Reply] | Reply] = {}
        self.trainings: list[dict[str, Any]] = []
        self.trainingConfig: dict[str, Any] = {"method": ["lora", "full"], "seconds": 90}
        self.versions: list[dict[str, Any]] | None = None  # as in GET /adapters/; None: the server keeps none
        self.jobs: dict[str, list[dict[str, Any]]] = {}  # the answers of GET /jobs/ID, one after the other
        self.cancelledJobs: list[str] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._released = threading.Event()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> MonaiLabelPeer:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._released.set()
        self._server.shutdown()
        self._server.server_close()

    def sent(self, method: str, path: str) -> list[Request]:
        return [r for r in self.requests if (r.method, r.path) == (method, path)]

    # -- answers, named by the route

    def _info(self, request: Request) -> Reply:
        return jsonReply(
            {
                "name": "FM3D",
                "version": "0.1.0",
                "labels": list(self.labelNames),
                "models": {"segmentation": {"labels": list(self.labelNames), "config": {"version": self._versions()}}}
                | {name: {} for name in self.answers}
                | ({"whole_volume": {"config": {"version": ["active", *self.answering]}}} if self.answering else {}),
                "trainers": {"segmentation": {"config": self.trainingConfig}},
                "strategies": {"first": {}, "random": {}},
                "train_stats": {"segmentation": self._stats()},
                "datastore": {"total": len(self.images), "completed": len(self.labels), "label_tags": {}},
            }
        )

    def _versions(self) -> list[str]:
        done = sum(1 for t in self.trainings if self._state(t) == "DONE")
        return ["active", "untrained", *(str(n + 1) for n in range(done))]

    def _next(self, request: Request) -> Reply:
        open_ = [i for i in self.images if i not in self.labels]
        return jsonReply({"id": open_[0], "weight": 1} if open_ else {})

    def _listing(self, request: Request) -> Reply:
        objects: dict[str, Any] = {i: {"image": {}, "labels": {}} for i in self.images}
        for i in self.labels:
            objects.setdefault(i, {"image": {}, "labels": {}})["labels"]["final"] = {}
        return jsonReply({"name": "x", "objects": objects})

    def _put_image(self, request: Request) -> Reply:
        name = request.fileNames["file"]
        self.images[request.query["image"]] = (name[name.index(".") :], request.fields["file"])
        return jsonReply({"image": request.query["image"]})

    def _get_image(self, request: Request) -> Reply:
        suffix, content = self.images[request.query["image"]]
        disposition = f'attachment; filename="{request.query["image"]}{suffix}"'
        return Reply(content, 200, "application/octet-stream", {"Content-Disposition": disposition})

    def _put_label(self, request: Request) -> Reply:
        self.labels[request.query["image"]] = (json.loads(request.fields["params"]), request.fields["label"])
        return jsonReply({"image": request.query["image"], "label": request.query["image"]})

    def _get_label(self, request: Request) -> Reply:
        _params, content = self.labels[request.query["label"]]
        headers = {"Content-Disposition": 'attachment; filename="label.nrrd"'}
        return Reply(content, 200, "application/octet-stream", headers)

    def _label_info(self, request: Request) -> Reply:
        return jsonReply(self.labels[request.query["label"]][0])

    def _adapters(self, request: Request) -> Reply:
        active = next((v["version"] for v in self.versions or () if v["active"]), None)
        return jsonReply({"active": active, "versions": self.versions})

    def _activate(self, number: int) -> Reply:
        for version in self.versions or ():
            version["active"] = version["version"] == number
        return jsonReply({"version": number, "active": True})

    def _job(self, request: Request) -> Reply:
        name = request.path.rpartition("/")[2]
        if request.method == "DELETE":
            self.cancelledJobs.append(name)
            return jsonReply({"state": "cancelled"})
        answers = self.jobs[name]
        return jsonReply(answers.pop(0) if len(answers) > 1 else answers[0])

    def _infer(self, request: Request) -> Reply:
        params = json.loads(request.fields["params"])
        model = request.path.rpartition("/")[2]
        if model in self.answers:
            suffix, content = self.answers[model](request.query["image"], params, request.fields.get("label", b""))
        else:
            assert self.segment is not None
            suffix, content = self.segment(request.query["image"], params)
        told = {"label_names": self.labelNames, **self.answerParams}
        boundary = b"peer-boundary"
        body = b"--" + boundary + b'\r\nContent-Disposition: form-data; name="params"\r\n'
        body += b"Content-Type: application/json\r\n\r\n" + json.dumps(told).encode()
        body += (
            b"\r\n--" + boundary + b'\r\nContent-Disposition: form-data; name="image"; filename="tmp' + suffix.encode()
        )
        body += b'"\r\nContent-Type: application/octet-stream\r\n\r\n' + content + b"\r\n--" + boundary + b"--\r\n"
        return Reply(body, 200, "multipart/form-data; boundary=peer-boundary")

    def _about(self, request: Request) -> Reply:
        return jsonReply(self.answering[json.loads(request.fields["params"])["version"]])

    def _train(self, request: Request) -> Reply:
        if self.trainings and self._state(self.trainings[-1]) in ("SUBMITTED", "RUNNING"):
            return jsonReply({"detail": "++++++++++ Train Task is Already Running"}, status=429)
        self.trainings.append({"started": time.monotonic(), "params": json.loads(request.body), "stopped": False})
        return jsonReply({"id": "task", "status": "SUBMITTED"})

    def _train_status(self, request: Request) -> Reply:
        if not self.trainings:
            return jsonReply({"detail": "No Train Tasks Found"}, status=404)
        state = self._state(self.trainings[-1])
        task: dict[str, Any] = {"id": "task", "status": state}
        if state == "ERROR":
            task["details"] = ["starting", f"fm3d_core.errors.CaseError: {self.trainings[-1]['error']}"]
        return jsonReply(task)

    def _stop(self, request: Request) -> Reply:
        if self.trainings and self._state(self.trainings[-1]) == "RUNNING":
            self.trainings[-1]["stopped"] = True
        return jsonReply(None)

    def _state(self, training: dict[str, Any]) -> str:
        share = (time.monotonic() - training["started"]) / self.trainingSeconds
        if training["stopped"]:
            return "STOPPED"
        if share < 0.2:
            return "SUBMITTED"
        if "error" in training:
            return "ERROR"
        return "RUNNING" if share < 1 else "DONE"

    def _stats(self) -> dict[str, Any]:
        """The figures of the last run that wrote any: those of the run before while the newest is only submitted."""
        for number in range(len(self.trainings), 0, -1):
            training = self.trainings[number - 1]
            share = min(1.0, (time.monotonic() - training["started"]) / self.trainingSeconds)
            if share >= 0.2 and "error" not in training:
                step = int(share * 50)
                stats: dict[str, Any] = {"stage": "training", "step": step, "total": 50, "loss": 1 - share / 2}
                stats |= {"metrics": {"dice": share * 0.8}, "elapsed": share, "eta": (1 - share) * 75}
                stats |= {"run_id": f"run-{number}"}
                return stats | ({"version": number} if share == 1.0 else {})
        return {}

    # -- plumbing

    def _answer(self, request: Request) -> Reply:
        self.requests.append(request)
        override = self.overrides.get(f"{request.method} {request.path}")
        if override:
            return override(request) if callable(override) else override
        routes = {
            "GET /info/": self._info,
            "GET /datastore/": self._listing,
            "GET /datastore/image": self._get_image,
            "PUT /datastore/image": self._put_image,
            "PUT /datastore/label": self._put_label,
            "POST /activelearning/random": self._next,
            "POST /infer/segmentation": self._infer,
            "POST /infer/whole_volume": self._about,
            "POST /train/segmentation": self._train,
            "GET /train/": self._train_status,
            "DELETE /train/": self._stop,
            **{f"POST /infer/{name}": self._infer for name in self.answers},
            "GET /datastore/label": self._get_label,
            "GET /datastore/label/info": self._label_info,
        }
        if self.versions is not None:
            before = [v["version"] for v in self.versions if not v["active"]]
            routes |= {
                "GET /adapters/": self._adapters,
                "POST /adapters/roll-back": lambda r: self._activate(before[0]),
                "POST /adapters/compare": lambda r: jsonReply({"job": "compare"}),
                "GET /jobs/compare": self._job,
                "DELETE /jobs/compare": self._job,
            }
            for v in self.versions:
                routes[f"POST /adapters/{v['version']}/activate"] = lambda r, n=v["version"]: self._activate(n)
        route = routes.get(f"{request.method} {request.path}")
        return route(request) if route else jsonReply({"detail": "Not Found"}, status=404)

    def _handler(peer) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *arguments: Any) -> None:
                pass

            def _serve(self) -> None:
                url = urlsplit(self.path)
                query = {k: v[0] for k, v in parse_qs(url.query).items()}
                request = Request(self.command, unquote(url.path), query, b"")
                override = peer.overrides.get(f"{self.command} {url.path}")
                if peer.token and self.headers.get("Authorization") != f"Bearer {peer.token}":
                    self._send(jsonReply({"detail": "Who is there?"}, status=401))
                    return
                if not (isinstance(override, Reply) and override.status == 413):  # 413: refused without reading
                    request.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                    _parseForm(request, self.headers.get("Content-Type", ""))
                self._send(peer._answer(request))

            def _send(self, reply: Reply) -> None:
                if reply.silence and peer._released.wait(reply.silence):
                    return
                self.send_response(reply.status)
                self.send_header("Content-Type", reply.contentType)
                self.send_header("Content-Length", str(len(reply.body)))
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                half = len(reply.body) // 2
                self.wfile.write(reply.body[:half][: reply.cutAfter])
                if reply.cutAfter is None:
                    peer._released.wait(reply.pause)
                    self.wfile.write(reply.body[half:])
                if reply.cutAfter is not None or reply.status == 413:
                    self.close_connection = True

            do_GET = do_PUT = do_POST = do_DELETE = _serve

        return Handler


def _parseForm(request: Request, contentType: str) -> None:
    if "boundary=" not in contentType:
        return
    boundary = contentType.partition("boundary=")[2].encode()
    for part in request.body.split(b"--" + boundary)[1:-1]:
        head, _, content = part.partition(b"\r\n\r\n")
        text = head.decode()
        name = text.partition('name="')[2].partition('"')[0]
        request.fields[name] = content.removesuffix(b"\r\n")
        if 'filename="' in text:
            request.fileNames[name] = text.partition('filename="')[2].partition('"')[0]
