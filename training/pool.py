"""Processes that train: one torch thread each, reused from job to job, gone with their parent.

Workers are spawned, never forked (a fork of a process that has loaded torch or chDB hangs). A
worker leaves by itself when its parent dies, however it died, so that none is ever leaked; its
stderr goes to a file, the tail of which is part of the error when a training fails.
"""

from __future__ import annotations

import multiprocessing as mp
import os
import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.synchronize import Event
from pathlib import Path

from market.clock import monotonic_seconds
from training.config import TrainingJob

NICENESS = 10
"""Workers are at least this nice; a parent that already is makes them no nicer still."""
REPORT_EVERY_SECONDS = 0.25
STDERR_TAIL_CHARACTERS = 2_000
_POLL_SECONDS = 0.1
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


class TrainingFailed(Exception):
    """A training did not finish; the message names it, the cause and the workers' last words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """One training of one seed on one window, and where its artefact goes."""

    window: int
    job: TrainingJob
    out_dir: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """How far one assignment is, in transitions; ``index`` is its place in the sequence."""

    index: int
    done: int
    total: int


def default_workers() -> int:
    """Two, or one on a machine with a single core."""
    return min(2, os.cpu_count() or 1)


def train_all(
    assignments: Sequence[Assignment],
    *,
    workers: int,
    log_dir: Path,
    on_step: Callable[[Step], None],
) -> None:
    """Run every assignment; return when all artefacts are written.

    Args:
        assignments: in the order in which they are started.
        workers: processes at a time.
        log_dir: an existing directory for the workers' stderr.
        on_step: called in this thread.

    Raises:
        TrainingFailed: one of them raised or its process died; the others are stopped.
    """
    context = mp.get_context("spawn")
    steps: mp.Queue[Step] = context.Queue()
    stop = context.Event()
    with (
        _environment(_ONE_THREAD),
        ProcessPoolExecutor(
            max_workers=max(1, min(workers, len(assignments))),
            mp_context=context,
            initializer=_start_worker,
            initargs=(steps, stop, log_dir),
        ) as executor,
    ):
        futures = {
            executor.submit(_train, index, item): item for index, item in enumerate(assignments)
        }
        try:
            _watch(futures, steps, on_step, log_dir)
        except BaseException:
            stop.set()
            executor.shutdown(cancel_futures=True)
            raise
    steps.close()


def _watch(
    futures: Mapping[Future[None], Assignment],
    steps: mp.Queue[Step],
    on_step: Callable[[Step], None],
    log_dir: Path,
) -> None:
    pending = set(futures)
    while pending:
        done, pending = wait(pending, timeout=_POLL_SECONDS, return_when=FIRST_COMPLETED)
        for step in _arrived(steps):
            on_step(step)
        for future in done:
            error = future.exception()
            if error is not None:
                raise TrainingFailed(_failure(futures[future], error, log_dir)) from error


def _arrived(steps: mp.Queue[Step]) -> Iterator[Step]:
    while True:
        try:
            yield steps.get_nowait()
        except queue.Empty:
            return


def _failure(item: Assignment, error: BaseException, log_dir: Path) -> str:
    last_words = _stderr_tail(log_dir)
    said = f"; stderr ends with:\n{last_words}" if last_words else ""
    return (
        f"training of window {item.window + 1} with seed {item.job.seed} failed: "
        f"{type(error).__name__}: {error}{said}"
    )


def _stderr_tail(log_dir: Path) -> str:
    logs = sorted(log_dir.glob("worker-*.stderr"))
    text = "".join(path.read_text(errors="replace") for path in logs)
    return text.strip()[-STDERR_TAIL_CHARACTERS:]


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set variables that the workers inherit: thread pools read them when they are loaded."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


class _Reporter:
    """A worker's way to tell the parent how far it is, and to hear that it should stop."""

    steps: mp.Queue[Step]
    stop: Event

    def __init__(self, index: int) -> None:
        self._index = index
        self._next_report = 0.0

    def __call__(self, done: int, total: int) -> None:
        if self.stop.is_set():
            raise InterruptedError("stopped because another training failed")
        now = monotonic_seconds()
        if done >= total or now >= self._next_report:
            self._next_report = now + REPORT_EVERY_SECONDS
            self.steps.put(Step(index=self._index, done=done, total=total))


def _start_worker(steps: mp.Queue[Step], stop: Event, log_dir: Path) -> None:
    """Run once in every worker, before its first training."""
    _Reporter.steps, _Reporter.stop = steps, stop
    steps.cancel_join_thread()
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    with (log_dir / f"worker-{os.getpid()}.stderr").open("w") as log:
        os.dup2(log.fileno(), 2)
    os.nice(max(0, NICENESS - os.nice(0)))


def _leave_with_parent() -> None:
    parent = mp.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


def _train(index: int, item: Assignment) -> None:
    # torch is imported in the workers alone: the parent only judges.
    from training.learner import train

    shared = item.out_dir.with_name(f"window_{item.window:02d}.windows.npy")
    train(item.job, item.out_dir, _Reporter(index), windows_file=shared)
