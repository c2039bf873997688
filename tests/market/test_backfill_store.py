"""What one write of fetched rows does with those that break a rule."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace

from market.backfill import Catch, store
from market.bar import HOUR_MS, BarDefect, MarkBar, RefusedSettlement
from market.quarantine import QuarantinedRow, QuarantineFilter
from market.rows import mark_defect
from market.warehouse import Origin, Warehouse

START = 1_699_999_200_000  # 2023-11-14 22:00 UTC
SOUND = MarkBar(symbol="A", open_time=START, open=10.0, high=12.0, low=9.0, close=11.0)
INVERTED = replace(SOUND, open_time=START + HOUR_MS, high=10.5)


def test_a_mark_candle_is_judged_like_a_bar() -> None:
    """The first rule that it breaks is named."""
    judged = {
        None: SOUND,
        BarDefect.RANGE_INVERTED: INVERTED,
        BarDefect.NOT_FINITE: replace(SOUND, close=math.nan),
        BarDefect.NOT_POSITIVE: replace(SOUND, low=0.0),
        BarDefect.MISALIGNED: replace(SOUND, open_time=START + 1),
        BarDefect.TOO_EARLY: replace(SOUND, open_time=START // 1000),
    }
    assert [mark_defect(bar, HOUR_MS) for bar in judged.values()] == list(judged)


def test_a_refused_mark_candle_is_kept(empty_warehouse: Warehouse) -> None:
    """It is in quarantine with all that it said, and the sound one is stored."""
    stored = store(
        Catch(mark_bars=[SOUND, INVERTED]),
        warehouse=empty_warehouse,
        venue="v",
        interval_ms=HOUR_MS,
        origin=Origin.REST,
        at=5,
    )
    assert stored.marks_refused == 1
    ((kind, defect, content),) = empty_warehouse._connection.rows(
        "SELECT kind, defect, content FROM quarantine FINAL", {}
    )
    assert (kind, defect) == ("mark_bars", BarDefect.RANGE_INVERTED.value)
    assert json.loads(content) | {"symbol": "A"} == asdict(INVERTED)
    times = empty_warehouse.mark_bar_times(
        "A", venue="v", interval_ms=HOUR_MS, since=START, until=START + 9 * HOUR_MS
    )
    assert times.tolist() == [START]


def test_a_settlement_that_cannot_be_read_is_kept(empty_warehouse: Warehouse) -> None:
    """It is in quarantine as it came, once, and counted each time; nothing else is written."""
    refused = RefusedSettlement(symbol="A", funding_time=START, content='{"fundingRate": ""}')
    for at in (5, 6):
        stored = store(
            Catch(settlements_refused=[refused]),
            warehouse=empty_warehouse,
            venue="v",
            interval_ms=HOUR_MS,
            origin=Origin.REST,
            at=at,
        )
        assert stored.settlements_refused == 1
    (row,) = empty_warehouse.quarantine.rows(QuarantineFilter(), limit=9)
    assert row == QuarantinedRow(
        kind="settlements",
        venue="v",
        interval_ms=0,
        symbol="A",
        time=START,
        defect=BarDefect.UNREADABLE.value,
        refused_at=6,
        content=refused.content,
    )
    assert empty_warehouse.settlement_venues() == ()
