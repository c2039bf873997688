"""What a daemon keeps: the ledger, the registry and the warehouse of one account's market.

An account keeps its market and its interval: settings that say otherwise are refused at the door.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass

from broker.store import Store
from daemon.journal import Journal
from daemon.loop import in_thread
from daemon.settings import Settings, SettingsError
from market.clock import Clock
from market.warehouse import Warehouse
from training.registry import Registry

MARKET_KEY = "market_identity"
INTERVAL_KEY = "interval"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stores:
    """The open stores of one daemon; ``clock`` stamps what is written to them."""

    clock: Clock
    ledger: Store
    registry: Registry
    warehouse: Warehouse
    journal: Journal


async def open_stores(settings: Settings, clock: Clock, stack: AsyncExitStack) -> Stores:
    """Open ledger, registry and warehouse; ``stack`` closes them.

    Raises:
        SettingsError: the ledger's account trades another market, or at another interval.
        WarehouseError: the warehouse cannot be opened.
    """
    ledger = await in_thread(Store.open, settings.ledger_url)
    stack.callback(ledger.close)
    registry = await in_thread(Registry.open, settings.ledger_url)
    stack.callback(registry.close)
    _check_market(ledger, settings)
    warehouse = await in_thread(Warehouse.open, settings.warehouse_url)
    stack.callback(warehouse.close)
    _check_interval(ledger, settings)
    return Stores(
        clock=clock,
        ledger=ledger,
        registry=registry,
        warehouse=warehouse,
        journal=Journal(ledger, now=clock.now),
    )


def _check_market(ledger: Store, settings: Settings) -> None:
    """Refuse another market than the account was traded on."""
    known = ledger.meta(MARKET_KEY)
    if known is None:
        ledger.set_meta(MARKET_KEY, settings.market_identity)
    elif known != settings.market_identity:
        raise SettingsError(
            f"state_dir = {str(settings.state_dir)!r}: its account trades {known!r}, the settings "
            f"say {settings.market_identity!r}; use another state_dir for another market"
        )


def _check_interval(ledger: Store, settings: Settings) -> None:
    """Refuse another bar length than the account was traded at."""
    known, wanted = ledger.meta(INTERVAL_KEY), settings.exchange.interval
    if known is None:
        ledger.set_meta(INTERVAL_KEY, wanted)
    elif known != wanted:
        raise SettingsError(
            f"exchange.interval = {wanted!r}: the account in {settings.state_dir} is traded at "
            f"{known!r}; use another state_dir for another interval"
        )
