"""How both of Binance's markets are spoken to over a websocket: paths, subscriptions, channels."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from market.sandbox.dialect import Heard, Json, compact_json

# /ws and /stream, and where ccxt sends them: /market/ws/0, /public/ws/0 (a number is no stream).
_SOCKET_PATH = re.compile(r"(?:/(?:market|public))?/(ws|stream)(?:/(.*))?")
_PARTIAL_DEPTH = re.compile(r"depth(5|10|20)(?:@(?:100|250|500|1000)ms)?")


def opening_topics(path: str, query: Mapping[str, str]) -> tuple[str, ...] | None:
    """Return the streams of ``/ws/a/b`` or ``/stream?streams=a/b``; ``None``: no socket path."""
    match = _SOCKET_PATH.fullmatch(path)
    if match is None:
        return None
    named = query.get("streams", "") if match[1] == "stream" else match[2] or ""
    return tuple(name for name in named.split("/") if name and not name.isdigit())


def wraps_frames(path: str) -> bool:
    """Combined streams (``/stream``) wrap each frame as ``{"stream", "data"}``."""
    match = _SOCKET_PATH.fullmatch(path)
    return match is not None and match[1] == "stream"


def partial_depth(channel: str) -> int | None:
    """Return the depth of ``depth5``, ``depth20@100ms``, ...; ``None`` for other channels."""
    match = _PARTIAL_DEPTH.fullmatch(channel)
    return int(match[1]) if match else None


def hear(text: str, topics: frozenset[str], *, now: int) -> Heard:
    """Answer SUBSCRIBE, UNSUBSCRIBE and LIST_SUBSCRIPTIONS.

    Like the venue, it acknowledges a stream that does not exist and then sends nothing on it.
    """
    del now
    try:
        message = json.loads(text)
    except ValueError as broken:
        return _socket_error(3, f"Invalid JSON: {broken}", None)
    if not isinstance(message, dict) or "method" not in message:
        return _socket_error(2, "Invalid request: missing field `method`", None)
    number, streams = message.get("id"), message.get("params", [])
    if not isinstance(streams, list) or not all(isinstance(one, str) for one in streams):
        return _socket_error(2, "Invalid request: params must be strings", number)
    acknowledged = compact_json({"result": None, "id": number})
    match message["method"]:
        case "SUBSCRIBE":
            return Heard(replies=(acknowledged,), subscribed=tuple(streams))
        case "UNSUBSCRIBE":
            return Heard(replies=(acknowledged,), unsubscribed=tuple(streams))
        case "LIST_SUBSCRIPTIONS":
            listed: list[Json] = [*sorted(topics)]
            return Heard(replies=(compact_json({"result": listed, "id": number}),))
        case unknown:
            return _socket_error(2, f"Invalid request: unknown variant `{unknown}`", number)


def _socket_error(code: int, message: str, number: Json) -> Heard:
    error: Json = {"code": code, "msg": message}
    body: dict[str, Json] = {"error": error} if number is None else {"error": error, "id": number}
    return Heard(replies=(compact_json(body),))
