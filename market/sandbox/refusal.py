"""What a venue says instead of an answer while a fault of REST answers is on. Pure.

Statuses and texts are Binance's, on every venue: Bybit itself answers 10006 or 403.
"""

from __future__ import annotations

import math
from dataclasses import replace

from market.sandbox import spoil
from market.sandbox.dialect import Reply
from market.sandbox.fault import Fault, FaultKind


def refusal(fault: Fault, reply: Reply, *, now: int) -> Reply:
    """Return what a fault makes of an answer; ``Retry-After`` counts the venue's seconds.

    Args:
        fault: one of ``REST_KINDS`` but ``stall``, which has no answer.
        reply: what the venue would have said.
        now: UTC milliseconds of the venue.
    """
    until = fault.until if fault.until is not None else now
    patience = {"Retry-After": str(max(1, math.ceil((until - now) / 1000)))}
    match fault.kind:
        case FaultKind.RATE_LIMITED:
            body = '{"code":-1003,"msg":"Too many requests; current limit is reached."}'
            return Reply(body=body, status=429, headers=patience)
        case FaultKind.BANNED:
            body = (
                f'{{"code":-1003,"msg":"Way too many requests; IP banned until {until}. '
                'Please use the websocket for live updates to avoid bans."}'
            )
            return Reply(body=body, status=418, headers=patience)
        case FaultKind.BLOCKED:
            body = (
                '{"code":0,"msg":"Service unavailable from a restricted location according to '
                "'b. Eligibility' in the terms.\"}"
            )
            return Reply(body=body, status=451)
        case FaultKind.OUTAGE_HTML:
            return Reply(body=spoil.OUTAGE_PAGE, status=503, content_type="text/html")
        case FaultKind.OUTAGE_JSON:
            body = '{"code":-1,"msg":"Service Unavailable."}'
            return Reply(body=body, status=503)
        case FaultKind.HTML_ON_200:
            return Reply(body=spoil.MAINTENANCE_PAGE, content_type="text/html")
        case FaultKind.TRUNCATED_JSON:
            return replace(reply, body=spoil.cut_off(reply.body))
        case FaultKind.NULL_ROWS:
            return replace(reply, body=spoil.null_rows(reply.body))
        case other:
            raise ValueError(f"{other} is no fault of an answer")
