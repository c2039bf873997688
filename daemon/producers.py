"""Runs the enabled producers of signals on their schedules, each in a process of its own.

A producer is foreign code: it may fail, hang, crash, or ask for all the memory there is. It runs
in a child with limits, its rows are validated again here, and however it ends, trading goes on;
what it leaves is a count, an event and, when it keeps failing, an alert. This process never
imports a producer.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from daemon.journal import Event, Journal
from daemon.schedule import Cadence, next_fire
from daemon.settings import Settings, SettingsError
from daemon.signal_desk import SignalDesk
from market.clock import Clock
from market.producers.child import Answer, Description, Request, read_answer
from market.producers.producer import ProducerFailed, ProducerFault, installed_producers
from market.snapshot import SnapshotCorrupt
from market.warehouse import WarehouseError

COMMAND = (sys.executable, "-m", "market.producers.child")
FAILURES_BEFORE_ALERT = 3
# Read as JSON and validated, an answer costs the daemon about ten times its length.
MOST_ANSWER_BYTES = 64 * 1024 * 1024
STDERR_TAIL_BYTES = 2_048
DRAIN_SECONDS = 5.0
# What a process that said nothing may take to write its last words and to end.
LAST_WORDS_SECONDS = 2.0
POLL_SECONDS = 0.01
FIRST_RETRY_SECONDS = 5.0
LONGEST_RETRY_SECONDS = 3_600.0
# Faults of a run: the producer's own, the disk's, the store's, and bars that cannot be frozen.
RUN_FAULTS = (ProducerFailed, WarehouseError, SnapshotCorrupt, OSError)

TakeHistory = Callable[[Path], Awaitable[Path]]
"""``take_history(root)`` freezes the bars up to now under ``root`` and returns the folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProducerState:
    """How one producer fares.

    Attributes:
        runs, failures: since the start; failures_in_a_row: since its last good run.
        rows: new rows stored; refused: rows that could not be signals.
        failed_since: when the present row of failures began, UTC milliseconds.
        problem: the newest failure, one clause; empty after a good run.
    """

    name: str
    runs: int = 0
    failures: int = 0
    failures_in_a_row: int = 0
    rows: int = 0
    refused: int = 0
    last_run_at: int | None = None
    next_run_at: int | None = None
    failed_since: int | None = None
    problem: str = ""

    @property
    def needs_alert(self) -> bool:
        """Whether it has failed too often in a row."""
        return self.failures_in_a_row >= FAILURES_BEFORE_ALERT


class Producers:
    """Every enabled producer, each on its own cadence, one run of each at a time."""

    def __init__(
        self,
        *,
        settings: Settings,
        clock: Clock,
        journal: Journal,
        desk: SignalDesk,
        take_history: TakeHistory,
        command: Sequence[str] = COMMAND,
    ) -> None:
        """Keep what runs need; ``command`` must speak as ``market.producers.child`` does."""
        self._settings = settings
        self._clock = clock
        self._journal = journal
        self._desk = desk
        self._take_history = take_history
        self._command = tuple(command)
        self.states = {name: ProducerState(name=name) for name in settings.signals.producers}
        self.counters: Counter[str] = Counter()
        self._begun = asyncio.Event()

    def begin(self) -> None:
        """Let ``run`` go on: the history is there."""
        self._begun.set()

    async def run(self) -> None:
        """Run for ever, from ``begin`` on; without producers, wait for ever."""
        await self._begun.wait()
        async with asyncio.TaskGroup() as group:
            for name in self.states:
                group.create_task(self._follow(name), name=f"producer {name}")
            await asyncio.Event().wait()

    def failing(self) -> tuple[ProducerState, ...]:
        """Return the producers that failed too often in a row."""
        return tuple(state for state in self.states.values() if state.needs_alert)

    async def run_once(self, name: str, description: Description) -> None:
        """Run one producer now, store what it gives, and remember how it went."""
        started_at = self._clock.now()
        self._change(name, runs=self.states[name].runs + 1, last_run_at=started_at)
        try:
            answer = await self._produce(name, description)
            new = await asyncio.to_thread(self._desk.insert, answer.rows)
        except RUN_FAULTS as error:
            await self._note_failure(name, _fault_of(error), str(error))
            return
        await self._note_rows(name, answer, new)
        try:
            await asyncio.to_thread(self._desk.keep_refused, answer.refused)
        except (WarehouseError, OSError) as error:
            kept = f"its {len(answer.rows)} rows are stored, its {len(answer.refused)} refusals not"
            await self._note_failure(name, _fault_of(error), f"{kept}: {error}")
            return
        await self._note_success(name)

    async def _follow(self, name: str) -> None:
        """Learn what the producer is, run it at once, and then at every fire of its cadence.

        Fires that passed while it waited or ran are one, however old: a clock in lock-step moves by
        whole bars, and a late value is worth more than none.
        """
        description, cadence = await self._describe_patiently(name)
        considered = self._clock.now()
        await self.run_once(name, description)
        while (fire := next_fire(cadence, considered)) is not None:
            self._change(name, next_run_at=fire)
            await self._clock.sleep_until(fire)
            considered = max(fire, self._clock.now())
            await self.run_once(name, description)
        self._change(name, next_run_at=None)

    async def _describe_patiently(self, name: str) -> tuple[Description, Cadence]:
        """Ask until the producer says what it is; its package may be mended later."""
        wait_seconds = FIRST_RETRY_SECONDS
        while True:
            try:
                description = (await self._ask(self._request(name))).description
                return description, _cadence(description)
            except (ProducerFailed, OSError) as error:
                await self._note_failure(name, _fault_of(error), str(error))
            await asyncio.sleep(wait_seconds)
            wait_seconds = min(2 * wait_seconds, LONGEST_RETRY_SECONDS)

    async def _produce(self, name: str, description: Description) -> Answer:
        newest = await asyncio.to_thread(self._desk.newest_event_time, name, description.version)
        request = replace(self._request(name), now=self._clock.now(), last_event_time=newest)
        if not description.needs_history:
            return await self._ask(request)
        root = self._settings.state_dir / "producers" / name
        await asyncio.to_thread(shutil.rmtree, root, ignore_errors=True)
        try:
            folder = await self._take_history(root)
            return await self._ask(replace(request, snapshot=str(folder)))
        except ValueError as error:  # bars that cannot be frozen
            raise ProducerFailed(ProducerFault.TOO_LITTLE_HISTORY, str(error)) from error
        finally:
            await asyncio.to_thread(shutil.rmtree, root, ignore_errors=True)

    def _request(self, name: str) -> Request:
        signals, exchange = self._settings.signals, self._settings.exchange
        return Request(
            name=name,
            options=signals.options.get(name, {}),
            venue=exchange.name.value,
            symbols=exchange.symbols,
            interval_ms=exchange.interval_ms,
            time_limit_seconds=signals.time_limit_seconds,
            memory_limit_mb=signals.memory_limit_mb,
        )

    async def _ask(self, request: Request) -> Answer:
        return await ask_child(request, command=self._command)

    async def _note_rows(self, name: str, answer: Answer, new: int) -> None:
        state = self.states[name]
        self._change(name, rows=state.rows + new, refused=state.refused + len(answer.refused))
        self.counters[f"{name}:stored"] += new
        for refused in answer.refused:
            self.counters[f"{name}:{refused.fault.value}"] += 1
        if answer.refused:
            await self._tell(
                Event.SIGNALS_REFUSED,
                producer=name,
                rows=len(answer.refused),
                first=answer.refused[0].message,
            )
        await self._tell(Event.SIGNALS_STORED, producer=name, rows=new, given=len(answer.rows))

    async def _note_success(self, name: str) -> None:
        failed_before = self.states[name].failures_in_a_row
        self._change(name, failures_in_a_row=0, failed_since=None, problem="")
        self.counters[f"{name}:succeeded"] += 1
        if failed_before:
            await self._tell(Event.PRODUCER_RECOVERED, producer=name)

    async def _note_failure(self, name: str, fault: str, cause: str) -> None:
        state = self.states[name]
        self.counters[f"{name}:failed"] += 1
        self._change(
            name,
            failures=state.failures + 1,
            failures_in_a_row=state.failures_in_a_row + 1,
            failed_since=state.failed_since or self._clock.now(),
            problem=f"{fault}: {cause}",
        )
        await self._tell(Event.PRODUCER_FAILED, producer=name, fault=fault, cause=cause)

    async def _tell(self, event: Event, **facts: object) -> None:
        await asyncio.to_thread(self._journal.write, event, **facts)

    def _change(self, name: str, **changes: object) -> None:
        self.states[name] = replace(self.states[name], **changes)  # type: ignore[arg-type]  # by name


def check_producers(settings: Settings) -> None:
    """Make sure that every enabled producer is installed; none is imported.

    Raises:
        SettingsError: a name is unknown.
    """
    installed = [one.name for one in installed_producers()]
    named = [*settings.signals.producers, *settings.signals.options]
    if unknown := [name for name in named if name not in installed]:
        raise SettingsError(
            f"signals: no producer {unknown[0]!r} is installed; there are {', '.join(installed)}"
        )


async def ask_child(request: Request, *, command: Sequence[str] = COMMAND) -> Answer:
    """Run one child and return its answer; it is gone, with its own children, in every case.

    Raises:
        ProducerFailed: it failed, or did not answer within the time limit, or answered nonsense.
        OSError: it could not be started.
    """
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(request.time_limit_seconds):
            document, errors = await _converse(process, request)
    except TimeoutError as error:
        raise ProducerFailed(
            ProducerFault.TIMED_OUT,
            f"stopped after signals.time_limit_seconds = {request.time_limit_seconds:g}",
        ) from error
    finally:
        await _end_group(process)
    if not document:
        words = errors.decode(errors="replace").strip().splitlines()
        raise ProducerFailed(
            ProducerFault.CRASHED,
            f"its process ended with code {process.returncode}: "
            f"{words[-1] if words else 'no message'}",
        )
    return await asyncio.to_thread(read_answer, document)


async def _converse(process: asyncio.subprocess.Process, request: Request) -> tuple[bytes, bytes]:
    """Write the request; return stdout whole and, where that is empty, the end of stderr.

    The end of stdout ends the conversation: a process that the child has started may hold stderr
    open for ever.
    """
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    with contextlib.suppress(ConnectionError):
        process.stdin.write(request.to_line())
        await process.stdin.drain()
    words = bytearray()
    listening = asyncio.create_task(_keep_tail(process.stderr, words))
    try:
        document = await _read_answer(process.stdout, request.name)
        if not document:
            await asyncio.wait([listening], timeout=LAST_WORDS_SECONDS)
            await _end(process, LAST_WORDS_SECONDS)
    finally:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
    return document, bytes(words)


async def _read_answer(stream: asyncio.StreamReader, name: str) -> bytes:
    parts, size = [], 0
    while chunk := await stream.read(1 << 16):
        parts.append(chunk)
        size += len(chunk)
        if size > MOST_ANSWER_BYTES:
            raise ProducerFailed(
                ProducerFault.PAYLOAD,
                f"the answer is longer than {MOST_ANSWER_BYTES} bytes: let {name} give less at "
                f"once (the forecast has signals.options.{name}.history_bars for it)",
            )
    return b"".join(parts)


async def _keep_tail(stream: asyncio.StreamReader, words: bytearray) -> None:
    while chunk := await stream.read(1 << 16):
        words += chunk
        del words[:-STDERR_TAIL_BYTES]


async def _end(process: asyncio.subprocess.Process, seconds: float) -> None:
    """Wait for the process itself: ``wait`` also waits for its pipes, which others may hold."""
    waited = 0.0
    while process.returncode is None and waited < seconds:
        await asyncio.sleep(POLL_SECONDS)
        waited += POLL_SECONDS


async def _end_group(process: asyncio.subprocess.Process) -> None:
    """End the child and whatever it started, and close its pipes.

    A grandchild in a session of its own may hold them open; it is not waited for.
    """
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    await _end(process, DRAIN_SECONDS)
    # Nothing public closes the reading ends; left open, each run would leave two behind.
    process._transport.close()  # type: ignore[attr-defined]  # as above
    await asyncio.sleep(0)


def _fault_of(error: Exception) -> str:
    return error.fault.value if isinstance(error, ProducerFailed) else type(error).__name__


def _cadence(description: Description) -> Cadence:
    try:
        # The grace is not asked for: every fire that is due runs (``_follow``).
        return Cadence.from_crontab(description.cadence, misfire_grace_seconds=0.0)
    except ValueError as error:
        raise ProducerFailed(
            ProducerFault.UNLOADABLE,
            f"its cadence {description.cadence!r} is not a crontab: {error}",
        ) from error
