"""The Crypto Fear & Greed index of alternative.me: one number a day, 0 (fear) to 100 (greed).

The endpoint is ``GET /fng/?limit=N`` (``limit=0``: everything since 2018); a row is
``{"value": "40", "value_classification": "Fear", "timestamp": "1551157200", …}`` with the time in
seconds. The value of a day comes out at its beginning, which is its timestamp. This module must
never guess: a row that is not a number from 0 to 100 with a time is refused, and counted.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence

import aiohttp

from market.bar import DAY_MS, HOUR_MS
from market.producers.producer import ProducerContext, ProducerFailed, ProducerFault, Row
from market.signals import (
    WHOLE_MARKET,
    RejectedSignal,
    Signal,
    SignalFault,
    SignalRejected,
    rejected,
)

BASE_URL = "https://api.alternative.me"
RECENT_DAYS = 10
# An older row was not observed when it came out: it fills a pause, or what a file left open.
OBSERVED_DAYS = 2
MOST_BYTES = 4 * 1024 * 1024


class FearGreed:
    """The index as a market-wide signal named ``value``."""

    name = "crypto_fear_greed"
    version = "1"
    cadence = "10 * * * *"  # the day's value may come late; asking hourly costs one small request
    lag_ms = HOUR_MS
    needs_history = False

    def __init__(self, *, base_url: str = BASE_URL, timeout_seconds: float = 20.0) -> None:
        """Keep where to ask, and how many real seconds an answer may take.

        Raises:
            ValueError: the URL is not HTTP, or the time-out is not positive.
        """
        if not str(base_url).startswith(("http://", "https://")):
            raise ValueError(f"base_url must be an http(s) URL, got {base_url!r}")
        if not timeout_seconds > 0:
            raise ValueError(f"timeout_seconds must be positive, got {timeout_seconds!r}")
        self._url = f"{str(base_url).rstrip('/')}/fng/"
        self._timeout_seconds = float(timeout_seconds)

    async def produce(self, now: int, context: ProducerContext) -> Sequence[Row]:
        """Return the whole history at the first run, and afterwards what is new.

        Raises:
            ProducerFailed: the site is out of reach, refuses us, or does not speak as documented.
        """
        first = context.last_event_time is None
        rows = _rows(await self._fetch(limit=_days_to_ask(now, context.last_event_time)))
        observed_since = now + 1 if first else now - OBSERVED_DAYS * DAY_MS
        found = [_signal(row, observed_since=observed_since) for row in rows]
        kept = [row for row in found if not (isinstance(row, Signal) and row.event_time > now)]
        if not any(isinstance(row, Signal) for row in found):
            raise ProducerFailed(
                ProducerFault.PAYLOAD, f"{self._url}: none of {len(found)} rows is usable"
            )
        return kept

    async def _fetch(self, *, limit: int) -> object:
        timeout = aiohttp.ClientTimeout(total=self._timeout_seconds)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.get(self._url, params={"limit": str(limit)}) as response,
            ):
                body = await response.content.read(MOST_BYTES + 1)
                status = response.status
                while len(body) <= MOST_BYTES and (more := await response.content.readany()):
                    body += more
        except TimeoutError as error:
            raise ProducerFailed(
                ProducerFault.TIMED_OUT,
                f"{self._url}: no whole answer in {self._timeout_seconds:g} s",
            ) from error
        except (aiohttp.ClientError, OSError) as error:
            raise ProducerFailed(ProducerFault.UNREACHABLE, f"{self._url}: {error}") from error
        if status != 200:
            raise ProducerFailed(ProducerFault.REFUSED, f"{self._url}: HTTP {status}")
        return self._parse(body)

    def _parse(self, body: bytes) -> object:
        if len(body) > MOST_BYTES:
            raise ProducerFailed(ProducerFault.PAYLOAD, f"{self._url}: more than {MOST_BYTES} B")
        try:
            parsed: object = json.loads(body)
        except ValueError as error:
            raise ProducerFailed(
                ProducerFault.PAYLOAD, f"{self._url}: not JSON: {body[:80]!r}"
            ) from error
        return parsed


def _days_to_ask(now: int, last_event_time: int | None) -> int:
    """The site's ``limit``: all there is at first, then what may be new or was revised."""
    if last_event_time is None:
        return 0
    return max(RECENT_DAYS, (now - last_event_time) // DAY_MS + 2)


def _rows(payload: object) -> Sequence[object]:
    """Return the ``data`` of a payload.

    Raises:
        ProducerFailed: it says that something is wrong, or has no rows.
    """
    if not isinstance(payload, Mapping):
        raise ProducerFailed(ProducerFault.PAYLOAD, "the answer is not a JSON object")
    metadata = payload.get("metadata")
    if isinstance(metadata, Mapping) and metadata.get("error"):
        raise ProducerFailed(ProducerFault.REFUSED, f"the site says: {metadata['error']}")
    rows = payload.get("data")
    if not isinstance(rows, list) or not rows:
        raise ProducerFailed(ProducerFault.PAYLOAD, "the answer has no rows under 'data'")
    return rows


def _signal(row: object, *, observed_since: int) -> Row:
    if not isinstance(row, Mapping):
        return _refused(SignalFault.NOT_A_NUMBER, row)
    value, seconds = _number(row.get("value")), _number(row.get("timestamp"))
    if value is None:
        return _refused(SignalFault.NOT_A_NUMBER, row)
    if not 0 <= value <= 100:
        return _refused(SignalFault.OUT_OF_RANGE, row)
    if seconds is None or seconds != int(seconds):
        return _refused(SignalFault.BAD_TIME, row)
    try:
        return Signal(
            source=FearGreed.name,
            version=FearGreed.version,
            symbol=WHOLE_MARKET,
            event_time=int(seconds) * 1000,
            published_at=int(seconds) * 1000,
            ingested_at=0,
            name="value",
            value=value,
            is_backfilled=int(seconds) * 1000 < observed_since,
            lag_ms=FearGreed.lag_ms,
        )
    except SignalRejected as error:
        return _refused(error.fault, row)


def _number(value: object) -> float | None:
    """A finite number out of a JSON string or number."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _refused(fault: SignalFault, row: object) -> RejectedSignal:
    return rejected(fault, f"{fault.value}: {str(row)[:200]}", row)
