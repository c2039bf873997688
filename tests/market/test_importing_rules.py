"""The vectorised rules equal the scalar ones, row by row."""

from __future__ import annotations

import math
from dataclasses import asdict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from hypothesis import given
from hypothesis import strategies as st

from market.bar import HOUR_MS, Bar, BarDefect, bar_defect
from market.importers.recording import CANDLES, SETTLEMENTS, ImportKind
from market.importers.rules import DEFECTS, SOUND, find_defects
from market.importers.series import Order, find_repeated, is_repeated, unite_repeated

NEVER = 1 << 60

# Few values, so that prices often meet and rules often break.
prices = st.sampled_from([-1.0, 0.0, 1.0, 2.0, 3.0, math.nan, math.inf, -math.inf])
sound_prices = st.sampled_from([1.0, 2.0, 3.0])
volumes = st.sampled_from([-0.5, 0.0, 1.0, math.nan, math.inf])
times = st.sampled_from([0, HOUR_MS, -HOUR_MS, 1, HOUR_MS - 1, -1])


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
    assert named(codes) == [bar_defect(row, HOUR_MS) for row in rows]


@given(st.lists(bars(), max_size=30))
def test_mark_candles_are_judged_as_bars_without_volume(rows: list[Bar]) -> None:
    """Whatever stands in the volume of a mark candle is no defect."""
    codes = find_defects(table(rows), kind=ImportKind.MARK_BARS, interval_ms=HOUR_MS, now=NEVER)
    without = [Bar(**(asdict(row) | {"volume": 0.0})) for row in rows]
    assert named(codes) == [bar_defect(row, HOUR_MS) for row in without]


def test_a_bar_that_closes_later_than_now_is_not_final() -> None:
    """It closes at open_time + interval; at that very moment it is closed."""
    bar = Bar(symbol="A", open_time=HOUR_MS, open=1, high=1, low=1, close=1, volume=0)
    judge = [
        named(find_defects(table([bar]), kind=ImportKind.BARS, interval_ms=HOUR_MS, now=now))
        for now in (2 * HOUR_MS - 1, 2 * HOUR_MS)
    ]
    assert judge == [[BarDefect.NOT_CLOSED], [None]]


def test_settlements_need_a_finite_rate_and_a_positive_mark_or_none() -> None:
    """An unknown mark is no defect, an impossible one is; so is a time to come."""
    rows = pa.table(
        {
            "venue": ["v"] * 7,
            "symbol": ["A"] * 7,
            "funding_time": [1, 2, 3, 4, 5, 6, 99],
            "rate": [0.1, -0.1, None, math.inf, 0.0, 0.0, 0.0],
            "mark_price": [5.0, None, 5.0, 5.0, 0.0, math.inf, None],
            "mark_source": ["venue"] * 7,
        },
        schema=SETTLEMENTS,
    )
    codes = find_defects(rows, kind=ImportKind.SETTLEMENTS, interval_ms=0, now=50)
    not_finite, not_positive = BarDefect.NOT_FINITE, BarDefect.NOT_POSITIVE
    assert named(codes) == [
        *(None, None, not_finite, not_finite, not_positive, not_finite, BarDefect.NOT_CLOSED)
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
