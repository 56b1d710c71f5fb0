"""Jobs: their news arrives on the GUI thread, whatever happens in theirs."""

from __future__ import annotations

import sys
import threading
import time

import pytest
from slicer_env import process_events_until
from SlicerFM3DLib.background import Job
from SlicerFM3DLib.cancellation import Cancellation
from SlicerFM3DLib.errors import Cancelled
from SlicerFM3DLib.signal import Signal


def run(work, seconds: float = 5.0) -> list[tuple]:
    """Start a job; its signals in the order of their arrival, each with the thread it arrived on."""
    news: list[tuple] = []
    job = Job(work)
    for name in ("progressed", "finished", "failed", "cancelled"):
        getattr(job, name).connect(lambda *values, name=name: news.append((name, *values, threading.current_thread())))
    job.start()
    assert process_events_until(lambda: not job.isRunning, seconds)
    assert all(item[-1] is threading.main_thread() for item in news)
    return [item[:-1] for item in news]


def test_progress_and_result_arrive_in_order():
    def work(cancellation, report):
        assert threading.current_thread() is not threading.main_thread()
        for step in range(3):
            report(step)
        return "done"

    assert run(work) == [("progressed", 0), ("progressed", 1), ("progressed", 2), ("finished", "done")]


def test_an_exception_of_the_work_is_handed_over():
    def work(cancellation, report):
        raise ValueError("no luck")

    [(name, error)] = run(work)
    assert name == "failed" and isinstance(error, ValueError) and "no luck" in str(error)


def test_cancelling_ends_the_work_and_nothing_else_is_said():
    started = threading.Event()

    def work(cancellation, report):
        started.set()
        cancellation.wait(10)
        cancellation.check()

    news = []
    job = Job(work)
    job.cancelled.connect(lambda: news.append("cancelled"))
    job.finished.connect(news.append)
    job.failed.connect(news.append)
    job.start()
    assert started.wait(5)
    begin = time.monotonic()
    job.cancel()
    assert process_events_until(lambda: news, 5)
    assert news == ["cancelled"] and time.monotonic() - begin < 1


def test_an_abandoned_job_says_nothing_any_more():
    news = []
    job = Job(lambda cancellation, report: report("late"))
    job.progressed.connect(news.append)
    job.finished.connect(news.append)
    job.start()
    job.abandon()
    assert not process_events_until(lambda: news, 0.2) and not job.isRunning


def test_the_work_gets_on_although_the_window_holds_pythons_lock():
    """PythonQt keeps the lock while Slicer's event loop runs; only the pump's wait lets the thread work."""
    steps = []

    def work(cancellation, report):
        while not cancellation.requested:
            steps.append(1)
            time.sleep(0.0001)  # lets go of the lock, as reading from a socket does

    job = Job(work)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(100)  # Python itself takes the lock from nobody now
    try:
        job._thread.start()
        steps.clear()
        for _pump in range(10):
            spin_until = time.monotonic() + 0.01
            while time.monotonic() < spin_until:
                pass
            job._pump()
    finally:
        sys.setswitchinterval(interval)
        job.abandon()
    assert len(steps) > 50, "a callback that returns at once would give one step each"


def test_a_cancellation_wakes_up_whoever_waits_elsewhere():
    cancellation, woken = Cancellation(), []
    with cancellation.interrupting(lambda: woken.append("up")):
        cancellation.request()
    assert woken == ["up"] and cancellation.requested
    with pytest.raises(Cancelled), cancellation.interrupting(lambda: woken.append("again")):
        pytest.fail("a block must not begin when cancelled before")
    assert woken == ["up"]


def test_a_signal_calls_each_slot_once_until_disconnected():
    signal, heard = Signal(), []
    signal.connect(heard.append)
    signal.connect(heard.append)
    signal.emit(1)
    signal.disconnect(heard.append)
    signal.emit(2)
    assert heard == [1]
