"""What the doctor finds, and how a list of assumptions about a venue is tried one by one.

An assumption is something that the code relies on and that only the venue can confirm. Nothing
here knows a venue; it must never ask one again that has told us to stay away.
"""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from market.retry import RateLimited, RegionBlocked, VenueError, VenueUnavailable

Probe = TypeVar("Probe")
Progress = Callable[[str, int, int], None]

_NONSENSE = (ValueError, KeyError, TypeError, IndexError, AttributeError)


class Outcome(enum.StrEnum):
    """What came of one trial."""

    HOLDS = "holds"
    DIFFERS = "differs"
    UNREACHABLE = "unreachable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One assumption after its trial.

    Attributes:
        expected: what the code relies on.
        found: what is so.
        consequence: what would go wrong where it differs, one sentence.
    """

    name: str
    outcome: Outcome
    expected: str
    found: str
    consequence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What one trial saw, and whether it is what was expected."""

    holds: bool
    found: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Assumption(Generic[Probe]):
    """Something that we rely on, and how to try it with a probe.

    ``try_it`` raises ``VenueError`` where the venue gave no answer to judge; an answer that cannot
    be read at all raises what reading it raised.
    """

    name: str
    expected: str
    consequence: str
    try_it: Callable[[Probe], Awaitable[Observation]]

    def finding(self, outcome: Outcome, found: str) -> Finding:
        """Join the assumption and what came of it."""
        return Finding(
            name=self.name,
            outcome=outcome,
            expected=self.expected,
            found=found,
            consequence=self.consequence,
        )


async def examine(
    assumptions: Sequence[Assumption[Probe]], probe: Probe, *, progress: Progress
) -> list[Finding]:
    """Try every assumption in order.

    The first one decides whether there is a venue at all: where it finds none, or where the venue
    closes its door later (a ban, a blocked region), nothing more is asked and the rest is
    unreachable for that one cause.
    """
    findings: list[Finding] = []
    closed: VenueError | None = None
    for number, one in enumerate(assumptions):
        progress(one.name, number, len(assumptions))
        if closed is not None:
            findings.append(one.finding(Outcome.UNREACHABLE, str(closed)))
            continue
        finding, fault = await _try(one, probe)
        findings.append(finding)
        is_door_closed = isinstance(fault, RateLimited | RegionBlocked)
        if is_door_closed or (number == 0 and isinstance(fault, VenueUnavailable)):
            closed = fault
    progress("done", len(assumptions), len(assumptions))
    return findings


async def _try(one: Assumption[Probe], probe: Probe) -> tuple[Finding, VenueError | None]:
    try:
        seen = await one.try_it(probe)
    except VenueError as error:
        return one.finding(_outcome_of(error), str(error)), error
    except _NONSENSE as error:
        return one.finding(Outcome.DIFFERS, f"an answer that cannot be read: {error!r}"), None
    outcome = Outcome.HOLDS if seen.holds else Outcome.DIFFERS
    return one.finding(outcome, seen.found), None


def _outcome_of(error: VenueError) -> Outcome:
    """An answer that makes no sense to us, or a refusal of what we asked, is a difference."""
    if isinstance(error, RegionBlocked | RateLimited):
        return Outcome.UNREACHABLE
    if isinstance(error, VenueUnavailable) and not error.cause.startswith("unreadable"):
        return Outcome.UNREACHABLE
    return Outcome.DIFFERS
