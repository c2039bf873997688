"""A venue's settlements that cannot be read, from the wire to quarantine and the counters."""

from __future__ import annotations

import json

from market.bar import DAY_MS, HOUR_MS
from market.quarantine import QuarantineFilter
from market.warehouse import Warehouse
from tests.market.fault_proxy import Fault
from tests.market.sandbox_client import T0
from tests.market.small_tape import BTC
from tests.market.test_ingest import FUNDING, fail, running, scene

BAD = {"symbol": "BTCUSDT", "fundingTime": T0 - 8 * HOUR_MS, "fundingRate": "", "markPrice": "1"}
UNREADABLE = Fault(body=json.dumps([BAD]))


async def test_history_counts_and_keeps_what_it_cannot_read(empty_warehouse: Warehouse) -> None:
    """One row for each symbol that was asked; it is no settlement."""
    async with scene(empty_warehouse) as one:
        one.proxy.answer = fail(FUNDING, UNREADABLE)
        await one.backfill(since=T0 - DAY_MS)
        asked = len(one.proxy.asked(FUNDING))
    assert one.feed.counters["settlements_refused"] == asked >= 1
    rows = empty_warehouse.quarantine.rows(QuarantineFilter(symbols=(BTC,)), limit=9)
    assert [(row.kind, row.time, row.defect) for row in rows] == [
        ("settlements", T0 - 8 * HOUR_MS, "not_readable")
    ]
    assert json.loads(rows[0].content) == BAD
    assert empty_warehouse.settlement_venues() == ()


async def test_a_close_counts_and_keeps_what_it_cannot_read(empty_warehouse: Warehouse) -> None:
    """The close is not held up; the settlement that is due stays due."""
    async with scene(empty_warehouse) as one, running(one.feed):
        await one.backfill(since=T0 - DAY_MS)
        before = one.stored_settlements(BTC, T0 - DAY_MS, T0 + DAY_MS)
        one.proxy.answer = fail(FUNDING, UNREADABLE)
        result = await one.close(T0)
        assert result.missing == ()
        assert one.feed.counters["settlements_refused"] >= 1
        assert one.stored_settlements(BTC, T0 - DAY_MS, T0 + DAY_MS) == before
    rows = empty_warehouse.quarantine.rows(QuarantineFilter(symbols=(BTC,)), limit=9)
    assert [json.loads(row.content) for row in rows] == [BAD]
