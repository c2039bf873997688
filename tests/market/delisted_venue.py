"""A venue on the small tape that has delisted SOL before anybody meets it."""

from __future__ import annotations

from market.bar import HOUR_MS
from market.instrument import Venue
from market.sandbox.fault import Fault, FaultKind
from market.sandbox.server import Sandbox, SandboxOptions
from tests.market.sandbox_client import T0
from tests.market.small_tape import SOL, small_tape


def venue_without_sol(venue: Venue) -> Sandbox:
    """Return a sandbox in lock-step at T0; SOL was delisted an hour before."""
    delisting = Fault(kind=FaultKind.DELISTING, at=T0 - HOUR_MS, symbols=(SOL,))
    return Sandbox(
        SandboxOptions(
            tape=small_tape(venue), start=T0, lock_step=True, speed=0.0, faults=(delisting,)
        )
    )
