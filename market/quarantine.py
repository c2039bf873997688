"""The quarantine as a table: rows that were refused, as they came, each with its reason.

Owns no connection and runs no statement.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from market.bar import Bar, BarDefect, MarkBar, is_count
from market.signals import RejectedSignal
from market.tables import OF_INTERVAL, OPTIONAL, TRADED, content_of

COUNT_BY_SYMBOL = f"SELECT symbol, count() FROM quarantine FINAL {OF_INTERVAL} GROUP BY symbol"
COUNT_BY_DEFECT = (
    "SELECT symbol, defect, count() FROM quarantine FINAL "
    f"{OF_INTERVAL} GROUP BY symbol, defect ORDER BY symbol, defect"
)


def bar_columns(
    rows: Sequence[tuple[Bar | MarkBar, BarDefect]],
    *,
    kind: str,
    venue: str,
    interval_ms: int,
    ingested_at: int,
    contents: Sequence[str] | None = None,
) -> dict[str, list[Any]]:
    """The rows of ``quarantine`` for refused bars, by column.

    ``contents`` are the rows as they came, where they have more than a bar's columns.
    """
    bars = [bar for bar, _ in rows]
    values = {name: [getattr(bar, name) for bar in bars] for name in ("symbol", "open_time")}
    values |= {name: [getattr(bar, name, math.nan) for bar in bars] for name in TRADED}
    values |= {name: [getattr(bar, name, None) for bar in bars] for name in OPTIONAL}
    # The column holds counts alone; what was said instead is in the content.
    values["trades"] = [
        int(trades) if trades is not None and is_count(trades) else None
        for trades in values["trades"]
    ]
    return values | {
        "content": list(contents) if contents is not None else list(map(content_of, bars)),
        "kind": [kind] * len(bars),
        "venue": [venue] * len(bars),
        "interval_ms": [interval_ms] * len(bars),
        "defect": [defect.value for _, defect in rows],
        "ingested_at": [ingested_at] * len(bars),
    }


def signal_columns(refused: Sequence[RejectedSignal], *, ingested_at: int) -> dict[str, list[Any]]:
    """The rows of ``quarantine`` for refused signals: all that they have is their content."""
    count = len(refused)
    fixed = {"kind": "signals", "venue": "", "interval_ms": 0, "symbol": "", "open_time": 0}
    fixed |= dict.fromkeys(TRADED, math.nan) | dict.fromkeys(OPTIONAL)
    return {name: [value] * count for name, value in fixed.items()} | {
        "defect": [one.fault.value for one in refused],
        "ingested_at": [ingested_at] * count,
        "content": [one.content or one.message for one in refused],
    }
