"""A MONAI Label server with FM3D's app in a process of its own: start, wait until it answers, stop in order."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from fm3d_core.cli.server_log import logging_settings, telling_line
from fm3d_core.errors import ServerError, SettingsError
from fm3d_core.files import atomic_file, storage_error
from fm3d_core.progress import ProgressCallback, StageClock, ignore_progress

LOOPBACK = "127.0.0.1"


class ServerProcess:
    """A running server, as a context manager.

    Args:
        studies: the folder of images; created if absent. Labels are kept below it, as MONAI Label does. Or the address
            of a DICOMweb archive; copies and labels are then kept in the workspace.
        workspace: the server's own folder: app copy, adapters, sessions and log. Nothing is written elsewhere.
        labels: names of the structures; empty: those of the active adapter or of the submitted labels.
        host: where to listen.
        port: 0 chooses a free one.
        adapters: folder of the adapter store; default ``workspace/adapters``.
        token_file: file whose first line every client must send; None: none, and only this machine is served.
        origins: web pages, as SCHEME://HOST[:PORT], whose requests are taken.
        upload_mb: largest body of a request; None: the app's default.
        training_mb: most memory of a training; None: four fifths of what is free when it starts.
        certificate, key: files (PEM) with which the server speaks HTTPS; None: HTTP.
        start_seconds: how long to wait for the first answer.
        progress: told once in a while that the server is starting.

    Attributes:
        address: ``http[s]://HOST:PORT``, valid once started; of all addresses (0.0.0.0, ::) that of this machine.
        log: what the process wrote, warnings and worse; everything is in ``workspace/app/logs/app.log``.
        start_took: seconds from start to the first answer.

    Raises:
        SettingsError: a structure's name cannot be handed to the server.
    """

    def __init__(
        self,
        studies: str | Path,
        workspace: str | Path,
        *,
        labels: Sequence[str] = (),
        host: str = LOOPBACK,
        port: int = 0,
        adapters: str | Path | None = None,
        token_file: str | Path | None = None,
        origins: Sequence[str] = (),
        upload_mb: int | None = None,
        training_mb: int | None = None,
        certificate: str | Path | None = None,
        key: str | Path | None = None,
        start_seconds: float = 180.0,
        progress: ProgressCallback = ignore_progress,
    ) -> None:
        check_label_names(labels)
        self.workspace = Path(workspace).resolve()
        self.studies = str(studies) if is_web_address(str(studies)) else Path(studies).resolve()
        self.labels, self.host, self.port = tuple(labels), host, port
        self.adapters = Path(adapters).resolve() if adapters is not None else self.workspace / "adapters"
        self.token_file = Path(token_file).resolve() if token_file is not None else None
        self.origins, self.upload_mb, self.training_mb = tuple(origins), upload_mb, training_mb
        self.tls = (Path(certificate).resolve(), Path(key).resolve()) if certificate and key else None
        self.log = self.workspace / "server.log"
        self.start_took = 0.0
        self._start_seconds, self._progress = start_seconds, progress
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """Where clients find the server."""
        host = {"0.0.0.0": LOOPBACK, "::": "::1"}.get(self.host, self.host)
        return f"http{'s' if self.tls else ''}://{f'[{host}]' if ':' in host else host}:{self.port}"

    @property
    def pid(self) -> int | None:
        """The process id, None while not started."""
        return self._process.pid if self._process else None

    def __enter__(self) -> ServerProcess:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        self.stop()

    def start(self) -> None:
        """Start the process and wait until it answers.

        Raises:
            ServerError: MONAI Label is not installed, the port is taken, the process ended early or never answered.
            StorageError: the workspace, the adapters' or the studies folder cannot be written.
        """
        if importlib.util.find_spec("monailabel") is None:
            raise ServerError("MONAI Label is not installed", remedy='Run: pip install "fm3d[server]"')
        self.port = _usable_port(self.host, self.port)
        self._write_workspace()
        started = time.monotonic()
        with self.log.open("wb") as log:
            # In a session of its own, so that Ctrl-C reaches only the parent, which then stops the server in order.
            self._process = subprocess.Popen(
                self._command(),
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                cwd=self.workspace,
                env=self._environment(),
                start_new_session=True,
            )
        try:
            self._wait_for_answer()
        except BaseException:
            self.stop()
            raise
        self.start_took = time.monotonic() - started

    def wait(self) -> None:
        """Block until the process ends by itself.

        Raises:
            ServerError: it ended, with the last telling line of its log.
        """
        if self._process is not None and self._process.wait() != 0:
            raise self._ended()

    def stop(self, patience: float = 20.0) -> None:
        """End the process and its children (a training): ask, wait ``patience`` seconds, then kill. Idempotent."""
        import psutil

        if self._process is None:
            return
        tree: list[psutil.Process] = []
        with contextlib.suppress(psutil.NoSuchProcess):
            server = psutil.Process(self._process.pid)
            tree = [*server.children(recursive=True), server]
        for process in tree:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.terminate()
        _, alive = psutil.wait_procs(tree, timeout=patience)
        for process in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait()
        self._process = None

    def _command(self) -> list[str]:
        configuration = {
            "labels": ",".join(self.labels),
            "adapters": str(self.adapters),
            "token_file": str(self.token_file or ""),
            "origins": ",".join(self.origins),
            "upload_mb": str(self.upload_mb or ""),
            "training_mb": str(self.training_mb or ""),
        }
        arguments = {
            "--app": self.workspace / "app",
            "--studies": self.studies,
            "--host": self.host,
            "--port": self.port,
            "--log_config": self.workspace / "logging.json",
        }
        if self.tls:
            arguments |= {"--ssl_certfile": self.tls[0], "--ssl_keyfile": self.tls[1]}
        command = [sys.executable, "-m", "monailabel.main", "start_server"]
        command += [str(part) for pair in arguments.items() for part in pair]
        return command + [part for pair in configuration.items() if pair[1] for part in ("--conf", *pair)]

    def _environment(self) -> dict[str, str]:
        return {
            "OMP_WAIT_POLICY": "PASSIVE",  # server and training share the processor; threads that wait must not spin
            **os.environ,
            "MONAI_LABEL_AUTO_UPDATE_SCORING": "false",  # each scoring would start a 700 MB process
            "MONAI_LABEL_TRACKING_ENABLED": "false",  # MLflow 3.17 refuses the file store MONAI gives it
            "MONAI_LABEL_SESSION_PATH": str(self.workspace / "sessions"),
            "MLFLOW_ENABLE_TELEMETRY": "false",
            "DO_NOT_TRACK": "1",
            "PYTHONUNBUFFERED": "1",
        }

    def _write_workspace(self) -> None:
        """A copy of the app's main.py, because MONAI Label writes model, lib, logs and bin beside it."""
        package = importlib.util.find_spec("MonaiLabelApp")
        if package is None or package.origin is None:
            raise ServerError("the package MonaiLabelApp is missing", remedy='Reinstall: pip install "fm3d[server]"')
        app = self.workspace / "app"
        try:
            local = [self.studies] if isinstance(self.studies, Path) else []
            for folder in (app / "logs", self.adapters, *local):
                folder.mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryFile(dir=folder) as probe:  # better now than after a training of an hour
                    probe.write(bytes(4096))
        except OSError as error:
            raise storage_error(folder, error) from error
        with atomic_file(app / "main.py") as temporary:
            shutil.copyfile(Path(package.origin).with_name("main.py"), temporary)
        with atomic_file(self.workspace / "logging.json") as temporary:
            temporary.write_text(json.dumps(logging_settings(app / "logs" / "app.log"), indent=2))

    def _wait_for_answer(self) -> None:
        assert self._process is not None
        clock = StageClock("starting the server", 0, self._progress)
        while clock.elapsed < self._start_seconds:
            clock.report(0)
            if self._process.poll() is not None:
                raise self._ended()
            if _answers(f"{self.address}/auth/"):
                return
            time.sleep(0.2)
        raise ServerError(
            f"did not answer within {self._start_seconds:.0f} s", path=self.address, remedy=f"See {self.log}"
        )

    def _ended(self) -> ServerError:
        return ServerError(f"the server ended: {telling_line(self.log)}", remedy=f"The whole story is in {self.log}")


def is_web_address(studies: str) -> bool:
    """Whether images are in an archive and not in a folder."""
    return studies.startswith(("http://", "https://"))


def check_label_names(labels: Sequence[str]) -> None:
    """Refuse names that cannot be handed to the server, which takes them as one option separated by commas.

    Raises:
        SettingsError: a comma, a leading hyphen, an empty name, or a name twice.
    """
    if any("," in name or not name.strip(" -") or name[0] == "-" for name in labels) or len(set(labels)) < len(labels):
        raise SettingsError(
            f"labels are {', '.join(map(repr, labels))}", remedy="Give each structure a name of its own, without commas"
        )


@contextlib.contextmanager
def terminate_as_interrupt() -> Iterator[None]:
    """Let SIGTERM end the block like Ctrl-C, so that the server it started is stopped too."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # only the main thread is told of signals
        yield
        return
    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _usable_port(host: str, port: int) -> int:
    """``port`` if it is free, or a free one for 0."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as uvicorn does: TIME_WAIT is no obstacle
        try:
            probe.bind((host, port))
        except OSError as error:
            reason = "is taken by another program" if port else f"cannot be used ({error.strerror})"
            raise ServerError(
                f"port {port} on {host} {reason}", remedy="Choose another with --port, or 0 for a free one"
            ) from error
        return int(probe.getsockname()[1])


def _answers(url: str) -> bool:
    """Whether ``url`` gives 200; never through a proxy, because the address is this machine.

    The certificate is not checked: its name is that under which others know the machine, and nothing is sent.
    """
    unchecked = ssl.create_default_context()
    unchecked.check_hostname, unchecked.verify_mode = False, ssl.CERT_NONE
    handlers = (urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=unchecked))
    opener = urllib.request.build_opener(*handlers)
    try:
        with opener.open(url, timeout=10) as answer:
            return int(answer.status) == 200
    except urllib.error.HTTPError:
        return False
    except OSError:  # refused, reset, timed out: not yet
        return False
