"""A recorded year through import, replay and ledger: what each kind of cost came to.

Nine perpetuals of Binance, 2022-07 to 2023-07, hourly bars, equal weights once a day. The totals
are what the ledger's entries say; ``tests/simulation/test_recorded_year.py`` computes the same
from the files alone.
"""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

from broker.attribution import attribute
from broker.database import read_transaction
from broker.history import decision_at, read_entries
from broker.ledger import EntryKind
from broker.store import Store
from daemon.replay import ReplayJob, replay
from daemon.rules import decision_rules
from daemon.settings import Settings
from daemon.targets import FileTarget
from market.bar import DAY_MS, HOUR_MS
from market.clock import monotonic_seconds
from market.importing import import_file
from market.instrument import Venue
from market.sandbox.rules import list_instruments
from market.warehouse import Warehouse

FILES = (
    "bars_binance_perp_1h.parquet",
    "mark_binance_perp_1h.parquet",
    "funding_binance.parquet",
)
SYMBOLS = tuple(
    f"{base}/USDT:USDT"
    for base in ("BTC", "ETH", "BNB", "SOL", "XRP", "ADA", "DOGE", "LTC", "LINK")
)
SINCE = 1_656_633_600_000  # 2022-07-01
UNTIL = SINCE + 365 * DAY_MS
WEIGHT = 0.1111  # of nine: the rest pays for the trades
ACCOUNT = "replay-year"
AFTER_ALL = UNTIL + 20 * 365 * DAY_MS
CENTS = Decimal("0.01")


def recorded_year(data: Path, folder: Path) -> dict[str, Any]:
    """Import the files of ``data`` into a store in ``folder``, replay the year and add it up."""
    warehouse = Warehouse.open(f"chdb://{folder}/recorded")
    for name in FILES:
        import_file(data / name, warehouse, ingested_at=AFTER_ALL)
    settings = Settings.model_validate(
        {
            "exchange": {"symbols": list(SYMBOLS)},
            "account": {"deposit_quote": 100_000.0},
            "protection": {"drawdown_limit": 0.9},
        }
    )
    instruments = list_instruments(SYMBOLS, venue=Venue.BINANCEUSDM)
    store = Store.open(f"sqlite:///{folder}/recorded.sqlite")
    job = ReplayJob(
        account_id=ACCOUNT,
        deposit=Decimal(100_000),
        venue=Venue.BINANCEUSDM.value,
        symbols=SYMBOLS,
        interval_ms=HOUR_MS,
        since=SINCE,
        until=UNTIL,
        target=FileTarget(
            schedule={t: dict.fromkeys(SYMBOLS, WEIGHT) for t in range(SINCE, UNTIL, DAY_MS)},
            now=0,
        ),
        required_bars=1,
        rules=decision_rules(settings, instruments),
    )
    started = monotonic_seconds()
    summary = replay(job, warehouse=warehouse, store=store, progress=lambda _done, _total: None)
    seconds = monotonic_seconds() - started
    warehouse.close()
    with closing(store):
        return {
            "seconds": seconds,
            "decisions": summary.decisions_this_run,
            "fills": summary.fills,
            **_totals(store),
            "ledger_problems": len(store.check(ACCOUNT)),
        }


def _totals(store: Store) -> dict[str, Any]:
    with read_transaction(store.engine) as connection:
        last = decision_at(connection, ACCOUNT, None)
        assert last is not None
        with closing(read_entries(connection, ACCOUNT)) as entries:
            kept = list(entries)
    total = attribute(iter(kept), opening=None, closing=last).total
    sources = Counter(one.facts["mark_source"] for one in kept if one.kind is EntryKind.FUNDING)
    parts = {
        "price": total.price,
        "fee": total.fee,
        "slippage": total.slippage,
        "funding": total.funding,
        "net": total.total,
    }
    return {
        **{name: float(value.quantize(CENTS)) for name, value in parts.items()},
        "settlements": sum(sources.values()),
        "settlements_by_mark_source": dict(sources),
    }
