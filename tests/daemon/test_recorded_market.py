"""Recorded hours through the venues' protocols: stored exactly, funded to the cent.

The expected figures come from the Parquet files alone.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from market.bar import DAY_MS, HOUR_MS

SHARED = Path(__file__).parents[2].parent / "shared" / "market"
HISTORY_DAYS = 30
BARS = 60
MINUTE_MS = 60_000

DUMP = """
import sys
import numpy as np
from pathlib import Path
from daemon.history import load_panel
from daemon.settings import load_settings
from market.panel import ARRAY_FIELDS
from market.warehouse import Warehouse

settings = load_settings(Path(sys.argv[1]))
warehouse = Warehouse.open(settings.warehouse_url)
panel = load_panel(settings, warehouse, since=int(sys.argv[2]), until=int(sys.argv[3]))
arrays = {name: getattr(panel, name) for name in ARRAY_FIELDS}
np.savez(sys.argv[4], open_time=panel.open_time, **arrays)
warehouse.close()
"""


@dataclass(frozen=True)
class Venue:
    """One venue's recording: names in the files, symbols, and when to start."""

    name: str
    file: str
    symbols: tuple[str, ...]
    start: int


VENUES = (
    Venue(
        "binanceusdm",
        "binance",
        tuple(f"{base}/USDT:USDT" for base in ("BTC", "ETH", "SOL", "XRP", "ADA")),
        1_688_169_600_000,  # 2023-07-01
    ),
    Venue(
        "bybit",
        "bybit",
        tuple(f"{base}/USDT:USDT" for base in ("BTC", "ETH", "SOL")),
        1_706_745_600_000,  # 2024-02-01
    ),
)


@dataclass(frozen=True)
class Traded:
    """What the daemon stored and posted."""

    venue: Venue
    panel: dict[str, Any]
    funding: list[dict[str, Any]]
    summary: dict[str, Any]


def run(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        timeout=110,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module", params=VENUES, ids=lambda venue: venue.name)
def traded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Traded:
    """Trade equal weights over recorded hours at one venue."""
    if not SHARED.exists():
        pytest.skip("recorded market data is not present beside the checkout")
    venue: Venue = request.param
    folder = tmp_path_factory.mktemp(venue.name)
    config = folder / "ballast.toml"
    config.write_text(
        f"""
state_dir = "{folder / "state"}"
[exchange]
name = "{venue.name}"
symbols = {list(venue.symbols)}
history_days = {HISTORY_DAYS}
[sandbox]
enabled = true
data = "{SHARED}"
start = "{venue.start}"
speed = 0
[account]
fallback = "equal_weight"
[training]
enabled = false
[monitor]
port = 0
[log]
level = "warning"
""",
        encoding="utf-8",
    )
    ballast = ("-m", "daemon")
    summary = json.loads(
        run(*ballast, "run", "--config", str(config), "--until-bars", str(BARS), "--json")
    )
    journal = json.loads(run(*ballast, "account", "journal", "--config", str(config), "--json"))
    since = venue.start - HISTORY_DAYS * DAY_MS + HOUR_MS
    until = venue.start + (BARS - 1) * HOUR_MS
    run("-c", DUMP, str(config), str(since), str(until), str(folder / "panel.npz"))
    with np.load(folder / "panel.npz") as arrays:
        panel = dict(arrays)
    funding = [entry for entry in journal if entry["kind"] == "funding"]
    return Traded(venue, panel, funding, summary)


def columns(name: str, symbol: str, time: str) -> dict[int, dict[str, Any]]:
    rows = pq.read_table(SHARED / name, filters=[("symbol", "=", symbol)]).to_pylist()
    return {row[time]: row for row in rows}


def test_the_warehouse_holds_exactly_what_the_files_say(traded: Traded) -> None:
    """Every OHLCV value is bit-equal, and a field that the file lacks is stored as null."""
    for index, symbol in enumerate(traded.venue.symbols):
        bars = columns(f"bars_{traded.venue.file}_perp_1h.parquet", symbol, "open_time")
        expected = [bars[int(time)] for time in traded.panel["open_time"]]
        for name in ("open", "high", "low", "close", "volume"):
            assert np.array_equal(traded.panel[name][:, index], [row[name] for row in expected])
        for name in ("quote_volume", "trades", "taker_buy_volume"):
            absent = np.array([row[name] is None for row in expected])
            assert np.array_equal(np.isnan(traded.panel[name][:, index]), absent)


def test_funding_is_quantity_times_mark_times_rate(traded: Traded) -> None:
    """Each payment is −quantity·mark·rate from the files, to the cent, its mark's source named."""
    assert traded.funding
    for entry in traded.funding:
        symbol, nominal, facts = entry["symbol"], entry["event_time"], entry["facts"]
        rows = columns(f"funding_{traded.venue.file}.parquet", symbol, "funding_time")
        row = next(r for time, r in rows.items() if time - time % MINUTE_MS == nominal)
        mark, source = expected_mark(traded.venue, symbol, nominal, row)
        paid = -Decimal(facts["quantity"]) * Decimal(repr(mark)) * Decimal(repr(row["rate"]))
        wallet = sum(
            Decimal(leg["amount"]) for leg in entry["postings"] if leg["account"] == "assets:wallet"
        )
        assert abs(wallet - paid) < Decimal("0.00000002")
        assert facts["mark_source"] == source


def expected_mark(
    venue: Venue, symbol: str, nominal: int, settlement: dict[str, Any]
) -> tuple[float, str]:
    """The venue's mark (Binance publishes it), else the mark candle's open, else the bar's open."""
    if venue.name == "binanceusdm" and settlement["mark_price"] is not None:
        return settlement["mark_price"], "venue"
    marks = columns(f"mark_{venue.file}_perp_1h.parquet", symbol, "open_time")
    if nominal in marks:
        return marks[nominal]["open"], "mark_candle"
    bars = columns(f"bars_{venue.file}_perp_1h.parquet", symbol, "open_time")
    return bars[nominal]["open"], "bar_open"


def test_every_settlement_of_the_span_was_posted_once(traded: Traded) -> None:
    """Held all the time from the second bar on: every settlement of every symbol is there."""
    first_fill = traded.venue.start
    last = traded.venue.start + (BARS - 1) * HOUR_MS
    expected = set()
    for symbol in traded.venue.symbols:
        for time in columns(f"funding_{traded.venue.file}.parquet", symbol, "funding_time"):
            nominal = time - time % MINUTE_MS
            if first_fill < nominal < last:
                expected.add((symbol, nominal))
    posted = [(entry["symbol"], entry["event_time"]) for entry in traded.funding]
    assert len(posted) == len(set(posted))
    assert set(posted) == expected
    assert traded.summary["decisions"] == BARS
