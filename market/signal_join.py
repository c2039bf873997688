"""The only as-of join between signals and decisions: training and live call ``join_signals``.

It does no IO, it never reads a clock, and it must never show a decision a row that could not have
been used then.

**Back-fills never change the past that was lived.** A back-filled row claims to have been usable
before we had it. That claim is believed only for decisions earlier than the moment at which the
stream ``(source, version, name)`` was first stored, which no decision of ours can have used: a
policy that reads the stream was trained after that. From that moment on a row is usable only once
it was really stored, back-filled or not. So for a decision at ``t``, a row counts when ::

    available_at <= t                     if t <  first ingested_at of the stream
    max(available_at, ingested_at) <= t   if t >= first ingested_at of the stream

and a decision recomputed later sees what it saw live, whatever is back-filled or revised since.

**Which row wins.** Among the rows that count, market-wide ones included, the one with the newest
``event_time``, then ``published_at``, then ``ingested_at``. If its ``event_time`` is more than the
maximum age before the decision, the value is unknown (a mask), never an older one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from market.panel import BoolArray, Float64Array, Int64Array
from market.signals import WHOLE_MARKET, Signal, SignalColumn, Stream, signal_facts

_LONG_AGO_MS = -(10**16)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SignalPanel:
    """Signals aligned with decisions.

    Attributes:
        columns: S columns, in the order of the last axis.
        decision_times: (T,) UTC milliseconds.
        values: (T, N, S) float64, finite; 0 where unknown.
        known: (T, N, S) whether a row counted and was young enough.
    """

    columns: tuple[SignalColumn, ...]
    decision_times: Int64Array
    values: Float64Array
    known: BoolArray

    def at(self, decision_times: Int64Array) -> SignalPanel:
        """Return the rows of some of its decisions, which must be in ascending order.

        Raises:
            ValueError: a decision is not among them.
        """
        idx = np.searchsorted(self.decision_times, decision_times)
        inside = np.minimum(idx, max(0, len(self.decision_times) - 1))
        if len(self.decision_times) == 0 or (self.decision_times[inside] != decision_times).any():
            raise ValueError("signals were not joined for every decision that asks for them")
        return SignalPanel(
            columns=self.columns,
            decision_times=decision_times,
            values=self.values[inside],
            known=self.known[inside],
        )


def join_signals(
    signals: Iterable[Signal],
    columns: Sequence[SignalColumn],
    symbols: Sequence[str],
    decision_times: Int64Array,
    *,
    stored_since: Mapping[Stream, int] | None = None,
) -> SignalPanel:
    """Return what each decision could know of each column, by the module's rule.

    Args:
        signals: rows in any order; those of other streams are ignored. Give every stored row of
            the columns' streams, or those published within the longest maximum age before the
            first decision together with ``stored_since``.
        columns: S columns.
        symbols: N assets, in the order of the asset axis.
        decision_times: (T,) UTC milliseconds, in any order.
        stored_since: when the first row of each stream was stored (``first_stored``), where
            ``signals`` may lack it.

    Raises:
        ValueError: ``decision_times`` is not a vector of integers, or a row was never stored.
    """
    if decision_times.ndim != 1 or decision_times.dtype.kind not in "iu":
        raise ValueError(f"decision times must be (T,) integers, not {decision_times.shape}")
    by_stream = _group(signals, {column.stream for column in columns})
    began = first_stored(row for rows in by_stream.values() for row in rows)
    began |= stored_since or {}
    shape = (len(decision_times), len(symbols), len(columns))
    values, known = np.zeros(shape), np.zeros(shape, dtype=np.bool_)
    for column_idx, column in enumerate(columns):
        rows = by_stream[column.stream]
        if not rows:
            continue
        for asset, symbol in enumerate(symbols):
            table = _table([row for row in rows if row.symbol in (symbol, WHOLE_MARKET)])
            value, event_time = _as_of(table, decision_times, began[column.stream])
            fresh = decision_times - event_time <= column.max_age_seconds * 1000
            known[:, asset, column_idx] = fresh
            values[:, asset, column_idx] = np.where(fresh, value, 0.0)
    return SignalPanel(
        columns=tuple(columns), decision_times=decision_times, values=values, known=known
    )


def first_stored(signals: Iterable[Signal]) -> dict[Stream, int]:
    """Return when the first row of each stream was stored, UTC milliseconds."""
    began: dict[Stream, int] = {}
    for row in signals:
        known = began.get(row.stream)
        began[row.stream] = row.ingested_at if known is None else min(known, row.ingested_at)
    return began


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Table:
    """Rows as arrays (R,), in ascending order of who wins."""

    event_time: Int64Array
    available_at: Int64Array
    ingested_at: Int64Array
    value: Float64Array


def _group(signals: Iterable[Signal], streams: set[Stream]) -> dict[Stream, list[Signal]]:
    found: dict[Stream, list[Signal]] = {stream: [] for stream in streams}
    for row in signals:
        rows = found.get(row.stream)
        if rows is None:
            continue
        if row.ingested_at <= 0:
            raise ValueError(f"a signal was never stored: {signal_facts(row)}")
        rows.append(row)
    return found


def _table(rows: Sequence[Signal]) -> _Table:
    event_time = np.array([row.event_time for row in rows], dtype=np.int64)
    published_at = np.array([row.published_at for row in rows], dtype=np.int64)
    ingested_at = np.array([row.ingested_at for row in rows], dtype=np.int64)
    value = np.array([row.value for row in rows], dtype=np.float64)
    # The value itself comes last, so that the order in which rows are given decides nothing.
    order = np.lexsort((value, ingested_at, published_at, event_time))
    return _Table(
        event_time=event_time[order],
        available_at=np.array([row.available_at for row in rows], dtype=np.int64)[order],
        ingested_at=ingested_at[order],
        value=value[order],
    )


def _as_of(
    table: _Table, decision_times: Int64Array, stored_since: int
) -> tuple[Float64Array, Int64Array]:
    """(T,) value and event time of the row that wins at each decision.

    The event time is that of long ago where no row counts.
    """
    by_claim = _winner(table.available_at, decision_times)
    by_storage = _winner(np.maximum(table.available_at, table.ingested_at), decision_times)
    winner = np.where(decision_times < stored_since, by_claim, by_storage)
    # One row more at the end, which index -1 finds where nobody has won.
    value = np.append(table.value, 0.0)
    event_time = np.append(table.event_time, _LONG_AGO_MS)
    return value[winner], event_time[winner]


def _winner(since: Int64Array, decision_times: Int64Array) -> Int64Array:
    """(T,) largest index of the rows that count at each decision; −1 where none does.

    Args:
        since: (R,) when each row begins to count, in ascending order of who wins.
        decision_times: (T,) UTC milliseconds.
    """
    order = np.argsort(since, kind="stable")
    best = np.append(np.maximum.accumulate(order), -1)
    counted = np.searchsorted(since[order], decision_times, side="right")
    winner: Int64Array = best[counted - 1]
    return winner
