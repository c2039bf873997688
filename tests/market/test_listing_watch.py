"""The listing watch: a change is known and kept before anybody hears of it, and no ask is lost."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from market.bar import DAY_MS
from market.clock import ManualClock
from market.exchange import Exchange
from market.instrument import Venue
from market.intake import COUNTERS
from market.listing import ListingChange, ListingEvent
from market.listing_watch import ListingWatch
from market.warehouse import Warehouse
from tests.market.fault_proxy import Fault, FaultProxy
from tests.market.sandbox_client import T0, get, sandbox, until
from tests.market.small_tape import SOL, SYMBOLS

LIST = "/fapi/v1/exchangeInfo"


@dataclass(frozen=True, kw_only=True)
class Heard:
    """What was known and stored when a change was told."""

    change: ListingChange
    gone: frozenset[str]
    is_listed: bool
    stored: tuple[ListingChange, ...]


@dataclass(kw_only=True)
class Post:
    """A watch behind a proxy, and what it told."""

    exchange: Exchange
    warehouse: Warehouse
    proxy: FaultProxy
    heard: list[Heard] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.watch = ListingWatch(
            exchange=self.exchange,
            warehouse=self.warehouse,
            clock=ManualClock(T0),
            symbols=SYMBOLS,
            counters=dict.fromkeys(COUNTERS, 0),
            on_change=self.hear,
        )

    def hear(self, changes: Sequence[ListingChange]) -> None:
        """Note the state of affairs at each change."""
        stored = self.warehouse.listing_changes(
            venue=self.exchange.venue, since=T0 - DAY_MS, until=T0 + DAY_MS
        )
        for change in changes:
            self.heard.append(
                Heard(
                    change=change,
                    gone=frozenset(self.watch.gone),
                    is_listed=change.symbol in self.watch.listed,
                    stored=tuple(stored),
                )
            )

    async def delist(self, venue_symbol: str) -> None:
        """Leave a symbol out of the venue's list from now on."""
        _, listed, _ = await get(self.proxy.url, LIST)
        listed["symbols"] = [one for one in listed["symbols"] if one["symbol"] != venue_symbol]
        answer = Fault(body=json.dumps(listed))
        self.proxy.answer = lambda path: answer if path.startswith(LIST) else None


@asynccontextmanager
async def post(warehouse: Warehouse) -> AsyncIterator[Post]:
    """Open the exchange; the watch has not looked yet."""
    async with sandbox(Venue.BINANCEUSDM) as server, FaultProxy(server.url) as proxy:
        exchange = await Exchange.open(Venue.BINANCEUSDM, base_url=proxy.url)
        try:
            yield Post(exchange=exchange, warehouse=warehouse, proxy=proxy)
        finally:
            await exchange.close()


async def test_a_change_is_known_and_stored_before_it_is_told(empty_warehouse: Warehouse) -> None:
    """Whoever hears of a delisting finds the symbol gone, off the list, and the row written."""
    async with post(empty_warehouse) as one:
        await one.watch.look()
        await one.delist("SOLUSDT")
        await one.watch.look()
    delisted = ListingChange(symbol=SOL, event=ListingEvent.DELISTED, noticed_at=T0)
    assert one.heard == [
        Heard(change=delisted, gone=frozenset({SOL}), is_listed=False, stored=(delisted,))
    ]


async def test_what_is_gone_at_the_first_look_is_gone(empty_warehouse: Warehouse) -> None:
    """There is no earlier list to compare with: it is known at once, and is no change."""
    async with post(empty_warehouse) as one:
        await one.delist("SOLUSDT")
        await one.watch.look()
    assert one.watch.gone.keys() == {SOL}
    assert one.heard == []


async def test_an_ask_while_the_list_is_read_is_another_look(
    empty_warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer under way may be from before what the asker saw; nobody asks: no third look."""
    monkeypatch.setattr("market.listing_watch.POLL_SECONDS", 0.01)
    async with post(empty_warehouse) as one:
        one.proxy.requests.clear()

        def ask_once(path: str) -> None:
            if path.startswith(LIST) and len(one.proxy.asked(LIST)) == 1:
                one.watch.ask()

        one.proxy.answer = ask_once
        watching = asyncio.create_task(one.watch.run())

        async def has_looked_twice() -> bool:
            return len(one.proxy.asked(LIST)) >= 2

        await until(has_looked_twice)
        await asyncio.sleep(0.2)
        watching.cancel()
        await asyncio.wait({watching})
        asked = len(one.proxy.asked(LIST))
    assert asked == 2
