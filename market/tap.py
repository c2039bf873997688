"""The tap: what a websocket brought, as ccxt's receive loop hands it over.

It sits inside the client's message handler, so it must never block and never wait.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

import structlog

from market.bar import Bar
from market.rows import EVENT_TOLERANCE_MS, StreamUpdate

log = structlog.get_logger()

INBOX_BARS = 10_000

_NOTHING = StreamUpdate(event_time=None, final_bars=())


class Tap:
    """Final bars, signs of life, and the venue's latest time.

    Attributes:
        bars: final bars that nobody has taken yet.
        arrived: set whenever a bar is added.
        interval_ms: length of the bars that are subscribed.
        read: reads one message of the venue.
        on_subscribed: called when the venue confirms a subscription.
        note_time: called with the venue's time of each message.
        note_refused: called with each final bar that is not handed on; REST must bring it.
    """

    def __init__(self) -> None:
        self.bars: deque[Bar] = deque(maxlen=INBOX_BARS)
        self.arrived = asyncio.Event()
        self.interval_ms = 0
        self.on_subscribed: Callable[[], None] = lambda: None
        self.note_time: Callable[[int], None] = lambda _time: None
        self.note_refused: Callable[[Bar], None] = lambda _bar: None
        self.read: Callable[[object], StreamUpdate] = lambda _message: _NOTHING

    def take(self, message: object) -> None:
        """Keep the final bars of one message, unless they claim to close in the future."""
        update = self.read(message)
        if update.event_time is not None:
            self.note_time(update.event_time)
        for bar in update.final_bars:
            close_time = bar.open_time + self.interval_ms
            if (
                update.event_time is not None
                and close_time > update.event_time + EVENT_TOLERANCE_MS
            ):
                log.warning("final_bar_from_the_future", symbol=bar.symbol, open_time=bar.open_time)
                self.note_refused(bar)
                continue
            if len(self.bars) == INBOX_BARS:
                log.warning("final_bar_dropped", symbol=self.bars[0].symbol)
                self.note_refused(self.bars[0])
            self.bars.append(bar)
            self.arrived.set()
