"""Gaps: bars that should be there and are not, and why.

A bar is missing for one of three reasons, and never filled with a flat price. A missing bar about
which nothing is recorded counts as fetchable.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class GapKind(enum.StrEnum):
    """Why a bar is missing."""

    FETCHABLE = "fetchable"  # the venue should have it: ask
    ABSENT = "absent"  # verified: the venue serves later bars and not this one
    DEFERRED = "deferred"  # the venue could not be asked: ask again later


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """One missing bar; a later version of the same bar replaces an earlier one.

    Attributes:
        noticed_at: when it was first found missing, UTC milliseconds.
        updated_at: when this version was written.
        attempts: how often the venue was asked for it.
        reason: the fault or the evidence, for people.
        closed_at: when the bar came after all; ``None`` while it is missing.
    """

    symbol: str
    open_time: int
    kind: GapKind
    noticed_at: int
    updated_at: int
    attempts: int = 0
    reason: str = ""
    closed_at: int | None = None
