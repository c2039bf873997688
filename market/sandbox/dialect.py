"""What it takes to speak like one venue, without a socket: text and queries in, values out.

A dialect turns a request into a ``Reply`` and a websocket message into a ``Heard``; the server does
all IO, so that every answer and every frame passes one place. A dialect must never read a clock:
``now`` is an argument.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Protocol

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One HTTP answer; ``body`` is JSON text unless ``content_type`` says otherwise."""

    body: str
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str = "application/json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """What a websocket message led to: texts to send back and the change in subscriptions."""

    replies: tuple[str, ...] = ()
    subscribed: tuple[str, ...] = ()
    unsubscribed: tuple[str, ...] = ()


class Refusal(Exception):
    """A request that the venue turns down, with its own code and message."""

    def __init__(self, code: int, message: str) -> None:
        """Keep the venue's code and text."""
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


class Dialect(Protocol):
    """One venue's public market-data protocol over a ``Playback``.

    Attributes:
        heartbeat_seconds: real seconds between the pings that the venue sends; ``None`` where it
            waits for the client's own ``{"op": "ping"}`` instead.
        silence_seconds: real seconds after its last pong (or, where the client pings, its last
            message) at which the venue drops a connection.
        enforce_limits: whether requests over the venue's limit are refused; they are counted, in
            venue time, and stated in the headers either way.
    """

    heartbeat_seconds: float | None
    silence_seconds: float
    enforce_limits: bool

    def answer(self, path: str, query: Mapping[str, str], *, now: int) -> Reply | None:
        """Answer a GET request; ``None`` when the venue has no such path."""
        ...

    def opening_topics(self, path: str, query: Mapping[str, str]) -> tuple[str, ...] | None:
        """Return the topics named in a websocket URL; ``None`` when it is no websocket path."""
        ...

    def wraps_frames(self, path: str) -> bool:
        """Whether a connection opened at ``path`` gets every frame inside its topic's envelope."""
        ...

    def kline_topic(self, venue_symbol: str) -> str:
        """Return the topic on which the tape's own bars of a symbol are sent."""
        ...

    def hear(self, text: str, topics: frozenset[str], *, now: int) -> Heard:
        """Answer a websocket message of a client that is subscribed to ``topics``."""
        ...

    def final_frame(self, topic: str, open_time: int, *, now: int) -> str | None:
        """Return the closing frame of a bar; ``None`` for other topics and missing bars."""
        ...

    def update_frame(self, topic: str, *, now: int) -> str | None:
        """Return what ``topic`` shows at ``now``, such as a forming bar; ``None`` for nothing."""
        ...


def number_text(value: float) -> str:
    """Write a float so that ``float(text) == value``, without exponent; NaN becomes ``""``."""
    if math.isnan(value):
        return ""
    text = repr(value)
    return format(Decimal(text), "f") if "e" in text else text


def decimal_text(value: Decimal) -> str:
    """Write a Decimal without exponent, its trailing zeros kept."""
    return format(value, "f")


def compact_json(value: Json) -> str:
    """Write JSON as venues do: no blanks, keys in the order given."""
    return json.dumps(value, separators=(",", ":"))
