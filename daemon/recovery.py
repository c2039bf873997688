"""Start-up is recovery: everything in memory is rebuilt from the ledger, and from nothing else."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from operator import attrgetter

from broker.account import AccountState, open_account
from broker.database import database_exists
from broker.records import DecisionRecord
from broker.store import Store
from daemon.decision import DecisionState
from daemon.journal import Event, Journal
from daemon.rules import QUOTE
from daemon.settings import Settings, SettingsError
from daemon.totals import Totals, totals_of
from market.instrument import Instrument, Market, instrument_facts, read_instrument

CRASHES_BEFORE_HOLDING = 3
INSTRUMENTS_KEY = "instruments"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovered:
    """An account as the ledger has it.

    Attributes:
        last: its last decision; ``None`` before the first.
        hold: whether the next decision holds: too many starts got no further than the last.
    """

    state: DecisionState
    last: DecisionRecord | None
    totals: Totals
    hold: bool


def recover(
    settings: Settings, store: Store, journal: Journal, *, now: int, sigma_window_bars: int
) -> Recovered:
    """Open the account at the first start; afterwards rebuild everything from the ledger. Blocks.

    Raises:
        SettingsError: a symbol that the account holds is no longer followed.
    """
    account = settings.account
    open_if_new(
        store,
        journal,
        account_id=account.id,
        deposit=Decimal(str(account.deposit_quote)),
        quote=QUOTE,
        time=now - now % settings.exchange.interval_ms,
        market=settings.exchange.name.market,
    )
    state, last = restore_state(store, account.id, sigma_window_bars=sigma_window_bars)
    check_symbols(settings, state.account)
    totals = totals_of(store.decisions(account.id), fills=store.count_fills(account.id))
    crashes = crashes_at(store, None if last is None else last.decision_time)
    hold = crashes >= CRASHES_BEFORE_HOLDING
    if hold:
        journal.write(Event.SAFE_MODE_ENTERED, crashes=crashes)
    journal.write(Event.ACCOUNT_RECOVERED, account_id=account.id, equity=state.equity)
    return Recovered(state=state, last=last, totals=totals, hold=hold)


def check_symbols(settings: Settings, account: AccountState) -> None:
    """Refuse to start where a held symbol is no longer followed: it would be without prices.

    Raises:
        SettingsError: naming the account and the symbols.
    """
    if gone := sorted(set(account.positions) - set(settings.exchange.symbols)):
        raise SettingsError(
            f"exchange.symbols: account {account.account_id} holds {', '.join(gone)}; keep it in "
            "the list until it is sold, or use another state_dir"
        )


def restore_state(
    store: Store, account_id: str, *, sigma_window_bars: int
) -> tuple[DecisionState, DecisionRecord | None]:
    """Rebuild the decision state of an account from the ledger alone.

    Raises:
        LookupError: the account does not exist.
    """
    account = store.load_account(account_id)
    if account is None:
        raise LookupError(f"no account {account_id!r} in the ledger")
    records = store.decisions(account_id, limit=sigma_window_bars)
    if not records:
        deposit = float(account.wallet)
        fresh = DecisionState(
            account=account,
            equity=deposit,
            peak_equity=deposit,
            net_returns=(),
            bars_since_trade=0,
            halted=False,
            marks={},
        )
        return fresh, None
    last = records[-1]
    quiet = 0
    for record in reversed(records):
        if record.turnover > 0:
            break
        quiet += 1
    state = DecisionState(
        account=account,
        equity=last.equity,
        peak_equity=last.peak_equity,
        net_returns=tuple(record.net_return for record in records),
        bars_since_trade=quiet,
        marks=last.marks,
        halted=last.halted,
        booked=tuple(
            sorted(store.fills(account_id, since=last.decision_time), key=attrgetter("fill_id"))
        ),
    )
    return state, last


def open_if_new(
    store: Store,
    journal: Journal,
    *,
    account_id: str,
    deposit: Decimal,
    quote: str,
    time: int,
    market: Market,
) -> None:
    """Open the account with its deposit unless the ledger has it already."""
    if store.load_account(account_id) is not None:
        return
    _, entry = open_account(account_id, deposit=deposit, quote=quote, time=time, market=market)
    store.create_account(entry)
    journal.write(Event.ACCOUNT_OPENED, account_id=account_id, deposit=str(deposit))


def crashes_at(store: Store, last_decision_time: int | None) -> int:
    """Count the starts since the last clean stop that got no further than this decision."""
    crashes = 0
    turns = [Event.DAEMON_STARTED.value, Event.DAEMON_STOPPED.value]
    for row in store.audits(limit=50, events=turns):
        stopped = row.event == Event.DAEMON_STOPPED.value
        if stopped or row.facts.get("last_decision_time") != last_decision_time:
            break
        crashes += 1
    return crashes


def remember_instruments(store: Store, instruments: Sequence[Instrument]) -> None:
    """Keep the rules of the symbols that are followed, for the day the venue delists one."""
    facts = {one.symbol: instrument_facts(one) for one in instruments}
    store.set_meta(INSTRUMENTS_KEY, json.dumps(facts, sort_keys=True))


def recall_instruments(ledger_url: str) -> dict[str, Instrument]:
    """Return the rules that an earlier run kept, by symbol; none where there was no run."""
    if not database_exists(ledger_url):
        return {}
    store = Store.open(ledger_url)
    try:
        kept = store.meta(INSTRUMENTS_KEY)
    finally:
        store.close()
    facts = {} if kept is None else json.loads(kept)
    return {symbol: read_instrument(rules) for symbol, rules in facts.items()}
