"""What can go wrong at a venue, as values: the kinds of fault and one scripted fault.

Pure. Which answer or frame a fault changes, and how, is decided in ``injector``; what each kind
looks like, what stays true and what a good client does is in docs/faults.md. Every time and
duration is the venue's.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, fields
from decimal import Decimal

SECOND_MS = 1000


class FaultKind(enum.StrEnum):
    """Everything that real venues did to real daemons and that the sandbox can do again."""

    # Connections
    SILENCE = "silence"  # no frames on the connections that are open; pings are answered
    DISCONNECT = "disconnect"  # every websocket is closed
    RESET = "reset"  # every TCP connection of a websocket is aborted
    HALF_OPEN = "half_open"  # open connections say nothing and answer nothing, pings neither
    SUBSCRIBED_NO_DATA = "subscribed_no_data"  # a subscription is acknowledged, and nothing comes
    # REST answers
    RATE_LIMITED = "rate_limited"  # 429 with Retry-After
    BANNED = "banned"  # 418 "banned until <ms>" with Retry-After
    BLOCKED = "blocked"  # 451: this region is refused
    OUTAGE_HTML = "outage_html"  # 503 with a page
    OUTAGE_JSON = "outage_json"  # 503 with JSON code -1
    HTML_ON_200 = "html_on_200"  # a maintenance page with status 200
    TRUNCATED_JSON = "truncated_json"  # 200, cut off in the middle
    NULL_ROWS = "null_rows"  # 200, rows of null
    STALL = "stall"  # the answer never comes
    # Frames
    MALFORMED_FRAME = "malformed_frame"  # text that is no JSON
    TRUNCATED_FRAME = "truncated_frame"  # the first half of the frame
    # Bars
    LATE_FINAL = "late_final"  # the venue closes a bar `delay_ms` after its time
    FORMING_STAYS = "forming_stays"  # a closed bar is sent as forming for ever
    DUPLICATE_FINAL = "duplicate_final"  # two final frames, one with values that never were
    OUT_OF_ORDER = "out_of_order"  # a final frame comes after that of the next bar
    MISSING_BARS = "missing_bars"  # the venue has no bars of the time
    SHIFTED_TIMES = "shifted_times"  # open times in frames off by `shift_ms`
    NAN_FIELDS = "nan_fields"  # prices that are no numbers
    # The market itself
    DELISTING = "delisting"  # from then on the symbol is gone
    RENAMING = "renaming"  # the symbol goes on under another name
    FUNDING_INTERVAL = "funding_interval"  # settlements come at another interval
    MIN_NOTIONAL = "min_notional"  # the smallest order grows
    # Time
    CLOCK_SKEW = "clock_skew"  # the venue's own clock is off by `shift_ms`


class Place(enum.StrEnum):
    """Where prices are spoilt."""

    FRAMES = "frames"
    ROWS = "rows"
    BOTH = "both"


# Facts of the market: they begin and do not end.
LASTING = frozenset(
    {
        FaultKind.DELISTING,
        FaultKind.RENAMING,
        FaultKind.FUNDING_INTERVAL,
        FaultKind.MIN_NOTIONAL,
    }
)

# These cut what is open at one moment; a duration turns away new connections as well.
CUTTING = frozenset({FaultKind.DISCONNECT, FaultKind.RESET})

# These concern the venue as a whole and name no symbols.
WHOLE_VENUE = frozenset(
    {
        FaultKind.DISCONNECT,
        FaultKind.RESET,
        FaultKind.HALF_OPEN,
        FaultKind.CLOCK_SKEW,
    }
)

REST_KINDS = (
    FaultKind.RATE_LIMITED,
    FaultKind.BANNED,
    FaultKind.BLOCKED,
    FaultKind.OUTAGE_HTML,
    FaultKind.OUTAGE_JSON,
    FaultKind.HTML_ON_200,
    FaultKind.TRUNCATED_JSON,
    FaultKind.NULL_ROWS,
    FaultKind.STALL,
)

# Parameters that a kind takes besides kind, at, duration_ms and symbols; True: it must have it.
PARAMETERS: dict[FaultKind, dict[str, bool]] = {
    FaultKind.LATE_FINAL: {"delay_ms": True},
    FaultKind.DUPLICATE_FINAL: {"wrong_first": False},
    FaultKind.SHIFTED_TIMES: {"shift_ms": True},
    FaultKind.CLOCK_SKEW: {"shift_ms": True},
    FaultKind.NAN_FIELDS: {"text": False, "place": False},
    FaultKind.RENAMING: {"renamed_to": True},
    FaultKind.FUNDING_INTERVAL: {"funding_interval_minutes": True},
    FaultKind.MIN_NOTIONAL: {"min_notional": True},
}

NO_NUMBERS = ("NaN", "null", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing that goes wrong in ``[at, at + duration_ms)`` of the venue's time.

    Attributes:
        at: UTC milliseconds.
        duration_ms: 0 for facts of the market, which last; 0 allowed for a cut of connections.
        symbols: unified symbols; empty for all.
        delay_ms: ``late_final``: how long after its close a bar becomes final.
        shift_ms: ``shifted_times`` and ``clock_skew``: what is added to true times.
        wrong_first: ``duplicate_final``: whether the values that never were come first.
        text: ``nan_fields``: what stands for a price: ``NaN``, ``null`` or nothing.
        place: ``nan_fields``: frames, REST rows or both.
        renamed_to: ``renaming``: the new unified symbol.
        funding_interval_minutes: ``funding_interval``: the new interval.
        min_notional: ``min_notional``: the new one, quote currency.
    """

    kind: FaultKind
    at: int
    duration_ms: int = 0
    symbols: tuple[str, ...] = ()
    delay_ms: int = 0
    shift_ms: int = 0
    wrong_first: bool = False
    text: str = "NaN"
    place: Place = Place.FRAMES
    renamed_to: str = ""
    funding_interval_minutes: int = 0
    min_notional: Decimal = Decimal(0)

    def __post_init__(self) -> None:
        if self.duration_ms < 0:
            raise ValueError(f"{self.kind}: a duration must not be negative")
        if self.kind in LASTING and self.duration_ms:
            raise ValueError(f"{self.kind} lasts: it takes no duration")
        if not self.duration_ms and self.kind not in LASTING | CUTTING:
            raise ValueError(f"{self.kind} needs a positive duration")
        if self.symbols and self.kind in WHOLE_VENUE:
            raise ValueError(f"{self.kind} concerns the whole venue: it takes no symbols")
        if self.kind in LASTING and not self.symbols:
            raise ValueError(f"{self.kind} needs symbols")
        if self.kind is FaultKind.RENAMING and len(self.symbols) != 1:
            raise ValueError(f"{self.kind} needs exactly one symbol")
        if self.text not in NO_NUMBERS:
            raise ValueError(f"{self.kind}: text must be one of {NO_NUMBERS}, got {self.text!r}")
        self._check_parameters()

    def _check_parameters(self) -> None:
        allowed = PARAMETERS.get(self.kind, {})
        for field in fields(self):
            if field.name in ("kind", "at", "duration_ms", "symbols"):
                continue
            given = getattr(self, field.name) != field.default
            if given and field.name not in allowed:
                raise ValueError(f"{self.kind} takes no {field.name}")
            if not given and allowed.get(field.name):
                raise ValueError(f"{self.kind} needs {field.name}")

    @property
    def until(self) -> int | None:
        """When it ends, UTC milliseconds, exclusive; ``None`` for what lasts."""
        return None if self.kind in LASTING else self.at + self.duration_ms

    def holds(self, now: int) -> bool:
        """Whether the fault is on at ``now``."""
        return self.at <= now and (self.until is None or now < self.until)

    def concerns(self, symbol: str | None) -> bool:
        """Whether it touches what belongs to ``symbol``; ``None`` belongs to no symbol."""
        return not self.symbols or symbol in self.symbols
