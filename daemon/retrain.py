"""Supervises retraining: one child process at a time, its progress, its limits, its verdict.

The child trains, judges and exits (``ballast retrain``); nothing it does, and no way in which it
dies, touches trading. Promotion is a state that the loop advances at its next decision.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from daemon.journal import Event, Journal
from daemon.progress import ProgressBar
from daemon.settings import Settings
from market.clock import Clock
from market.snapshot import SnapshotCorrupt
from market.warehouse import WarehouseError
from training.registry import Registry, RunStatus

KILL_GRACE_SECONDS = 1.0
STDERR_TAIL_LINES = 12
STDERR_TAIL_BYTES = 16 * 1024
PER_MILLE = 1_000
STREAM_LIMIT_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class RunProgress:
    """Where a run stands; ``total`` is 0 where it is not known."""

    run_id: str
    trigger: str
    started_at: int
    stage: str
    done: int
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOutcome:
    """How the last run ended: a verdict on ``model_id``, or the ``error`` that ended it."""

    run_id: str
    at: int
    passed: bool
    model_id: str | None
    reasons: tuple[str, ...]
    error: str | None


class Retrainer:
    """Runs ``ballast retrain`` on request and remembers how it went."""

    def __init__(
        self,
        *,
        settings: Settings,
        clock: Clock,
        registry: Registry,
        journal: Journal,
        take_snapshot: Callable[[], Awaitable[Path]],
        command: Sequence[str] = (sys.executable, "-m", "daemon", "retrain"),
    ) -> None:
        """Keep what a run needs.

        Args:
            settings: handed to the child on its stdin.
            clock: dates the runs.
            registry: where a child that was killed is noted as failed.
            journal: told how runs end.
            take_snapshot: freezes the market history to a folder.
            command: what is run; it must speak as ``ballast retrain --supervised`` does.
        """
        self._settings = settings
        self._clock = clock
        self._registry = registry
        self._journal = journal
        self._take_snapshot = take_snapshot
        self._command = tuple(command)
        self._requests: asyncio.Queue[str] = asyncio.Queue(maxsize=1)
        self.progress: RunProgress | None = None
        self.outcome: RunOutcome | None = None
        self.outcomes: Counter[str] = Counter()
        self.awaiting_promotion: RunOutcome | None = None

    async def start(self, trigger: str) -> bool:
        """Ask for a run; ``False`` where one is in progress or already asked for."""
        if self.progress is not None or self._requests.full():
            return False
        self._requests.put_nowait(trigger)
        return True

    async def run(self) -> None:
        """Perform the requested runs one after another, until cancelled."""
        while True:
            trigger = await self._requests.get()
            await self._run_once(trigger)

    def take_promotable(self) -> RunOutcome | None:
        """Hand over a candidate that passed every hard gate, once."""
        outcome, self.awaiting_promotion = self.awaiting_promotion, None
        return outcome

    async def _run_once(self, trigger: str) -> None:
        started_at = self._clock.now()
        run_id = f"run-{started_at}"
        self._note(run_id, trigger, started_at, stage="snapshot")
        await asyncio.to_thread(self._begin, run_id, trigger)
        try:
            outcome = await self._train_and_judge(run_id, trigger, started_at)
        finally:
            self.progress = None
        self.outcome = outcome
        await asyncio.to_thread(self._finish, outcome)

    async def _train_and_judge(self, run_id: str, trigger: str, started_at: int) -> RunOutcome:
        try:
            snapshot = await self._take_snapshot()
            async with asyncio.timeout(self._settings.training.time_limit_seconds):
                return await self._run_child(run_id, trigger, started_at, snapshot)
        except TimeoutError:
            limit = self._settings.training.time_limit_seconds
            return self._failed(run_id, f"stopped after training.time_limit_seconds = {limit:g}")
        except OSError as error:
            return self._failed(run_id, f"could not be started: {error}")
        except (ValueError, KeyError, TypeError, WarehouseError, SnapshotCorrupt) as error:
            # A child cut off in mid-line, or a snapshot that could not be taken.
            return self._failed(run_id, f"{type(error).__name__}: {error}")

    async def _run_child(
        self, run_id: str, trigger: str, started_at: int, snapshot: Path
    ) -> RunOutcome:
        process = await asyncio.create_subprocess_exec(
            *(*self._command, "--supervised"),
            *("--snapshot", str(snapshot), "--run-id", run_id),
            *("--trigger", trigger, "--at", str(started_at)),
            stdin=asyncio.subprocess.PIPE,  # the child ends when this pipe closes
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=STREAM_LIMIT_BYTES,
            start_new_session=True,  # one group to signal: the child and its workers
        )
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        errors = asyncio.create_task(_tail(process.stderr))
        try:
            process.stdin.write(self._settings.model_dump_json().encode() + b"\n")
            await process.stdin.drain()
            verdict = await self._follow(process.stdout, run_id, trigger, started_at)
            code = await process.wait()
        except ConnectionError:
            verdict, code = None, await process.wait()
        finally:
            await _end_group(process)
            tail = await errors
        if verdict is None or code != 0:
            return self._failed(run_id, f"ended with code {code}: {tail or 'no message'}")
        return RunOutcome(
            run_id=run_id,
            at=self._clock.now(),
            passed=bool(verdict["passed"]),
            model_id=str(verdict["model_id"]),
            reasons=tuple(map(str, verdict["reasons"])),
            error=None,
        )

    async def _follow(
        self, lines: asyncio.StreamReader, run_id: str, trigger: str, started_at: int
    ) -> Mapping[str, Any] | None:
        """Read JSON lines until the stream ends; return the verdict among them."""
        verdict: Mapping[str, Any] | None = None
        with ProgressBar("retraining") as bar:
            async for line in lines:
                if not line.startswith(b"{"):
                    continue  # a library that prints to stdout is no event
                event = json.loads(line)
                if event["event"] == "verdict":
                    verdict = event
                elif event["event"] == "progress":
                    stage, done = _stage_words(event), round(float(event["fraction"]) * PER_MILLE)
                    self._note(run_id, trigger, started_at, stage=stage, done=done, total=PER_MILLE)
                    bar.show(str(event["stage"]), done, PER_MILLE)
        return verdict

    def _note(
        self,
        run_id: str,
        trigger: str,
        started_at: int,
        *,
        stage: str,
        done: int = 0,
        total: int = 0,
    ) -> None:
        self.progress = RunProgress(
            run_id=run_id,
            trigger=trigger,
            started_at=started_at,
            stage=stage,
            done=done,
            total=total,
        )

    def _failed(self, run_id: str, error: str) -> RunOutcome:
        return RunOutcome(
            run_id=run_id,
            at=self._clock.now(),
            passed=False,
            model_id=None,
            reasons=(),
            error=error,
        )

    def _begin(self, run_id: str, trigger: str) -> None:
        self._journal.write(Event.RETRAIN_STARTED, run_id=run_id, trigger=trigger)

    def _finish(self, outcome: RunOutcome) -> None:
        if outcome.error is not None:
            status = RunStatus.FAILED
            self._journal.write(Event.RETRAIN_FAILED, run_id=outcome.run_id, cause=outcome.error)
        elif outcome.passed:
            status = RunStatus.CANDIDATE
            self.awaiting_promotion = outcome
            self._journal.write(
                Event.RETRAIN_FINISHED, run_id=outcome.run_id, model_id=outcome.model_id
            )
        else:
            status = RunStatus.REFUSED
            self._journal.write(
                Event.MODEL_REFUSED,
                run_id=outcome.run_id,
                model_id=outcome.model_id,
                reasons=list(outcome.reasons),
            )
        self.outcomes[status.value] += 1
        if outcome.error is not None:
            # The child notes its own end; one that was killed could not.
            self._registry.finish_run(
                outcome.run_id, status=status, at=outcome.at, message=outcome.error
            )


def _stage_words(event: Mapping[str, Any]) -> str:
    if event["stage"] != "train":
        return str(event["stage"])
    return f"train window {event['window']} of {event['of']}, seed {event['seed']}"


async def _tail(stream: asyncio.StreamReader) -> str:
    """Read a stream to its end and return its last lines."""
    newest = b""
    while chunk := await stream.read(STDERR_TAIL_BYTES):
        newest = (newest + chunk)[-STDERR_TAIL_BYTES:]
    lines = newest.decode(errors="replace").splitlines()[-STDERR_TAIL_LINES:]
    return " | ".join(line.rstrip() for line in lines if line.strip())


async def _end_group(process: asyncio.subprocess.Process) -> None:
    """End the child and every worker of its group, kindly at first."""
    if process.stdin is not None:
        process.stdin.close()
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGTERM)
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(process.wait(), KILL_GRACE_SECONDS)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()
