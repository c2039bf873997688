"""Compares the faults that a sandbox injected with the traces that a client left. Pure.

Whether a fault was noticed is read from the venue's own log wherever the venue can see it; only
where it cannot (values that the client turned down in silence) a counter of the client decides.
"""

from __future__ import annotations

import enum
import math
import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from market.sandbox.fault import FaultKind

# What the log's entries look like as JSON; see ``served.Served``.
Entry = Mapping[str, Any]

MINUTE_MS = 60_000
# A client gets this long, of the venue's time, after a fault's last touch to show that it noticed.
NOTICE_MS = 15 * MINUTE_MS
# Real seconds in which requests that were on their way when the first was refused may arrive.
GRACE_SECONDS = 0.25

_KLINES = re.compile(r"/klines?(\?|$)")


class Trace(enum.StrEnum):
    """What a client that noticed a fault leaves behind."""

    SUBSCRIPTION = "subscription"  # it subscribed again
    BARS_ASKED = "bars_asked"  # it asked REST for bars of a symbol that the fault touched
    ASKED_AGAIN = "asked_again"  # after the refusal it asked again and was answered
    WAITED = "waited"  # it asked nothing before the deadline, and then again
    COUNTER = "counter"  # only the client knows: its counter moved


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """What shows that one kind was noticed: any of the traces, or the client's counter.

    Attributes:
        traces: in the venue's log.
        counter: the client's counter that moves as well; the evidence where ``traces`` is empty.
    """

    traces: tuple[Trace, ...]
    counter: str


_K = FaultKind
NOTICED_BY: dict[FaultKind, Notice] = {
    _K.SILENCE: Notice(traces=(Trace.SUBSCRIPTION, Trace.BARS_ASKED), counter="stream_restarts"),
    _K.DISCONNECT: Notice(traces=(Trace.SUBSCRIPTION,), counter="stream_restarts"),
    _K.RESET: Notice(traces=(Trace.SUBSCRIPTION,), counter="stream_restarts"),
    _K.HALF_OPEN: Notice(traces=(Trace.SUBSCRIPTION,), counter="stream_restarts"),
    _K.SUBSCRIBED_NO_DATA: Notice(
        traces=(Trace.SUBSCRIPTION, Trace.BARS_ASKED), counter="stream_restarts"
    ),
    _K.RATE_LIMITED: Notice(traces=(Trace.WAITED,), counter="rate_limited"),
    _K.BANNED: Notice(traces=(Trace.WAITED,), counter="rate_limited"),
    _K.BLOCKED: Notice(traces=(), counter="requests_refused"),
    _K.OUTAGE_HTML: Notice(traces=(Trace.ASKED_AGAIN,), counter="requests_failed"),
    _K.OUTAGE_JSON: Notice(traces=(Trace.ASKED_AGAIN,), counter="requests_failed"),
    _K.HTML_ON_200: Notice(traces=(Trace.ASKED_AGAIN,), counter="requests_failed"),
    _K.TRUNCATED_JSON: Notice(traces=(Trace.ASKED_AGAIN,), counter="requests_failed"),
    _K.NULL_ROWS: Notice(traces=(Trace.ASKED_AGAIN,), counter="requests_failed"),
    _K.STALL: Notice(traces=(Trace.ASKED_AGAIN,), counter="requests_failed"),
    _K.MALFORMED_FRAME: Notice(
        traces=(Trace.SUBSCRIPTION, Trace.BARS_ASKED), counter="stream_restarts"
    ),
    _K.TRUNCATED_FRAME: Notice(
        traces=(Trace.SUBSCRIPTION, Trace.BARS_ASKED), counter="stream_restarts"
    ),
    _K.LATE_FINAL: Notice(traces=(Trace.BARS_ASKED,), counter="bars_late"),
    _K.FORMING_STAYS: Notice(traces=(Trace.BARS_ASKED,), counter="gaps_repaired"),
    _K.DUPLICATE_FINAL: Notice(traces=(), counter="bars_conflicting"),
    _K.OUT_OF_ORDER: Notice(traces=(), counter="bars_out_of_order"),
    _K.MISSING_BARS: Notice(traces=(Trace.BARS_ASKED,), counter="bars_absent"),
    _K.SHIFTED_TIMES: Notice(traces=(), counter="bars_quarantined"),
    _K.NAN_FIELDS: Notice(traces=(), counter="bars_quarantined"),
    _K.DELISTING: Notice(traces=(), counter="listing_changes"),
    _K.RENAMING: Notice(traces=(), counter="listing_changes"),
    _K.FUNDING_INTERVAL: Notice(traces=(), counter="listing_changes"),
    _K.MIN_NOTIONAL: Notice(traces=(), counter="listing_changes"),
    _K.CLOCK_SKEW: Notice(traces=(), counter="clock_skew_seen"),
}
"""For each kind, the trace that a client leaves which noticed it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CounterSample:
    """The client's counters at one venue time, UTC milliseconds."""

    at: int
    counters: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultRow:
    """What became of one scripted fault.

    Attributes:
        touched: answers, frames and connections that it changed; not injected when 0.
        noticed_by: the trace or the counter that shows it; ``None`` when nothing does.
    """

    kind: FaultKind
    at: int
    until: int | None
    symbols: tuple[str, ...]
    touched: int
    noticed_by: str | None

    @property
    def injected(self) -> bool:
        """Whether the client can have met the fault at all."""
        return self.touched > 0

    @property
    def noticed(self) -> bool:
        """Whether an injected fault left its trace."""
        return self.injected and self.noticed_by is not None


def fault_report(
    entries: Sequence[Entry], samples: Sequence[CounterSample] = ()
) -> tuple[FaultRow, ...]:
    """Return one row for each fault entry of the log, in order.

    Args:
        entries: the sandbox's log, as parsed lines in order; for faults that are still on, the
            lines of ``/sandbox/faults`` may follow.
        samples: the client's counters over time, ascending.
    """
    events = [one for one in entries if one["kind"] in ("request", "subscribed")]
    return tuple(
        FaultRow(
            kind=FaultKind(entry["fault"]),
            at=entry["at"],
            until=entry.get("until"),
            symbols=tuple(entry.get("symbols", ())),
            touched=entry["touched"],
            noticed_by=_noticed_by(entry, events, samples) if entry["touched"] else None,
        )
        for entry in entries
        if entry["kind"] == "fault"
    )


def fault_totals(rows: Iterable[FaultRow]) -> dict[FaultKind, tuple[int, int, int]]:
    """Return (scripted, injected, noticed) for every kind."""
    totals = dict.fromkeys(FaultKind, (0, 0, 0))
    for row in rows:
        scripted, injected, noticed = totals[row.kind]
        totals[row.kind] = (scripted + 1, injected + row.injected, noticed + row.noticed)
    return totals


def early_requests(
    entries: Sequence[Entry], *, grace_seconds: float = GRACE_SECONDS
) -> tuple[Entry, ...]:
    """Return the requests that came after a refusal's answer and before its deadline.

    Args:
        entries: the sandbox's log, as parsed lines in order.
        grace_seconds: real seconds after the first refusal in which requests that were already
            on their way may still arrive.

    Returns:
        Their entries, with the real seconds since the refusal (``after_refusal_seconds``) and the
        venue's milliseconds that were left (``before_deadline_ms``).
    """
    return tuple(_early(_requests(entries), grace_seconds))


def _noticed_by(
    fault: Entry, events: Sequence[Entry], samples: Sequence[CounterSample]
) -> str | None:
    """The first evidence that one injected fault was noticed; ``events`` ascend in time."""
    notice = NOTICED_BY[FaultKind(fault["fault"])]
    since, until = fault["first_touched_at"], math.inf
    if fault.get("until") is None:
        since = fault["at"]  # the list of instruments tells before anything else is touched
    if fault.get("until") is not None:
        until = max(fault["last_touched_at"], fault["until"]) + NOTICE_MS
    first = bisect_left(events, since, key=_sent_at)
    span = events[first : bisect_right(events, until, key=_sent_at)]
    for trace in notice.traces:
        if _TRACES[trace](fault, span):
            return trace.value
    return notice.counter if _moved(notice.counter, samples, since, until) else None


def _subscribed_again(fault: Entry, span: Sequence[Entry]) -> bool:
    return any(
        one["kind"] == "subscribed" and one["sent_at"] > fault["first_touched_at"] for one in span
    )


def _asked_for_bars(fault: Entry, span: Sequence[Entry]) -> bool:
    symbols = fault.get("symbols") or ()
    return any(
        _KLINES.search(one["detail"]) and (not symbols or one.get("symbol") in symbols)
        for one in _requests(span)
    )


def _asked_again(fault: Entry, span: Sequence[Entry]) -> bool:
    """Whether a request that the fault spoilt was made again and answered truly."""
    spoilt: set[tuple[str, str | None]] = set()
    for one in _requests(span):
        what = (one["detail"].split()[1].partition("?")[0], one.get("symbol"))
        if one.get("fault") == fault["fault"]:
            spoilt.add(what)
        elif one["status"] == 200 and what in spoilt:
            return True
    return False


def _waited(fault: Entry, span: Sequence[Entry]) -> bool:
    refused = [
        one
        for one in _requests(span)
        if one.get("fault") == fault["fault"] and one["sent_at"] < fault["until"]
    ]
    if not refused or any(True for _ in _early(_requests(span), GRACE_SECONDS)):
        return False
    deadline = max(one.get("banned_until", 0) for one in refused)
    return any(one["sent_at"] >= deadline for one in _requests(span))


_TRACES: dict[Trace, Callable[[Entry, Sequence[Entry]], bool]] = {
    Trace.SUBSCRIPTION: _subscribed_again,
    Trace.BARS_ASKED: _asked_for_bars,
    Trace.ASKED_AGAIN: _asked_again,
    Trace.WAITED: _waited,
}


def _moved(counter: str, samples: Sequence[CounterSample], since: float, until: float) -> bool:
    """Whether a counter grew between the last sample before ``since`` and ``until``."""
    before = bisect_right(samples, since, key=lambda one: one.at) - 1
    after = bisect_right(samples, until, key=lambda one: one.at) - 1
    if after <= before:
        return False
    had = samples[before].counters.get(counter, 0) if before >= 0 else 0
    return samples[after].counters.get(counter, 0) > had


def _sent_at(entry: Entry) -> float:
    return float(entry["sent_at"])


def _requests(entries: Iterable[Entry]) -> list[Entry]:
    return [one for one in entries if one["kind"] == "request"]


def _early(requests: Sequence[Entry], grace_seconds: float) -> Iterator[Entry]:
    """Requests before a deadline that had been stated, by the venue's time."""
    stated: dict[int, float] = {}
    for one in requests:
        at, real = one["sent_at"], one["real_seconds"]
        stated = {until: since for until, since in stated.items() if at < until}
        broken = {until: since for until, since in stated.items() if real > since + grace_seconds}
        if broken:
            yield {
                **one,
                "after_refusal_seconds": real - min(broken.values()),
                "before_deadline_ms": max(broken) - at,
            }
        if one.get("banned_until") is not None:
            stated.setdefault(one["banned_until"], real)
