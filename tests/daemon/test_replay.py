"""Replay over imported bars, recomputed by an auditor who imports nothing of Ballast."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from broker.costs import CostModel, TradingRules
from market.instrument import Venue
from market.sandbox.rules import list_instruments
from market.snapshot import load_snapshot
from tests.daemon.auditor import HOUR, Auditor, Rules
from training.observation import PortfolioState
from training.simulation import TrackRules, prepare_market, run_track

SHARED = Path(__file__).parents[2].parent / "shared" / "market"
SYMBOLS = ("BTC/USDT:USDT", "ETH/USDT:USDT")
START = 1_672_531_200_000  # 2023-01-01
WARM_UP_BARS = 300
BARS = 150
SINCE = START + WARM_UP_BARS * HOUR
UNTIL = SINCE + (BARS - 1) * HOUR


FREEZE = """
import sys
from pathlib import Path
from daemon.history import freeze
from daemon.settings import load_settings
from market.warehouse import Warehouse

settings = load_settings(Path(sys.argv[1]))
warehouse = Warehouse.open(settings.warehouse_url)
print(freeze(settings, warehouse, until=int(sys.argv[2])).directory)
warehouse.close()
"""


@dataclass(frozen=True)
class Recording:
    """Three Parquet files: bars, mark candles, funding."""

    bars: Path
    marks: Path
    funding: Path


def made_recording(folder: Path) -> Recording:
    """A random walk with funding every eight hours, jittered, some of it without a mark."""
    rng = np.random.default_rng(11)
    count = WARM_UP_BARS + BARS + 2
    bars: list[dict[str, Any]] = []
    marks: list[dict[str, Any]] = []
    funding: list[dict[str, Any]] = []
    for symbol, price in zip(SYMBOLS, (16_500.0, 1_200.0), strict=True):
        for i in range(count):
            time = START + i * HOUR
            opened, price = price, round(price * float(np.exp(rng.normal(0, 0.006))), 2)
            key: dict[str, Any] = {"exchange": "binance", "market": "perp", "symbol": symbol}
            key |= {"timeframe": "1h", "open_time": time}
            high, low = max(opened, price) * 1.001, min(opened, price) * 0.999
            candle = {"open": opened, "high": high, "low": low, "close": price}
            bars.append(key | candle | {"volume": float(rng.uniform(500, 5_000))})
            if i % 17:  # some mark candles are missing
                shifted = {name: value * 1.0003 for name, value in candle.items()}
                marks.append(key | shifted | {"volume": None})
            if i % 8 == 0:
                known = round(opened * 1.0002, 8) if i % 3 else None
                when: dict[str, Any] = {"exchange": "binance", "symbol": symbol}
                when |= {"funding_time": time + int(rng.integers(0, 47))}
                funding.append(when | {"rate": float(rng.normal(1e-4, 2e-4)), "mark_price": known})
    return write(folder, bars, marks, funding)


def real_recording(folder: Path) -> Recording:
    """The same span of the recorded market."""
    stop = START + (WARM_UP_BARS + BARS + 2) * HOUR

    def rows(name: str, time: str) -> list[dict[str, Any]]:
        table = pq.read_table(SHARED / name)
        chosen = pc.and_(
            pc.is_in(table["symbol"], pa.array(SYMBOLS)),
            pc.and_(pc.greater_equal(table[time], START), pc.less(table[time], stop)),
        )
        chosen_rows: list[dict[str, Any]] = table.filter(chosen).to_pylist()
        return chosen_rows

    return write(
        folder,
        rows("bars_binance_perp_1h.parquet", "open_time"),
        rows("mark_binance_perp_1h.parquet", "open_time"),
        rows("funding_binance.parquet", "funding_time"),
    )


def write(
    folder: Path,
    bars: list[dict[str, Any]],
    marks: list[dict[str, Any]],
    funding: list[dict[str, Any]],
) -> Recording:
    recording = Recording(folder / "bars.parquet", folder / "mark.parquet", folder / "fund.parquet")
    volume = pa.float64()
    for path, rows in (
        (recording.bars, bars),
        (recording.marks, marks),
        (recording.funding, funding),
    ):
        table = pa.Table.from_pylist(rows)
        if "volume" in table.column_names:
            index = table.column_names.index("volume")
            table = table.set_column(index, "volume", table["volume"].cast(volume))
        pq.write_table(table, path)
    return recording


def made_weights() -> dict[int, dict[str, Decimal]]:
    """A weight for every close but a few, from nothing to fully invested."""
    rng = np.random.default_rng(5)
    weights: dict[int, dict[str, Decimal]] = {}
    for time in range(SINCE, UNTIL + HOUR, HOUR):
        raw = rng.uniform(0, 1, 3)
        share = raw[:2] / raw.sum() if rng.uniform() < 0.9 else np.array([0.5, 0.5])
        rounded = [Decimal(repr(round(float(one), 4))) for one in share]
        weights[time] = dict(zip(SYMBOLS, rounded, strict=True))
    return weights


def candles(path: Path) -> dict[str, dict[int, dict[str, Decimal]]]:
    found: dict[str, dict[int, dict[str, Decimal]]] = {symbol: {} for symbol in SYMBOLS}
    for row in pq.read_table(path).to_pylist():
        found[row["symbol"]][row["open_time"]] = {
            name: Decimal(repr(row[name]))
            for name in ("open", "close", "volume")
            if row[name] is not None
        }
    return found


def audited(recording: Recording, weights: dict[int, dict[str, Decimal]]) -> Auditor:
    settlements = [
        (
            row["funding_time"] - row["funding_time"] % 60_000,
            row["symbol"],
            Decimal(repr(row["rate"])),
            None if row["mark_price"] is None else Decimal(repr(row["mark_price"])),
        )
        for row in pq.read_table(recording.funding).to_pylist()
    ]
    rules = Rules(
        lot_step={SYMBOLS[0]: Decimal("0.001"), SYMBOLS[1]: Decimal("0.001")},
        min_notional={SYMBOLS[0]: Decimal(100), SYMBOLS[1]: Decimal(20)},
        fee_rate=Decimal("0.0005"),
        half_spread=Decimal("0.0001"),
        impact=Decimal("0.1"),
    )
    auditor = Auditor(
        bars=candles(recording.bars),
        marks=candles(recording.marks),
        settlements=sorted(settlements, key=lambda one: one[:2]),
        rules=rules,
        cash=Decimal(10_000),
    )
    auditor.run(weights, since=SINCE, until=UNTIL)
    return auditor


def ballast(folder: Path, *arguments: str, code: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "daemon", *arguments, "--config", str(folder / "ballast.toml")],
        capture_output=True,
        text=True,
        timeout=100,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == code, done.stderr
    return done.stdout if code == 0 else done.stderr


@dataclass(frozen=True)
class Replayed:
    """What Ballast and the auditor say of the same files and weights."""

    folder: Path
    summary: dict[str, Any]
    journal: list[dict[str, Any]]
    equity: dict[int, float]
    auditor: Auditor
    weights: dict[int, dict[str, Decimal]]


@pytest.fixture(scope="module", params=["made", "recorded"])
def replayed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Replayed:
    """Import, replay with weights, and have the same recomputed."""
    if request.param == "recorded" and not SHARED.exists():
        pytest.skip("recorded market data is not present beside the checkout")
    folder = tmp_path_factory.mktemp(request.param)
    recording = (made_recording if request.param == "made" else real_recording)(folder)
    (folder / "ballast.toml").write_text(
        f'state_dir = "{folder / "state"}"\n[exchange]\nsymbols = {list(SYMBOLS)}\n'
        "history_days = 30\n[log]\nlevel = 'warning'\n",
        encoding="utf-8",
    )
    weights = made_weights()
    with (folder / "weights.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["decision_time", "symbol", "weight"])
        writer.writerows((t, s, w) for t, row in weights.items() for s, w in row.items())
    files = (recording.bars, recording.marks, recording.funding)
    ballast(folder, "import", *map(str, files))
    summary = json.loads(
        ballast(
            folder,
            *("replay", "--since", str(SINCE), "--until", str(UNTIL), "--account", "replay-audit"),
            *("--weights", str(folder / "weights.csv"), "--json"),
            *("--equity", str(folder / "equity.csv")),
        )
    )
    journal = json.loads(
        ballast(folder, "account", "journal", "--account", "replay-audit", "--json")
    )
    with (folder / "equity.csv").open(encoding="utf-8") as file:
        equity = {int(row["decision_time"]): float(row["equity"]) for row in csv.DictReader(file)}
    return Replayed(folder, summary, journal, equity, audited(recording, weights), weights)


def wallet_change(entry: dict[str, Any]) -> Decimal:
    return sum(
        (Decimal(leg["amount"]) for leg in entry["postings"] if leg["account"] == "assets:wallet"),
        Decimal(0),
    )


def test_every_fill_and_fee_is_the_auditors(replayed: Replayed) -> None:
    """Same fills at the same times, quantities exact, price and fee within 1e-8."""
    fills = [entry for entry in replayed.journal if entry["kind"] == "fill"]
    expected = sorted(replayed.auditor.fills, key=lambda fill: (fill.time, fill.symbol))
    assert len(fills) == len(expected) > 100
    for entry, fill in zip(
        sorted(fills, key=lambda one: (one["event_time"], one["symbol"])), expected, strict=True
    ):
        assert (entry["event_time"], entry["symbol"]) == (fill.time, fill.symbol)
        facts = entry["facts"]
        assert Decimal(facts["quantity"]) == fill.quantity
        assert abs(Decimal(facts["fill_price"]) - fill.price) <= Decimal("1e-8")
        fee = next(x for x in entry["postings"] if x["account"].startswith("expenses:fees"))
        assert abs(Decimal(fee["amount"]) - fill.fee) <= Decimal("1e-8")


def test_every_funding_payment_is_the_auditors(replayed: Replayed) -> None:
    """Same settlements, each −quantity·mark·rate within 1e-8, marks from the right source."""
    entries = [entry for entry in replayed.journal if entry["kind"] == "funding"]
    expected = {(one.symbol, one.time): one.amount for one in replayed.auditor.funding}
    assert len(entries) == len(expected) > 20
    for entry in entries:
        amount = expected[entry["symbol"], entry["event_time"]]
        assert abs(wallet_change(entry) - amount) <= Decimal("1e-8")


def test_equity_is_the_auditors_at_every_decision(replayed: Replayed) -> None:
    """The equity curve agrees to 1e-9, relative."""
    assert replayed.equity.keys() == replayed.auditor.equity.keys()
    for time, equity in replayed.equity.items():
        assert equity == pytest.approx(float(replayed.auditor.equity[time]), rel=1e-9)


def test_the_environment_given_the_same_weights_has_the_same_equity(replayed: Replayed) -> None:
    """Training's accounts and the replayed account agree to 1e-9 at every close."""
    frozen = subprocess.run(
        [
            sys.executable,
            "-c",
            FREEZE,
            str(replayed.folder / "ballast.toml"),
            str(UNTIL),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    panel = load_snapshot(Path(frozen.stdout.strip())).panel
    instruments = list_instruments(SYMBOLS, venue=Venue.BINANCEUSDM)
    first = int(np.searchsorted(panel.close_time, SINCE))

    def decide(bar: int, _state: PortfolioState) -> np.ndarray[Any, np.dtype[np.float64]]:
        row = replayed.weights[int(panel.close_time[bar])]
        return np.array([[float(row[symbol]) for symbol in SYMBOLS]])

    track = run_track(
        prepare_market(panel, instruments),
        decide,
        TrackRules(
            start_bar=first,
            stop_bar=len(panel),
            costs=CostModel(fee_rate=0.0005, half_spread_bps=1.0, impact_coefficient=0.1),
            rules=TradingRules(),
        ),
    )
    ours = np.array([replayed.equity[t] for t in sorted(replayed.equity)])[1:]
    np.testing.assert_allclose(track.equity[:, 0], ours, rtol=1e-9)


def test_replaying_again_changes_nothing(replayed: Replayed) -> None:
    """The same replay decides nothing new and reports the same totals."""
    again = json.loads(
        ballast(
            replayed.folder,
            *("replay", "--since", str(SINCE), "--until", str(UNTIL), "--account", "replay-audit"),
            *("--weights", str(replayed.folder / "weights.csv"), "--json"),
        )
    )
    assert again["decisions_this_run"] == 0
    assert {**again, "decisions_this_run": BARS} == replayed.summary
    assert "hold" in ballast(replayed.folder, "account", "check", "--account", "replay-audit")


def test_weights_above_the_leverage_limit_are_refused_before_anything_is_written(
    replayed: Replayed, tmp_path: Path
) -> None:
    """Exit code 2 and one line that names file, time, sum and limit."""
    path = tmp_path / "heavy.csv"
    path.write_text(f"decision_time,symbol,weight\n{SINCE},{SYMBOLS[0]},1.2\n", encoding="utf-8")
    error = ballast(
        replayed.folder,
        *("replay", "--since", str(SINCE), "--until", str(UNTIL), "--weights", str(path)),
        code=2,
    )
    assert "sum to 1.2, above the leverage limit of 1" in error
    assert len(error.strip().splitlines()) == 1
