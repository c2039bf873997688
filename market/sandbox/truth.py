"""Every bar that the venue truly has, whatever it said while a fault was on. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator

from market.sandbox.playback import Candle, Playback, Range

FIELDS = (
    "open", "high", "low", "close", "volume", "quote_volume", "trades", "taker_buy_volume",
)  # fmt: skip
_ALL = 2**40


def truth_rows(
    playback: Playback, *, since: int, until: int, now: int
) -> Iterator[dict[str, object]]:
    """Yield each interval that opened in ``[since, until)`` and has closed, by symbol and time.

    A bar has every field, ``None`` where the tape gives nothing; an interval without a bar has
    ``"absent": True`` instead.

    Args:
        playback: the tape after its edits.
        since: UTC milliseconds of the venue.
        until: UTC milliseconds of the venue.
        now: UTC milliseconds of the venue.
    """
    step = playback.interval_ms
    first = -(-since // step) * step
    last = min(until, now - step + 1)
    for venue_symbol, instrument in playback.instruments.items():
        rows = Range(since=first, until=last - 1, limit=_ALL, newest=False)
        bars = {bar.open_time: bar for bar in playback.bars(venue_symbol, rows, now=now)}
        for open_time in range(first, last, step):
            key: dict[str, object] = {"symbol": instrument.symbol, "open_time": open_time}
            yield key | _facts(bars.get(open_time))


def _facts(bar: Candle | None) -> dict[str, object]:
    if bar is None:
        return {"absent": True}
    values = {name: getattr(bar, name) for name in FIELDS}
    return {name: None if math.isnan(value) else value for name, value in values.items()}
