"""Order and repetition of rows within a file, without holding the file in memory.

A file whose rows ascend in time per series holds no row twice, and most files do. Only where one
does not are its keys (not its values) read into memory to find those that come again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from market.bar import MINUTE_MS, MarkSource
from market.importers.recording import PRICES, VOLUMES, ImportKind
from market.importers.rules import time_column
from market.panel import BoolArray, Int64Array

Series = tuple[str, str]
"""(venue, symbol)"""
RepeatedTimes = Mapping[Series, Int64Array]

# What two rows of one key may not say differently; a mark candle's volumes are nobody's.
_VALUES = {
    ImportKind.BARS: (*PRICES, *VOLUMES),
    ImportKind.MARK_BARS: PRICES,
    ImportKind.SETTLEMENTS: ("rate", "mark_price"),
}
_MARK_SOURCES = pa.array([source.value for source in MarkSource])  # best first


@dataclass(slots=True, kw_only=True)
class Order:
    """What the rows seen so far say about order; times are UTC milliseconds.

    Attributes:
        ascends: whether time rose strictly within every series.
        step: least time between two neighbouring rows of a series, 0 where there are none.
        least, most: first and last time.
    """

    ascends: bool = True
    step: int = 0
    least: int | None = None
    most: int | None = None
    _last: dict[Series, int] = field(default_factory=dict)

    def add(self, rows: pa.Table, kind: ImportKind) -> None:
        """Take the next rows of the file into account."""
        if not len(rows):
            return
        for series, times in split_series(rows, kind):
            last = self._last.get(series)
            steps = np.diff(times if last is None else np.concatenate([[last], times]))
            self.ascends = self.ascends and bool((steps > 0).all())
            forward = steps[steps > 0]
            if len(forward):
                step = int(forward.min())
                self.step = min(self.step, step) if self.step else step
            self._last[series] = int(times[-1])
            first, final = int(times.min()), int(times.max())
            self.least = first if self.least is None else min(self.least, first)
            self.most = final if self.most is None else max(self.most, final)


def split_series(rows: pa.Table, kind: ImportKind) -> Iterator[tuple[Series, Int64Array]]:
    """Yield each series with its times in the rows' order; settlements by nominal time."""
    times = key_times(rows, kind)
    codes, series = _codes(rows)
    order = np.argsort(codes, kind="stable")
    bounds = np.searchsorted(codes[order], np.arange(len(series) + 1))
    for code, name in enumerate(series):
        yield name, times[order[bounds[code] : bounds[code + 1]]]


def find_repeated(batches: Iterable[pa.Table], kind: ImportKind) -> RepeatedTimes:
    """Return the times that come more than once in a series, ascending."""
    seen: dict[Series, list[Int64Array]] = {}
    for rows in batches:
        for series, times in split_series(rows, kind):
            seen.setdefault(series, []).append(times)
    repeated: dict[Series, Int64Array] = {}
    for series, parts in seen.items():
        times, counts = np.unique(np.concatenate(parts), return_counts=True)
        if (counts > 1).any():
            repeated[series] = times[counts > 1]
    return repeated


def is_repeated(rows: pa.Table, kind: ImportKind, repeated: RepeatedTimes) -> BoolArray:
    """Return per row whether its key is among ``repeated``."""
    mask = np.zeros(len(rows), dtype=np.bool_)
    if not repeated or not len(rows):
        return mask
    times = key_times(rows, kind)
    codes, series = _codes(rows)
    for code, name in enumerate(series):
        if name in repeated:
            mask |= (codes == code) & np.isin(times, repeated[name])
    return mask


def unite_repeated(rows: pa.Table, kind: ImportKind) -> tuple[pa.Table, pa.Table]:
    """Part rows whose keys repeat into one for each key, and those that contradict each other.

    Rows unite as ``market.revision`` unites versions, whatever their order: a field that only some
    of them give is theirs, a better mark stands before a worse one, jitter is no difference. A
    property test holds it to ``revise_bar`` and ``revise_settlement``.

    Returns:
        The rows to store, each key once; and the rows of keys for which two give a field
        differently, each content once.
    """
    codes, _ = _codes(rows)
    order = np.lexsort((key_times(rows, kind), codes))
    rows, codes = rows.take(order), codes[order]
    times = key_times(rows, kind)
    starts = np.flatnonzero(np.diff(codes, prepend=-1) | np.diff(times, prepend=times[:1]))
    sizes = np.diff(starts, append=len(rows))
    judged = _only_best_marks(rows, starts, sizes) if kind is ImportKind.SETTLEMENTS else rows
    united, agrees = judged.take(starts), np.ones(len(starts), dtype=np.bool_)
    for name in _VALUES[kind]:
        values = pc.fill_null(judged[name], np.nan).to_numpy()
        least, most = (find.reduceat(values, starts) for find in (np.fmin, np.fmax))
        agrees &= (least == most) | np.isnan(least)
        given = pa.array(least, from_pandas=True)
        united = united.set_column(united.column_names.index(name), name, given)
    contradicting = rows.filter(pa.array(np.repeat(~agrees, sizes)))
    contents = contradicting.group_by(rows.column_names, use_threads=False).aggregate([])
    return united.filter(pa.array(agrees)), contents


def _only_best_marks(rows: pa.Table, starts: Int64Array, sizes: Int64Array) -> pa.Table:
    """Settlements with the best source of their key; a mark of a worse one is not given."""
    ranks = pc.index_in(rows["mark_source"], _MARK_SOURCES).to_numpy()
    best = np.repeat(np.minimum.reduceat(ranks, starts), sizes)
    marks = pc.if_else(pa.array(ranks == best), rows["mark_price"], pa.scalar(None, pa.float64()))
    for name, column in (("mark_price", marks), ("mark_source", _MARK_SOURCES.take(best))):
        rows = rows.set_column(rows.column_names.index(name), name, column)
    return rows


def key_times(rows: pa.Table, kind: ImportKind) -> Int64Array:
    """Times that identify rows: open times, or nominal times of settlements."""
    times: Int64Array = rows[time_column(kind)].to_numpy()
    return times - times % MINUTE_MS if kind is ImportKind.SETTLEMENTS else times


def _codes(rows: pa.Table) -> tuple[Int64Array, list[Series]]:
    """Number the series of the rows: (R,) codes and what each stands for."""
    joined = pc.binary_join_element_wise(rows["venue"], rows["symbol"], " ")
    encoded = joined.combine_chunks().dictionary_encode()
    series = [tuple(name.split(" ", 1)) for name in encoded.dictionary.to_pylist()]
    return encoded.indices.to_numpy().astype(np.int64), series
