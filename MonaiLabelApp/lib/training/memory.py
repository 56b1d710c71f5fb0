"""A bound on what a training may take, so that the server and the rest of the computer keep theirs."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

SHARE = 0.8  # of what is free when a training starts


def free_bytes() -> int:
    """Memory that a new process can take."""
    import psutil

    return int(psutil.virtual_memory().available)


def default_bound() -> int:
    """What a training may take where nobody has said it."""
    return int(free_bytes() * SHARE)


def bind(limit: int | None) -> None:
    """Hold this process to ``limit`` bytes of data, and let the system end it, before any other, when memory runs out.

    Linux counts all private memory that can be written under RLIMIT_DATA (man 2 setrlimit, since 4.7), not the address
    space, of which CUDA reserves far more than it uses. Elsewhere there is no bound.
    """
    if not sys.platform.startswith("linux"):
        return
    import resource

    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500")
    if limit is not None:
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
