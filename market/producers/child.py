"""The process that a producer runs in: one request on stdin, one answer on stdout.

``python -m market.producers.child`` reads a JSON line (``Request``) and writes one JSON document
(``Answer``). Whatever the producer prints goes to stderr. The daemon that asked never imports a
producer; this process never opens a warehouse or a ledger. It ends by itself at its time limit, so
that it cannot outlive a daemon that was killed by much.
"""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import json
import os
import resource
import signal
import sys
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from market.producers.producer import (
    Option,
    Producer,
    ProducerContext,
    ProducerFailed,
    ProducerFault,
    Rows,
    load_producer,
)
from market.signals import (
    RejectedSignal,
    Signal,
    SignalFault,
    foreign_text,
    read_signals,
    rejected,
    signal_facts,
    signal_fault,
)
from market.snapshot import load_snapshot

NICENESS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What a producer says of itself before it runs."""

    name: str
    version: str
    cadence: str
    lag_ms: int
    needs_history: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a child is asked.

    Attributes:
        now: UTC milliseconds on the venue's clock; ``None`` asks for the description alone.
        snapshot: folder of the bars up to ``now``, for a producer with ``needs_history``.
        time_limit_seconds, memory_limit_mb: after which the child ends itself.
    """

    name: str
    options: Mapping[str, Option] = field(default_factory=dict)
    now: int | None = None
    venue: str = ""
    symbols: tuple[str, ...] = ()
    interval_ms: int = 0
    last_event_time: int | None = None
    snapshot: str | None = None
    time_limit_seconds: float = 900.0
    memory_limit_mb: int = 2_048

    def to_line(self) -> bytes:
        """Return one line of JSON."""
        return json.dumps(dataclasses.asdict(self)).encode() + b"\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a child says: rows and refusals of one run; none of either for a description."""

    description: Description
    rows: tuple[Signal, ...] = ()
    refused: tuple[RejectedSignal, ...] = ()


def read_answer(document: bytes) -> Answer:
    """Read what a child wrote, validating every row again.

    Raises:
        ProducerFailed: the child said that it failed, or wrote nothing that makes sense.
    """
    try:
        raw = json.loads(document)
        if "fault" in raw:
            raise ProducerFailed(ProducerFault(raw["fault"]), foreign_text(raw["message"]))
        sound, refused = read_signals(raw["rows"])
        told = tuple(map(_refusal, raw["refused"]))
        return Answer(
            description=_description(raw["description"]), rows=sound, refused=(*told, *refused)
        )
    # A document of brackets alone is too deep to read.
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ProducerFailed(
            ProducerFault.CRASHED, f"the producer's process wrote no answer: {document[:80]!r}"
        ) from error


def _refusal(raw: Mapping[str, Any]) -> RejectedSignal:
    return RejectedSignal(
        fault=SignalFault(raw["fault"]),
        message=foreign_text(raw["message"]),
        content=foreign_text(raw.get("content", "")),
    )


def _description(raw: Mapping[str, Any]) -> Description:
    """Check the types as well: what is no text here would be no schedule and no query later."""
    types = {"name": str, "version": str, "cadence": str, "lag_ms": int, "needs_history": bool}
    if raw.keys() != types.keys() or not all(isinstance(raw[key], types[key]) for key in types):
        raise ValueError(f"no description: {raw!r}")
    return Description(
        name=foreign_text(raw["name"]),
        version=foreign_text(raw["version"]),
        cadence=foreign_text(raw["cadence"]),
        lag_ms=raw["lag_ms"],
        needs_history=raw["needs_history"],
    )


def main() -> int:
    """Answer one request; the exit code is 0 where it was answered with rows."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # a library that prints must not write into the answer
    request = _request(json.loads(sys.stdin.buffer.readline()))
    _limit(request)
    try:
        document, code = _answer(request), 0
    except ProducerFailed as failed:
        document, code = {"fault": failed.fault.value, "message": str(failed)}, 1
    answers.write(json.dumps(document).encode())
    answers.close()
    return code


def _request(raw: Mapping[str, Any]) -> Request:
    return Request(**{**raw, "symbols": tuple(raw["symbols"])})


def _limit(request: Request) -> None:
    os.nice(NICENESS)
    # The signal's default action ends the process, whatever code it is stuck in.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, request.time_limit_seconds)
    limit = request.memory_limit_mb * 1024 * 1024
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def _answer(request: Request) -> dict[str, Any]:
    producer = load_producer(request.name, request.options)
    description = Description(
        name=producer.name,
        version=producer.version,
        cadence=producer.cadence,
        lag_ms=producer.lag_ms,
        needs_history=producer.needs_history,
    )
    rows = () if request.now is None else _produce(producer, request, request.now)
    sound, refused = _sorted_out(rows, producer, request.now or 0)
    return {
        "description": dataclasses.asdict(description),
        "rows": [dataclasses.asdict(row) for row in sound],
        "refused": [dataclasses.asdict(row) for row in refused],
    }


def _produce(producer: Producer, request: Request, now: int) -> Rows:
    history = None if request.snapshot is None else load_snapshot(Path(request.snapshot)).panel
    made = producer.produce(
        now,
        ProducerContext(
            venue=request.venue,
            symbols=request.symbols,
            interval_ms=request.interval_ms,
            last_event_time=request.last_event_time,
            history=history,
        ),
    )
    if inspect.isawaitable(made):
        made = asyncio.run(_awaited(made))
    return made


async def _awaited(rows: Awaitable[Rows]) -> Rows:
    return await rows


def _sorted_out(
    rows: Rows, producer: Producer, now: int
) -> tuple[list[Signal], list[RejectedSignal]]:
    """Part the rows from the refused: also those that break what the producer declares."""
    sound: list[Signal] = []
    refused: list[RejectedSignal] = []
    for row in rows:
        if isinstance(row, RejectedSignal):
            refused.append(row)
        elif not isinstance(row, Signal):
            kind = f"a {type(row).__name__}, not a market.signals.Signal"
            refused.append(rejected(SignalFault.NOT_A_SIGNAL, f"not_a_signal: {kind}", row))
        elif (broken := _broken_promise(row, producer, now)) is not None:
            refused.append(rejected(*broken, dataclasses.asdict(row)))
        else:
            sound.append(row)
    return sound, refused


def _broken_promise(row: Signal, producer: Producer, now: int) -> tuple[SignalFault, str] | None:
    """Say why a row is not one of this producer: its name, the future, its own lag."""
    if (fault := signal_fault(row)) is not None:  # a class derived from Signal may check nothing
        return fault, f"{fault.value}: {signal_facts(row)}"
    if (row.source, row.version) != (producer.name, producer.version):
        may_not = f"{producer.name} {producer.version} may not write as {row.source} {row.version}"
        return SignalFault.BAD_NAME, f"bad_name: {may_not}"
    if row.event_time > now:
        return (
            SignalFault.BAD_TIME,
            f"bad_time: event_time {row.event_time} is later than now, {now}",
        )
    # A row that claims to have been usable earlier would let training look ahead.
    if row.is_backfilled and row.lag_ms < producer.lag_ms:
        less = f"has lag_ms {row.lag_ms}, less than the {producer.lag_ms} that {producer.name}"
        return (
            SignalFault.BAD_LAG,
            f"bad_lag: a back-filled row {less} declares: make it with lag_ms=self.lag_ms",
        )
    return None


if __name__ == "__main__":
    sys.exit(main())
