"""A recorded year of nine perpetuals, rebalanced daily: every cent recomputed from the files."""

from __future__ import annotations

import csv
import json
import os
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from tests.simulation.bookkeeper import HOUR, Bookkeeper, Files, Terms, Totals

SHARED = Path(__file__).parents[2].parent / "shared" / "market"
DAY = 24 * HOUR
SINCE = 1_656_633_600_000  # 2022-07-01
WARM_UP = 14 * DAY
WEIGHT = Decimal("0.1111")  # of nine: the rest pays for the trades
ACCOUNT = "replay-year"
CENT = Decimal("0.01")
TIGHT = Decimal("1e-6")
LOTS = {
    f"{base}/USDT:USDT": (Decimal(step), Decimal(minimum))
    for base, step, minimum in (
        ("BTC", "0.001", "100"),
        ("ETH", "0.001", "20"),
        ("BNB", "0.01", "5"),
        ("SOL", "0.01", "5"),
        ("XRP", "0.1", "5"),
        ("ADA", "1", "5"),
        ("DOGE", "1", "5"),
        ("LTC", "0.001", "20"),
        ("LINK", "0.01", "20"),
    )
}
TERMS = Terms(
    lots=LOTS,
    cash=Decimal(100_000),
    fee_rate=Decimal("0.0005"),
    half_spread=Decimal("0.0001"),
    impact=Decimal("0.1"),
)
SETTINGS = f"""
state_dir = "{{folder}}/state"
[exchange]
name = "binanceusdm"
symbols = {list(LOTS)}
[account]
deposit_quote = {TERMS.cash}
[protection]
drawdown_limit = 0.9
[costs]
taker_fee_rate = {TERMS.fee_rate}
half_spread_bps = {TERMS.half_spread * 10_000}
impact_coefficient = {TERMS.impact}
[log]
level = "warning"
"""
TABLES = {
    "bars_binance_perp_1h.parquet": "open_time",
    "mark_binance_perp_1h.parquet": "open_time",
    "funding_binance.parquet": "funding_time",
}


@dataclass(frozen=True)
class Year:
    """What the ledger holds after the replay, and what the bookkeeper found."""

    ledger: Mapping[str, Totals]
    equity: Decimal
    problems: str
    keeper: Bookkeeper


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(21, id="three weeks"),
        pytest.param(365, id="year", marks=[pytest.mark.simulation, pytest.mark.timeout(1_800)]),
    ],
)
def year(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Year:
    """Import, replay, and have the same recomputed."""
    if not SHARED.exists():
        pytest.skip("recorded market data is not present beside the checkout")
    days: int = request.param
    until = SINCE + days * DAY
    folder = tmp_path_factory.mktemp("year")
    files = [cut(name, time, folder, until) for name, time in TABLES.items()]
    weights = {time: dict.fromkeys(LOTS, WEIGHT) for time in range(SINCE, until, DAY)}
    (folder / "ballast.toml").write_text(SETTINGS.format(folder=folder), encoding="utf-8")
    with (folder / "weights.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["decision_time", "symbol", "weight"])
        writer.writerows((t, s, w) for t, row in weights.items() for s, w in row.items())
    ballast(folder, "import", *map(str, files))
    summary = ballast(
        folder,
        *("replay", "--since", str(SINCE), "--until", str(until), "--account", ACCOUNT),
        *("--weights", str(folder / "weights.csv"), "--json"),
    )
    problems = ballast(folder, "account", "check", "--account", ACCOUNT)
    keeper = Bookkeeper(Files(*files), TERMS)
    keeper.keep(weights, since=SINCE, until=until)
    ledger = ledger_totals(folder / "state" / "ledger.sqlite")
    found = Year(ledger, Decimal(repr(json.loads(summary)["equity"])), problems, keeper)
    print(f"\n{days} days from 2022-07-01\n{table(found.ledger)}")
    return found


def cut(name: str, time: str, folder: Path, until: int) -> Path:
    """The rows of the nine symbols within the span and its warm-up."""
    rows = pq.read_table(SHARED / name)
    inside = pc.and_(pc.greater_equal(rows[time], SINCE - WARM_UP), pc.less(rows[time], until))
    chosen = pc.and_(inside, pc.is_in(rows["symbol"], pa.array(list(LOTS))))
    pq.write_table(rows.filter(chosen), folder / name)
    return folder / name


def ballast(folder: Path, *arguments: str) -> str:
    """Run the program and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "daemon", *arguments, "--config", str(folder / "ballast.toml")],
        capture_output=True,
        text=True,
        timeout=1_500,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def ledger_totals(path: Path) -> dict[str, Totals]:
    """Add the stored entries up by symbol, and value what is held at the last marks."""
    totals = {symbol: Totals() for symbol in LOTS}
    held: dict[str, tuple[Decimal, Decimal]] = {}
    with closing(sqlite3.connect(path)) as connection:
        entries = connection.execute(
            "SELECT sequence, kind, symbol, facts FROM entries WHERE account_id = ? "
            "AND symbol IS NOT NULL ORDER BY sequence",
            (ACCOUNT,),
        ).fetchall()
        legs = connection.execute(
            "SELECT ledger_account, amount FROM postings WHERE account_id = ?", (ACCOUNT,)
        ).fetchall()
        (marks,) = connection.execute(
            "SELECT marks FROM decisions WHERE account_id = ? ORDER BY decision_time DESC",
            (ACCOUNT,),
        ).fetchone()
    for _, kind, symbol, text in entries:
        facts = json.loads(text)
        if kind == "funding":
            totals[symbol].marks[facts["mark_source"]] += 1
            continue
        totals[symbol].fills += 1
        totals[symbol].slippage += Decimal(facts["slippage"])
        held[symbol] = Decimal(facts["position"]), Decimal(facts["entry_price"])
    for name, amount in legs:
        side, _, rest = name.partition(":")
        kind, _, symbol = rest.partition(":")
        match side, kind:
            case "expenses", "fees":
                totals[symbol].fee += Decimal(amount)
            case "income", "funding":
                totals[symbol].funding -= Decimal(amount)
            case "income", "realised":
                totals[symbol].price -= Decimal(amount)
    for symbol, (quantity, entry_price) in held.items():
        mark = Decimal(repr(json.loads(marks)[symbol]))
        # The ledger realises at fill prices; before costs means at the reference prices.
        totals[symbol].price += quantity * (mark - entry_price) + totals[symbol].slippage
    return totals


def summed(totals: Mapping[str, Totals]) -> Totals:
    """All symbols together."""
    whole = Totals()
    for one in totals.values():
        for name in ("price", "fee", "slippage", "funding", "fills"):
            setattr(whole, name, getattr(whole, name) + getattr(one, name))
        whole.marks += one.marks
    return whole


def table(totals: Mapping[str, Totals]) -> str:
    """The totals as a table for a person."""
    lines = [f"{'':<14}{'price':>14}{'fee':>11}{'slippage':>11}{'funding':>12}{'net':>14} fills"]
    for name, one in {**totals, "all": summed(totals)}.items():
        lines.append(
            f"{name:<14}{one.price:>14.2f}{one.fee:>11.2f}{one.slippage:>11.2f}"
            f"{one.funding:>12.2f}{one.net:>14.2f} {one.fills:>5}  {dict(one.marks)}"
        )
    return "\n".join(lines)


@pytest.mark.parametrize("kind", ["price", "fee", "slippage", "funding", "net"])
def test_totals_are_the_bookkeepers(year: Year, kind: str) -> None:
    """Price result, fees, slippage and funding agree to 1e-6, by symbol; to the cent in all."""
    for symbol, ours in year.ledger.items():
        theirs = year.keeper.totals[symbol]
        assert abs(getattr(ours, kind) - getattr(theirs, kind)) <= TIGHT, symbol
    whole, expected = summed(year.ledger), summed(year.keeper.totals)
    assert abs(getattr(whole, kind) - getattr(expected, kind)) < CENT
    assert getattr(expected, kind) != 0


def test_equity_is_the_deposit_and_every_total(year: Year) -> None:
    """What the replay reports is the deposit plus price − fees − slippage + funding."""
    net = summed(year.keeper.totals).net
    assert abs(year.equity - (TERMS.cash + net)) < CENT
    assert "hold" in year.problems


def test_settlements_by_the_source_of_their_mark(year: Year) -> None:
    """As many settlements with a mark candle's open and with the bar's as in the files."""
    counted = {symbol: one.marks for symbol, one in year.ledger.items()}
    assert counted == {symbol: one.marks for symbol, one in year.keeper.totals.items()}
    whole: Counter[str] = summed(year.keeper.totals).marks
    assert set(whole) == {"mark_candle", "bar_open"}
    assert {s for s, one in counted.items() if one["bar_open"]} == {
        f"{base}/USDT:USDT" for base in ("BNB", "SOL", "DOGE", "LINK")
    }


def test_fills_are_as_many(year: Year) -> None:
    """Every decision's orders were filled, and no others."""
    ours = {symbol: one.fills for symbol, one in year.ledger.items()}
    assert ours == {symbol: one.fills for symbol, one in year.keeper.totals.items()}
    assert min(ours.values()) > 10
