"""How a daemon gets at its venue: where it is, whose limits apply, which instruments it trades.

Nothing is written here: an unreachable venue leaves no trace on the disk.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass, replace

import structlog

from broker.database import database_exists
from broker.store import Store
from daemon.loop import in_thread
from daemon.recovery import recall_instruments
from daemon.settings import Settings
from daemon.venue import OwnSandbox, VenueTime, ask_venue_time
from market.budget import LIMITS, Budget
from market.exchange import Exchange
from market.instrument import Instrument

log = structlog.get_logger()

BAN_FILE = "venue-ban.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class VenueAccess:
    """Where the venue is found.

    Attributes:
        base_url: root of a sandbox; ``None`` for the live venue.
        time: what a sandbox says of itself; ``None`` where it is no sandbox of ours.
        own: the child process, where the daemon has started the sandbox itself.
    """

    base_url: str | None
    time: VenueTime | None
    own: OwnSandbox | None

    @property
    def in_lock_step(self) -> bool:
        """Whether the venue waits for the commit of each decision."""
        return self.time is not None and self.time.lock_step

    @property
    def speed(self) -> float:
        """Venue seconds per real second that decisions are measured by."""
        return 1.0 if self.time is None or self.in_lock_step else self.time.speed


async def find_venue(settings: Settings, stack: AsyncExitStack) -> VenueAccess:
    """Start the daemon's own sandbox if the settings ask for it; ask a sandbox for its clock.

    Raises:
        SandboxFailed, SandboxRefused: the own sandbox did not come up.
    """
    base_url, sandbox = settings.exchange.base_url, None
    if settings.sandbox.enabled:
        resume_at = await in_thread(_last_decision_time, settings)
        sandbox = await stack.enter_async_context(OwnSandbox(settings, resume_at=resume_at))
        base_url = sandbox.url
        log.info("sandbox_started", url=base_url, market=settings.market_identity)
    if base_url is None:
        return VenueAccess(base_url=None, time=None, own=None)
    return VenueAccess(base_url=base_url, time=await ask_venue_time(base_url), own=sandbox)


async def open_exchange(settings: Settings, access: VenueAccess, stack: AsyncExitStack) -> Exchange:
    """Connect to the venue; ``stack`` closes the connection.

    Raises:
        VenueError: the venue cannot be reached or refuses us.
    """
    exchange = await Exchange.open(
        settings.exchange.name, base_url=access.base_url, budget=_budget(settings, access)
    )
    stack.push_async_callback(exchange.close)
    return exchange


async def load_instruments(exchange: Exchange, settings: Settings) -> tuple[Instrument, ...]:
    """The venue's rules; a symbol that it has delisted keeps those of an earlier run.

    Raises:
        NotOffered: the venue does not list a symbol, and no earlier run knew it.
    """
    symbols = settings.exchange.symbols
    gone = [symbol for symbol in symbols if not exchange.lists(symbol)]
    known = await in_thread(recall_instruments, settings.ledger_url) if gone else {}
    asked = [symbol for symbol in symbols if exchange.lists(symbol) or symbol not in known]
    fresh = {one.symbol: one for one in await exchange.load_instruments(asked)}
    for symbol in set(symbols) - set(fresh):
        log.warning(
            "symbol_delisted", symbol=symbol, remedy="its position is kept at its last mark"
        )
        fresh[symbol] = replace(known[symbol], is_trading=False)
    return tuple(fresh[symbol] for symbol in symbols)


def _last_decision_time(settings: Settings) -> int | None:
    """Where the account of an earlier run stands; a sandbox of ours resumes there."""
    if not database_exists(settings.ledger_url):
        return None
    store = Store.open(settings.ledger_url)
    try:
        return store.last_decision_time(settings.account.id)
    finally:
        store.close()


def _budget(settings: Settings, access: VenueAccess) -> Budget | None:
    """The venue's limits in its own time; a ban of a live venue outlives this process.

    A sandbox in lock-step stands still while we ask, and limits nobody.
    """
    venue = settings.exchange.name
    if access.base_url is None:
        return Budget(LIMITS[venue], ban_file=settings.state_dir / BAN_FILE)
    if access.time is None or access.in_lock_step:
        return None
    return Budget(LIMITS[venue], speed=access.time.speed)
