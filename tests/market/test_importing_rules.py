"""The vectorised rules equal the scalar ones, row by row."""

from __future__ import annotations

import math
from dataclasses import asdict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from market.bar import HOUR_MS, TRADES_LIMIT, Bar, BarDefect, interval_ms, interval_name, row_defect
from market.importers.recording import CANDLES, SETTLEMENTS, ImportKind
from market.importers.rules import DEFECTS, SOUND, find_defects
from market.importers.series import Order, find_repeated, is_repeated, unite_repeated
from market.tables import OPTIONAL
from tests.market.recorded_files import START

NEVER = 1 << 60

# Few values, so that prices often meet and rules often break.
prices = st.sampled_from([-1.0, 0.0, 1.0, 2.0, 3.0, math.nan, math.inf, -math.inf])
sound_prices = st.sampled_from([1.0, 2.0, 3.0])
volumes = st.sampled_from([-0.5, 0.0, 1.0, math.nan, math.inf])
times = st.sampled_from([0, START, START - HOUR_MS, START + 1, START // 1000 // HOUR_MS * HOUR_MS])
optional = st.sampled_from([None, -1.0, 0.0, 0.5, 1.0, 1.0000000001, 2.0])
counts = st.sampled_from([None, -3, 0, 7, 7.5, TRADES_LIMIT - 1, TRADES_LIMIT, 1e300])


@st.composite
def bars(draw: st.DrawFn) -> Bar:
    """Any bar, sound ones as often as not."""
    price = draw(st.sampled_from([prices, sound_prices]))
    return Bar(
        symbol="BTC/USDT:USDT",
        open_time=draw(times),
        open=draw(price),
        high=draw(price),
        low=draw(price),
        close=draw(price),
        volume=draw(volumes),
        quote_volume=draw(optional),
        trades=draw(counts),
        taker_buy_volume=draw(optional),
        taker_buy_quote_volume=draw(optional),
    )


def table(rows: list[Bar]) -> pa.Table:
    """The bars as columns; NaN in some cells, an empty cell in others."""
    names = [name for name in CANDLES.names if name not in ("venue", "interval_ms")]
    columns = {name: [asdict(row)[name] for row in rows] for name in names}
    columns["close"] = [None if math.isnan(value) else value for value in columns["close"]]
    size = len(rows)
    return pa.table(
        columns | {"venue": ["v"] * size, "interval_ms": [HOUR_MS] * size},
        schema=pa.schema([CANDLES.field(name) for name in (*names, "venue", "interval_ms")]),
    )


def named(codes: np.ndarray[tuple[int], np.dtype[np.int8]]) -> list[BarDefect | None]:
    """Codes as defects."""
    return [None if code == SOUND else DEFECTS[code] for code in codes]


@given(st.lists(bars(), max_size=30))
def test_columns_and_single_rows_break_the_same_rule_first(rows: list[Bar]) -> None:
    """One judgement, written twice; an empty cell counts as not finite."""
    codes = find_defects(table(rows), kind=ImportKind.BARS, interval_ms=HOUR_MS, now=NEVER)
    assert named(codes) == [row_defect(row, HOUR_MS) for row in rows]


@given(st.lists(bars(), max_size=30))
def test_mark_candles_are_judged_as_bars_without_volume(rows: list[Bar]) -> None:
    """Whatever stands in the volumes of a mark candle is no defect."""
    codes = find_defects(table(rows), kind=ImportKind.MARK_BARS, interval_ms=HOUR_MS, now=NEVER)
    nothing = {"volume": 0.0} | dict.fromkeys(OPTIONAL)
    without = [Bar(**(asdict(row) | nothing)) for row in rows]
    assert named(codes) == [row_defect(row, HOUR_MS) for row in without]


def test_a_bar_that_closes_later_than_now_is_not_final() -> None:
    """It closes at open_time + interval; at that very moment it is closed."""
    bar = Bar(symbol="A", open_time=START, open=1, high=1, low=1, close=1, volume=0)
    judge = [
        named(find_defects(table([bar]), kind=ImportKind.BARS, interval_ms=HOUR_MS, now=now))
        for now in (START + HOUR_MS - 1, START + HOUR_MS)
    ]
    assert judge == [[BarDefect.NOT_CLOSED], [None]]


def test_settlements_need_a_finite_rate_and_a_time_that_has_come() -> None:
    """A rate that is not a number, a time in seconds and a time to come are refused."""
    rows = pa.table(
        {
            "venue": ["v"] * 5,
            "symbol": ["A"] * 5,
            "funding_time": [START, START + 1, START + 2, START // 1000, START + 99],
            "rate": [-0.1, None, math.inf, 0.0, 0.0],
            "mark_price": [None] * 5,
            "mark_source": ["unknown"] * 5,
        },
        schema=SETTLEMENTS,
    )
    codes = find_defects(rows, kind=ImportKind.SETTLEMENTS, interval_ms=0, now=START + 50)
    not_finite = BarDefect.NOT_FINITE
    assert named(codes) == [
        *(None, not_finite, not_finite, BarDefect.TOO_EARLY, BarDefect.NOT_CLOSED)
    ]


@given(
    st.lists(st.tuples(st.sampled_from("AB"), st.integers(0, 4), st.integers(1, 2)), max_size=12),
    st.integers(1, 5),
)
def test_a_key_counts_once_and_only_where_its_rows_agree(
    rows: list[tuple[str, int, int]], size: int
) -> None:
    """Whatever the order and the batches: told by comparing every row with every other."""
    columns = [
        Bar(symbol=s, open_time=t, open=c, high=c, low=c, close=c, volume=1) for s, t, c in rows
    ]
    whole = table(columns)
    batches = [whole.slice(start, size) for start in range(0, len(rows), size)]
    order = Order()
    for batch in batches:
        order.add(batch, ImportKind.BARS)
    repeated = {} if order.ascends else find_repeated(batches, ImportKind.BARS)
    taken, held = [], []
    for batch in batches:
        mask = pa.array(is_repeated(batch, ImportKind.BARS, repeated))
        taken += batch.filter(pc.invert(mask)).to_pylist()
        held.append(batch.filter(mask))
    refused: set[tuple[str, int]] = set()
    if held:
        sound, contradicting = unite_repeated(pa.concat_tables(held), ImportKind.BARS)
        taken += sound.to_pylist()
        refused = {(row["symbol"], row["open_time"]) for row in contradicting.to_pylist()}
    contents: dict[tuple[str, int], set[int]] = {}
    for symbol, time, close in rows:
        contents.setdefault((symbol, time), set()).add(close)
    agreeing = {(*key, *values) for key, values in contents.items() if len(values) == 1}
    found = [(row["symbol"], row["open_time"], row["close"]) for row in taken]
    assert sorted(found) == sorted(agreeing)
    assert refused == {key for key, values in contents.items() if len(values) > 1}


@pytest.mark.parametrize("name", ["1m", "90m", "1h", "12h", "1d"])
def test_the_name_of_an_interval_is_what_it_was_read_from(name: str) -> None:
    """An exported file names its interval as an importer reads it."""
    assert interval_name(interval_ms(name)) == name
