"""What becomes of single rows: judged as a venue's, united where they agree, timed to the ms."""

from __future__ import annotations

import json
from functools import reduce
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from market.bar import HOUR_MS, Bar, MarkSource, Settlement, row_defect
from market.importers.recording import CANDLES, SETTLEMENTS, ImportKind
from market.importers.series import unite_repeated
from market.importing import check_file
from market.revision import revise_bar, revise_settlement
from market.rows import binance_bar, binance_settlement
from market.tables import OPTIONAL, PRICES
from market.warehouse import Warehouse
from tests.market.recorded_files import (
    HOURS,
    NOW,
    START,
    VENUE,
    candles,
    closes,
    covered,
    funding,
    load,
    write_csv,
    write_parquet,
)

WRITERS = [write_parquet, write_csv]


@pytest.fixture
def symbol(venue_name: str) -> str:
    """A symbol that no other test uses: the files' exchange decides the venue."""
    return f"{venue_name.upper()}/USDT:USDT"


def row(column: str, value: object) -> Bar:
    """The first bar of ``candles`` as the venue's REST answer would say it."""
    said = {"quote_volume": "", "trades": "", "taker_buy_volume": "", column: value}
    return binance_bar(
        "A",
        [
            *(START, "10", "20", "5", "11", "2", START + HOUR_MS - 1),
            *(said["quote_volume"], said["trades"], said["taker_buy_volume"], ""),
        ],
    )


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("quote_volume", -5.0, "negative_volume"),
        ("taker_buy_volume", -0.1, "negative_volume"),
        ("taker_buy_volume", 2.1, "taker_volume_above_volume"),
        ("trades", -1.0, "trades_not_a_count"),
        ("trades", 3.7, "trades_not_a_count"),
        ("trades", 1e300, "trades_not_a_count"),
        ("trades", float(2**53), "trades_not_a_count"),
    ],
)
def test_an_optional_figure_that_cannot_be_is_refused_from_file_and_venue(
    warehouse: Warehouse,
    symbol: str,
    tmp_path: Path,
    write: Any,
    column: str,
    value: float,
    reason: str,
) -> None:
    """The row goes to quarantine; the venue's same row breaks the same rule."""
    changed = candles(symbol, **{column: [value] + [None] * 4})
    summary = load(write(tmp_path, changed), warehouse)
    assert (summary.written, summary.rejected_by) == (HOURS - 1, {reason: 1})
    assert str(row_defect(row(column, value), HOUR_MS)) == reason


def test_a_refused_count_can_be_quarantined_as_the_venue_said_it(
    warehouse: Warehouse, venue_name: str
) -> None:
    """No integer column holds it, so it is in the content alone."""
    bar = row("trades", 1e300)
    defect = row_defect(bar, HOUR_MS)
    assert defect is not None
    warehouse.quarantine.insert(
        [(bar, defect)], venue=venue_name, interval_ms=HOUR_MS, ingested_at=NOW
    )
    ((trades, content),) = warehouse._connection.rows(
        "SELECT trades, content FROM quarantine FINAL WHERE venue = {venue:String}",
        {"venue": venue_name},
    )
    assert trades is None
    assert json.loads(content)["trades"] == 1e300


@pytest.mark.parametrize("total", [2.0, float(np.float32(2.1))])
def test_rounding_does_not_refuse_a_bar_that_takers_alone_bought(
    warehouse: Warehouse, symbol: str, tmp_path: Path, total: float
) -> None:
    """Volumes that were summed up or kept as float32 differ in their last digits."""
    columns = candles(symbol, volume=[total] * HOURS, taker_buy_volume=[total * (1 + 1e-7)] * HOURS)
    assert load(write_parquet(tmp_path, columns), warehouse).rejected == 0


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("trades", [2**53 - 1, 2**53 + 1])
def test_counts_are_exact_or_refused(
    warehouse: Warehouse, symbol: str, tmp_path: Path, write: Any, trades: int
) -> None:
    """The same in both formats; no bar of any market has ever had so many trades."""
    path = write(tmp_path, candles(symbol, trades=[trades] + [None] * 4))
    summary = load(path, warehouse)
    found = warehouse._connection.rows(
        "SELECT trades FROM bars FINAL WHERE symbol = {symbol:String} AND trades IS NOT NULL",
        {"symbol": symbol},
    )
    exact = trades < 2**53
    assert [count for (count,) in found] == ([trades] if exact else [])
    assert summary.rejected == (0 if exact else 1)


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("mark", [0.0, -1.0, float("inf"), None])
def test_a_mark_that_is_no_price_is_unknown_as_the_venue_s_is(
    warehouse: Warehouse, symbol: str, tmp_path: Path, write: Any, mark: float | None
) -> None:
    """The rate stands."""
    path = write(tmp_path, funding(symbol, mark_price=[mark, 8.0], mark_price_source=["venue"] * 2))
    assert load(path, warehouse).written == 2
    first, _ = warehouse.settlements(
        [symbol], venue=VENUE, interval_ms=HOUR_MS, since=START, until=NOW
    )
    said = {"fundingTime": START + 7, "fundingRate": "0.001", "markPrice": mark}
    assert first == binance_settlement(symbol, said)


@pytest.mark.parametrize(
    "text", ["{}.000000Z", "{}.000000+00:00", "{}.000000", "{}.000000000Z", "{}.000Z", "{}.0Z"]
)
def test_iso_times_may_have_fractions(
    warehouse: Warehouse, symbol: str, tmp_path: Path, text: str
) -> None:
    """As Python, pandas and databases write them."""
    hours = [text.format(f"2023-11-15T{hour:02}:00:00") for hour in range(HOURS)]
    path = write_csv(tmp_path, candles(symbol, open_time=hours))
    assert load(path, warehouse).written == HOURS
    assert closes(warehouse, symbol)[2:] == [11.0, 12.0, 13.0]


def test_fractions_are_kept_to_the_millisecond(symbol: str, tmp_path: Path) -> None:
    """A settlement's jitter is not lost, and a row without a fraction may stand beside it."""
    times = ["2023-11-15T00:00:00.007999+00:00", "2023-11-15T08:00:00+00:00"]
    path = write_csv(tmp_path, funding(symbol, funding_time=times))
    (rows,) = check_file(path).recording.read()
    assert [time % HOUR_MS for time in rows["funding_time"].to_pylist()] == [7, 0]


@pytest.mark.parametrize("write", WRITERS)
def test_a_time_in_seconds_among_milliseconds_is_refused(
    warehouse: Warehouse, symbol: str, tmp_path: Path, write: Any
) -> None:
    """It would be a bar of 1970, and everything since then a gap."""
    columns = candles(symbol)
    columns["open_time"][0] = START // 1000 // HOUR_MS * HOUR_MS
    summary = load(write(tmp_path, columns), warehouse)
    assert summary.rejected_by == {"time_before_2009": 1}
    found = covered(warehouse, symbol)
    assert found is not None
    assert (found.first_open_time, found.missing) == (START + HOUR_MS, 0)


def test_rows_of_one_bar_unite_what_each_of_them_knows(
    warehouse: Warehouse, symbol: str, tmp_path: Path
) -> None:
    """A row that only lacks a field contradicts nobody."""
    columns = {name: cells[:2] for name, cells in candles(symbol, close=[11.0] * 5).items()}
    columns |= {"open_time": [START] * 2, "trades": [None, 7], "quote_volume": [24.0, None]}
    summary = load(write_parquet(tmp_path, columns), warehouse)
    assert (summary.written, summary.unchanged, summary.rejected) == (1, 1, 0)
    panel = warehouse.load_panel(
        [symbol], venue=VENUE, interval_ms=HOUR_MS, since=START, until=START + HOUR_MS
    )
    assert (panel.trades[0, 0], panel.quote_volume[0, 0]) == (7.0, 24.0)


def test_rows_of_one_settlement_unite_the_best_mark(
    warehouse: Warehouse, symbol: str, tmp_path: Path
) -> None:
    """One of them lacks the mark, and milliseconds lie between them."""
    columns = funding(symbol, funding_time=[START, START + 3], rate=[0.001] * 2)
    summary = load(write_parquet(tmp_path, columns), warehouse)
    assert (summary.written, summary.unchanged, summary.rejected) == (1, 1, 0)
    (stored,) = warehouse.settlements(
        [symbol], venue=VENUE, interval_ms=HOUR_MS, since=START, until=NOW
    )
    assert (stored.mark_price, stored.mark_source) == (99.0, MarkSource.MARK_CANDLE)


def agreed(versions: Any, revise: Any) -> list[Any]:
    """What versions of one value come to in every order; nothing where the order decides."""

    def fold(order: Any) -> Any:
        return reduce(lambda stored, incoming: revise(stored, incoming) or stored, order)

    outcomes = [fold(order) for order in permutations(versions)]
    return outcomes[:1] if all(outcome == outcomes[0] for outcome in outcomes) else []


few = st.sampled_from([None, None, 1.0, 2.0])


@given(st.lists(st.tuples(st.sampled_from([5.0, 5.0, 6.0]), few, few), min_size=1, max_size=4))
def test_bars_unite_by_the_rule_of_revisions(rows: list[tuple[Any, ...]]) -> None:
    """Told by ``revise_bar`` in every order."""
    bars = [
        Bar(
            symbol="A", open_time=START, **dict.fromkeys(PRICES, price), volume=2.0, trades=trades,
            taker_buy_volume=taker,
        )
        for price, trades, taker in rows
    ]  # fmt: skip
    named = [
        {name: getattr(bar, name) for name in ("symbol", "open_time", *PRICES, "volume", *OPTIONAL)}
        | {"venue": "v", "interval_ms": HOUR_MS}
        for bar in bars
    ]
    sound, refused = unite_repeated(pa.Table.from_pylist(named, schema=CANDLES), ImportKind.BARS)
    names = ("symbol", "open_time", *PRICES, "volume", *OPTIONAL)
    assert [Bar(**each) for each in sound.select(names).to_pylist()] == agreed(bars, revise_bar)
    assert len(refused) == (0 if len(sound) else len(set(bars)))


@given(
    st.lists(
        st.tuples(
            st.sampled_from([0.1, 0.1, 0.2]),
            st.sampled_from([1.0, 2.0]),
            st.sampled_from(MarkSource),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_settlements_unite_by_the_rule_of_revisions(rows: list[tuple[Any, ...]]) -> None:
    """Told by ``revise_settlement`` in every order."""
    values = [
        Settlement(
            symbol="A", funding_time=START, rate=rate, mark_source=source,
            mark_price=None if source is MarkSource.UNKNOWN else mark,
        )
        for rate, mark, source in rows
    ]  # fmt: skip
    names = ("symbol", "funding_time", "rate", "mark_price", "mark_source")
    named = [{name: getattr(each, name) for name in names} | {"venue": "v"} for each in values]
    sound, refused = unite_repeated(
        pa.Table.from_pylist(named, schema=SETTLEMENTS), ImportKind.SETTLEMENTS
    )
    assert sound.select(names).to_pylist() == [
        {name: getattr(each, name) for name in names} for each in agreed(values, revise_settlement)
    ]
    assert len(refused) == (0 if len(sound) else len(set(values)))
