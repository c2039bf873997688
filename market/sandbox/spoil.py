"""What a fault makes of one text that the venue would have sent. Pure: text in, text out.

Knows the places of times and prices in the frames and rows of all venues, and nothing of when a
fault is on. A text that holds no such place leaves unchanged.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from market.sandbox.dialect import compact_json, number_text

MAINTENANCE_PAGE = (
    "<html><head><title>Maintenance</title></head><body><h1>We will be back soon</h1></body></html>"
)
OUTAGE_PAGE = (
    "<html><head><title>503 Service Temporarily Unavailable</title></head>"
    "<body><center><h1>503 Service Temporarily Unavailable</h1></center></body></html>"
)
NO_JSON = '{"e":"kline",,"k":{"t":}'

# Where an answer or a frame states the venue's own time. "T" is not among them: it is also the
# close of a bar and the next settlement.
_CLOCK_KEYS = {
    "serverTime": 1.0,
    "time": 1.0,
    "E": 1.0,
    "ts": 1.0,
    "cts": 1.0,
    "timestamp": 1.0,
    "timeSecond": 1e-3,
    "timeNano": 1e6,
}
# A time further than this from the venue's own is not its clock.
_NEAR_MS = 5_000


@dataclass(frozen=True, slots=True, kw_only=True)
class _Keys:
    """The names of one venue family's kline fields."""

    times: tuple[str, str]
    prices: tuple[str, str, str, str]
    volume: str
    final: str
    row: tuple[str, ...]


_BINANCE = _Keys(
    times=("t", "T"),
    prices=("o", "h", "l", "c"),
    volume="v",
    final="x",
    row=("t", "o", "h", "l", "c", "v", "T", "q", "n", "V", "Q"),
)
_BYBIT = _Keys(
    times=("start", "end"),
    prices=("open", "high", "low", "close"),
    volume="volume",
    final="confirm",
    row=("start", "open", "high", "low", "close", "volume", "turnover"),
)
_PRICE_CELLS = range(1, 5)


def cut_off(text: str) -> str:
    """Return the first half of ``text``."""
    return text[: len(text) // 2]


def shifted(frame: str, shift_ms: int) -> str:
    """Move the open and the close time of a kline frame."""
    message = json.loads(frame)
    kline, keys = _kline(message)
    for name in keys.times if kline else ():
        kline[name] += shift_ms
    return compact_json(message)


def priceless(frame: str, word: str) -> str:
    """Replace the prices of a kline frame by ``word`` (``null`` becomes JSON's null)."""
    message = json.loads(frame)
    kline, keys = _kline(message)
    for name in keys.prices if kline else ():
        kline[name] = _no_number(word)
    return compact_json(message)


def wrong_values(frame: str) -> str:
    """Give a kline frame a close and a volume that never were, as a sound bar would have them."""
    message = json.loads(frame)
    kline, keys = _kline(message)
    if kline:
        _, high, low, close = keys.prices
        kline[close] = kline[low] if kline[close] != kline[low] else kline[high]
        volume = kline[keys.volume]
        kline[keys.volume] = number_text(2 * float(volume) + 1 if volume else 1.0)
    return compact_json(message)


def skewed(text: str, *, shift_ms: int, around: int) -> str:
    """Move every statement of the venue's clock that lies around ``around``; no JSON stays."""
    try:
        message = json.loads(text)
    except ValueError:
        return text
    return compact_json(_skewed(message, shift_ms, around))


def null_rows(body: str) -> str:
    """Replace every cell of every kline row by null."""
    message = json.loads(body)
    for row in _rows(message):
        row[:] = [None] * len(row)
    return compact_json(message)


def priceless_rows(body: str, word: str) -> str:
    """Replace the prices of every kline row by ``word``."""
    message = json.loads(body)
    for row in _rows(message):
        for cell in _PRICE_CELLS:
            row[cell] = _no_number(word)
    return compact_json(message)


def before_close(body: str, *, close_time: int, forming_frame: str | None) -> str:
    """Return kline rows as they were just before ``close_time``.

    Rows that open at ``close_time`` or later are not there yet; the last one before shows what
    ``forming_frame`` shows.
    """
    message = json.loads(body)
    rows = _rows(message)
    rows[:] = [row for row in rows if int(row[0]) < close_time]
    if forming_frame is not None:
        kline, keys = _kline(json.loads(forming_frame))
        for row in rows:
            if int(row[0]) == kline[keys.times[0]]:
                for cell, name in enumerate(keys.row[1:], start=1):
                    row[cell] = kline[name]
    return compact_json(message)


def has_rows(body: str) -> bool:
    """Whether an answer holds at least one kline row."""
    try:
        return bool(_rows(json.loads(body)))
    except ValueError:
        return False


def _kline(message: Any) -> tuple[dict[str, Any], _Keys]:
    """The kline in a frame, empty when it is none, and what its fields are called."""
    if isinstance(message, dict) and isinstance(message.get("k"), dict):
        return message["k"], _BINANCE
    data = message.get("data") if isinstance(message, dict) else None
    if isinstance(data, list) and data and "confirm" in data[0]:
        return data[0], _BYBIT
    return {}, _BINANCE


def _rows(message: Any) -> list[list[Any]]:
    """The kline rows of an answer, to be changed in place."""
    if isinstance(message, dict):
        result = message.get("result")
        message = result.get("list") if isinstance(result, dict) else None
    if isinstance(message, list) and all(isinstance(row, list) for row in message):
        return message
    return []


def _no_number(word: str) -> str | None:
    return None if word == "null" else word


def _skewed(message: Any, shift_ms: int, around: int) -> Any:
    if isinstance(message, list):
        return [_skewed(one, shift_ms, around) for one in message]
    if not isinstance(message, dict):
        return message
    return {
        name: _moved(value, _CLOCK_KEYS[name], shift_ms, around)
        if name in _CLOCK_KEYS and not isinstance(value, dict | list)
        else _skewed(value, shift_ms, around)
        for name, value in message.items()
    }


def _moved(value: Any, per_ms: float, shift_ms: int, around: int) -> Any:
    """A clock's statement moved, in its own unit and type."""
    try:
        number = int(value)
    except (TypeError, ValueError):
        return value
    if abs(number / per_ms - around) > _NEAR_MS:
        return value
    moved = number + round(shift_ms * per_ms)
    return str(moved) if isinstance(value, str) else moved
