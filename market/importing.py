"""Imports recorded files into the warehouse: bars, mark candles, settlements and signals.

One way for every format: a reader of ``market.importers`` yields canonical Arrow tables, one
vectorised judge parts the sound rows from the others, the sound ones go to the warehouse in bulk
and the others to quarantine with their reason. A file is checked as a whole before anything is
written; importing it again writes nothing. A gap in a file stays a gap.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import structlog

from market.bar import FIRST_TIME_MS, Bar, BarDefect
from market.importers.files import FoundFiles, find_files, open_file
from market.importers.recording import (
    PRICES,
    VOLUMES,
    ImportHints,
    ImportKind,
    ImportRejected,
    Recording,
)
from market.importers.rules import DEFECTS, SOUND, find_defects, time_column
from market.importers.series import (
    Order,
    RepeatedTimes,
    find_repeated,
    is_repeated,
    unite_repeated,
)
from market.importers.stored import faults_named
from market.signals import Signal, read_signals
from market.warehouse import Origin, Warehouse, Written

__all__ = [
    "CheckedFile",
    "FoundFiles",
    "ImportHints",
    "ImportKind",
    "ImportRejected",
    "ImportSummary",
    "check_file",
    "find_files",
    "import_checked",
    "import_file",
]

log = structlog.get_logger()

Progress = Callable[[int, int], None]

_LAST_TIME_MS = 10**14  # times in microseconds lie after it
# So many rows that one of them has its neighbour, whatever is missing.
_ROWS_TELL_STEP = 10
_VALUES = {
    ImportKind.BARS: ("symbol", "open_time", *PRICES, *VOLUMES),
    ImportKind.MARK_BARS: ("symbol", "open_time", *PRICES),
    ImportKind.SETTLEMENTS: ("symbol", "funding_time", "rate", "mark_price", "mark_source"),
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CheckedFile:
    """A file that was read once from end to end and can be imported.

    Attributes:
        recording: how to read it.
        kind: what it holds.
        rows: how many.
        interval_ms: length of its bars; 0 where it holds none.
        repeated: keys that come more than once.
    """

    recording: Recording
    kind: ImportKind
    rows: int
    interval_ms: int
    repeated: RepeatedTimes


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportSummary:
    """What became of a file's rows: rows = new + revised + unchanged + rejected.

    ``written`` rows are the new ones and the revised ones, which replaced a stored version; of
    signals none does, another value stays beside the first. ``unchanged`` rows are stored already,
    or repeat another row of the file. ``rejected_by`` counts the refused ones by reason.
    """

    path: Path
    kind: ImportKind
    rows: int
    written: int
    revised: int = 0
    rejected_by: Mapping[str, int] = field(default_factory=dict)

    @property
    def new(self) -> int:
        """Rows of which no version was stored."""
        return self.written - self.revised

    @property
    def rejected(self) -> int:
        """Rows that were refused."""
        return sum(self.rejected_by.values())

    @property
    def unchanged(self) -> int:
        """Rows that said nothing new."""
        return self.rows - self.written - self.rejected


def check_file(path: Path, hints: ImportHints | None = None) -> CheckedFile:
    """Read a file from end to end and tell what it holds; write nothing.

    Args:
        path: Parquet or CSV with one row per candle (``exchange, market, symbol, timeframe,
            open_time, open, high, low, close, volume`` and optional volumes; candles without any
            volume are mark prices), per settlement (``exchange, symbol, funding_time, rate`` and
            optional ``mark_price, mark_price_source``) or per signal; a zip of Binance's public
            data; Feather or JSON of freqtrade. Times are UTC milliseconds (CSV: or ISO 8601).
        hints: what the file does not say itself.

    Raises:
        ImportRejected: the file is of no known form, is damaged, lacks columns, mixes intervals,
            or does not tell whose rows they are.
    """
    with faults_named(path, "cannot be read"):
        return _check(open_file(path, hints or ImportHints()))


def import_checked(
    checked: CheckedFile,
    warehouse: Warehouse,
    *,
    ingested_at: int,
    signals_stamp: Callable[[], int] | None = None,
    progress: Progress | None = None,
) -> ImportSummary:
    """Import a file that ``check_file`` has passed.

    Args:
        checked: the file, unchanged since.
        warehouse: where the rows go.
        ingested_at: UTC milliseconds stamped on every row; a bar that closes later is not final.
        signals_stamp: gives each batch of signals its own time of ingestion, later than the moment
            at which the batch will be stored: a decision of a daemon next to this import must
            never accept a row that it could not read. Without it they have ``ingested_at``.
        progress: called with the rows done and the rows in the file after each batch.

    Raises:
        WarehouseError: the store failed.
        ImportRejected: the file was changed or damaged since it was checked.
    """
    target = _Target(
        checked=checked,
        warehouse=warehouse,
        ingested_at=ingested_at,
        signals_stamp=signals_stamp or (lambda: ingested_at),
    )
    done, written = 0, Written()
    for batch in checked.recording.read():
        signals = checked.kind is ImportKind.SIGNALS
        written += target.store_signals(batch) if signals else target.store(batch)
        done += len(batch)
        if progress is not None:
            progress(done, checked.rows)
    written += target.store_repeated()
    summary = ImportSummary(
        path=checked.recording.path,
        kind=checked.kind,
        rows=checked.rows,
        written=written.rows,
        revised=written.revised,
        rejected_by=dict(sorted(target.rejected_by.items())),
    )
    log.info(
        "file_imported",
        path=str(summary.path),
        kind=summary.kind.value,
        rows=summary.rows,
        written=summary.written,
        revised=summary.revised,
        rejected=summary.rejected,
    )
    return summary


def import_file(
    path: Path,
    warehouse: Warehouse,
    *,
    ingested_at: int,
    hints: ImportHints | None = None,
    progress: Progress | None = None,
) -> ImportSummary:
    """Check one file and import it: ``check_file``, then ``import_checked``."""
    checked = check_file(path, hints)
    return import_checked(checked, warehouse, ingested_at=ingested_at, progress=progress)


def _check(recording: Recording) -> CheckedFile:
    if recording.kind is ImportKind.SIGNALS:
        rows = sum(len(batch) for batch in recording.read())
        return CheckedFile(
            recording=recording, kind=ImportKind.SIGNALS, rows=rows, interval_ms=0, repeated={}
        )
    judged_as = recording.kind or ImportKind.BARS
    order, rows, volumes = Order(), 0, 0
    intervals: set[int] = set()
    for batch in recording.read():
        rows += len(batch)
        order.add(batch, judged_as)
        if judged_as is not ImportKind.SETTLEMENTS:
            intervals |= set(pc.unique(batch["interval_ms"]).to_pylist())
            volumes += len(batch) - batch["volume"].null_count
    kind = recording.kind or (ImportKind.MARK_BARS if rows and not volumes else ImportKind.BARS)
    interval_ms = _one_interval(recording.path, intervals)
    _check_times(recording.path, order, kind, rows, interval_ms)
    return CheckedFile(
        recording=recording,
        kind=kind,
        rows=rows,
        interval_ms=interval_ms,
        repeated={} if order.ascends else find_repeated(recording.read(), kind),
    )


def _one_interval(path: Path, intervals: set[int]) -> int:
    if len(intervals) > 1:
        minutes = ", ".join(f"{interval // 60_000} min" for interval in sorted(intervals))
        raise ImportRejected(
            path, f"the column timeframe mixes bars of {minutes}; expected one per file"
        )
    return next(iter(intervals), 0)


def _check_times(path: Path, order: Order, kind: ImportKind, rows: int, interval_ms: int) -> None:
    """Reject a file whose times have another unit, or bars of another length than it says."""
    name = time_column(kind)
    if order.least is None or order.most is None:
        return
    if order.most < FIRST_TIME_MS or order.least >= _LAST_TIME_MS:
        raise ImportRejected(
            path, f"the column {name} holds {order.least}; expected UTC milliseconds since 2009"
        )
    if interval_ms and order.step > interval_ms and rows >= _ROWS_TELL_STEP:
        raise ImportRejected(
            path,
            f"the column {name} never advances by less than {order.step // 1000} s; expected bars "
            f"of {interval_ms // 1000} s",
        )


@dataclass(slots=True, kw_only=True, eq=False)
class _Target:
    """Where the rows of one file go, and what was refused on the way."""

    checked: CheckedFile
    warehouse: Warehouse
    ingested_at: int
    signals_stamp: Callable[[], int]
    rejected_by: Counter[str] = field(default_factory=Counter)
    _repeated: list[pa.Table] = field(default_factory=list)

    def store(self, rows: pa.Table) -> Written:
        """Judge the rows, store the sound ones, and return what was written."""
        codes = find_defects(
            rows,
            kind=self.checked.kind,
            interval_ms=self.checked.interval_ms,
            now=self.ingested_at,
        )
        sound = codes == SOUND
        if not sound.all():
            refused = rows.filter(pa.array(~sound))
            self._refuse(refused, [DEFECTS[code] for code in codes[~sound]])
        held = sound & is_repeated(rows, self.checked.kind, self.checked.repeated)
        if held.any():
            self._repeated.append(rows.filter(pa.array(held)))
        keep = sound & ~held
        return self._insert(rows if keep.all() else rows.filter(pa.array(keep)))

    def store_repeated(self) -> Written:
        """Store rows that the file repeats, united; refuse those that contradict each other."""
        if not self._repeated:
            return Written()
        held = pa.concat_tables(self._repeated)
        sound, contradicting = unite_repeated(held, self.checked.kind)
        self._refuse(contradicting, [BarDefect.CONFLICTING] * len(contradicting))
        return self._insert(sound)

    def store_signals(self, rows: pa.Table) -> Written:
        """Read rows as back-filled signals, and return what was written."""
        sound, refused = read_signals(row | {"is_backfilled": True} for row in rows.to_pylist())
        for item in refused:
            self.rejected_by[item.fault.value] += 1
            log.warning("signal_refused", path=str(self.checked.recording.path), why=item.message)
        self.warehouse.insert_refused_signals(refused, ingested_at=self.ingested_at)
        return self._insert_signals(sound)

    def _insert_signals(self, signals: Sequence[Signal]) -> Written:
        if not signals:
            return Written()
        stamp = self.signals_stamp()
        return Written(new=self.warehouse.insert_signals(signals, ingested_at=stamp))

    def _insert(self, rows: pa.Table) -> Written:
        parts = [self._insert_venue(part, venue) for venue, part in _by_venue(rows)]
        return sum(parts, Written())

    def _insert_venue(self, rows: pa.Table, venue: str) -> Written:
        kind, interval_ms = self.checked.kind, self.checked.interval_ms
        values = rows.select(_VALUES[kind])
        match kind:
            case ImportKind.BARS:
                return self.warehouse.insert_bar_table(
                    values,
                    venue=venue,
                    interval_ms=interval_ms,
                    origin=Origin.IMPORT,
                    ingested_at=self.ingested_at,
                )
            case ImportKind.MARK_BARS:
                return self.warehouse.insert_mark_bar_table(
                    values, venue=venue, interval_ms=interval_ms, ingested_at=self.ingested_at
                )
            case _:
                return self.warehouse.insert_settlement_table(
                    values, venue=venue, ingested_at=self.ingested_at
                )

    def _refuse(self, rows: pa.Table, defects: Sequence[BarDefect]) -> None:
        self.rejected_by.update(defect.value for defect in defects)
        judged = rows.append_column("defect", pa.array([defect.value for defect in defects]))
        for venue, part in _by_venue(judged):
            found = part.to_pylist()
            self.warehouse.quarantine.insert(
                [(_as_bar(row), BarDefect(row["defect"])) for row in found],
                contents=[json.dumps(row, sort_keys=True, default=str) for row in found],
                venue=venue,
                interval_ms=self.checked.interval_ms,
                ingested_at=self.ingested_at,
                kind=self.checked.kind.value,
            )


def _by_venue(rows: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    venues = pc.unique(rows["venue"]).to_pylist()
    for venue in venues:
        yield venue, rows if len(venues) == 1 else rows.filter(pc.equal(rows["venue"], venue))


def _as_bar(row: Mapping[str, Any]) -> Bar:
    """A refused row as quarantine keeps it; a settlement's mark stands for its prices."""
    mark = row.get("mark_price")
    numbers = {name: _number(row.get(name, mark)) for name in PRICES}
    return Bar(
        symbol=row["symbol"],
        open_time=row["funding_time"] if "funding_time" in row else row["open_time"],
        **numbers,
        volume=_number(row.get("volume")),
        quote_volume=row.get("quote_volume"),
        trades=row.get("trades"),
        taker_buy_volume=row.get("taker_buy_volume"),
        taker_buy_quote_volume=row.get("taker_buy_quote_volume"),
    )


def _number(value: float | None) -> float:
    """A number; an empty cell counts as not finite."""
    return math.nan if value is None else value
