"""Follows a training on the server from its start to its end."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from .cancellation import Cancellation
from .client import MODEL, ServerClient
from .errors import ClientError, ConnectionLost, ServerTimeout, ServerUnreachable
from .train_status import TrainStatus
from .translation import tr as _

POLL_SECONDS = 1.0
PATIENCE_SECONDS = 60.0  # how long a training may be out of sight, or refuse to stop


def followTraining(
    client: ServerClient,
    settings: Mapping[str, Any] | None,
    cancellation: Cancellation,
    report: Callable[[TrainStatus], None],
    again: str = "",
) -> TrainStatus:
    """Start a training (unless ``settings`` is None: then one runs already), report on it until it has ended.

    The server may stop answering for a while when it segments: the training does not suffer from that. A stop
    requested while the training still waits for its process has no effect on the server, so it is repeated.

    :param again: id of a training that was interrupted, to be started once more instead.
    :return: the last status.
    :raises ClientError: if it cannot be started, or the server stays away.
    """
    stale = training = ""
    if settings is not None or again:
        stale = client.trainStatus().runId
        task = (client.trainAgain(again) if again else client.train(MODEL, settings)) or {}
        training = str(task["id"]) if task.get("run_id") else ""  # FM3D's own server can tell them apart
    seen = time.monotonic()
    while True:
        try:
            if cancellation.requested:
                client.stopTraining(training)
            status = client.trainStatus(staleRun=stale, training=training)
            report(status)
            if not status.isActive:
                return status
            if not cancellation.requested:
                seen = time.monotonic()
        except (ServerTimeout, ServerUnreachable, ConnectionLost):
            if time.monotonic() - seen > PATIENCE_SECONDS:
                raise
        if cancellation.requested and time.monotonic() - seen > PATIENCE_SECONDS:
            raise ClientError(_("The training does not stop. Restart the server to end it."))
        if cancellation.wait(POLL_SECONDS):
            time.sleep(POLL_SECONDS / 4)  # the wait returns at once from then on
