from __future__ import annotations

import re
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from daemon.monitor.server import Monitor
from tests.daemon import scenes
from tests.daemon.chromium import Tab, open_tab, running_chromium
from tests.daemon.serving import serving
from tests.requirements import require

STATIC = Path(__file__).parents[2] / "daemon" / "monitor" / "static"
DRAWN = "document.querySelector('#main')?.getAttribute('aria-busy') === 'false'"


@pytest.fixture(scope="module")
def browser() -> Iterator[int]:
    """The DevTools port of one browser for all these tests."""
    program = require("chromium")
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile,
        running_chromium(program, Path(profile)) as port,
    ):
        yield port


@pytest.fixture
async def tab(browser: int) -> AsyncIterator[Tab]:
    """A tab of its own."""
    async with open_tab(browser) as opened:
        yield opened


@asynccontextmanager
async def _page(tab: Tab, view: scenes.FakeView, width: int = 1_400) -> AsyncIterator[Monitor]:
    """The page over ``view``, drawn for the first time."""
    async with serving(view) as (monitor, _):
        await tab.open(monitor.url, width=width)
        await tab.wait_for(DRAWN)
        yield monitor


async def test_trading_page(tab: Tab) -> None:
    """With a champion the page shows what trades, what it costs and why it leads."""
    async with _page(tab, scenes.trading()) as monitor:
        await tab.wait_for("document.querySelectorAll('#fills tbody tr').length === 40")
        await tab.wait_for("document.querySelector('#chart svg .curve')")
        await tab.wait_for("document.querySelectorAll('#verdict .checks tbody tr').length === 8")
        assert "SANDBOX — synthetic market, not real data" in await tab.text("#ribbon")
        assert "decides" in await tab.text("#deciding")
        tiles = await tab.text("#tiles")
        assert "12,938.62" in tiles
        assert "+29.39 %" in tiles
        assert "31.2 %" in await tab.text("#weights")
        assert "sell 0.004" in await tab.text("#positions")
        shadows = await tab.text("#shadows")
        for words in ("equal_weight", "11,204.50", "+12.04 %", "2,023", "halted", "−50.20 %"):
            assert words in shadows
        costs = await tab.text("#costs")
        # 2938.62 + 412.07 + 96.31 + 38.92 paid for funding
        assert "+3,485.92" in costs
        assert "−38.92" in costs
        verdict = await tab.text("#verdict")
        assert "Leads" in verdict
        assert "Deflated Sharpe probability" in verdict
        assert "≥ 0.95" in verdict
        assert "2 decisions were missed" in await tab.text("#alerts")
        assert all(url.startswith((monitor.url, "about:")) for url in tab.requested)
        assert tab.problems == []


async def test_pointer_and_keys_read_the_curve(tab: Tab) -> None:
    """Home and the arrow keys walk along the curve and tell each point in text."""
    view = scenes.trading()
    async with _page(tab, view):
        await tab.wait_for("document.querySelector('#chart svg .curve')")
        await tab.evaluate("document.querySelector('#chart svg').focus()")
        for key, point in (("Home", view.points[0]), ("ArrowRight", view.points[1])):
            await tab.call("Input.dispatchKeyEvent", type="keyDown", key=key)
            assert f"{point.equity:,.2f} USDT" in await tab.text("#readout")
        assert tab.problems == []


async def test_refusal_in_plain_words(tab: Tab) -> None:
    """Without a champion the page says that cash is held, that a model was refused, and why."""
    async with _page(tab, scenes.refused()):
        deciding = await tab.text("#deciding")
        assert deciding.startswith("Holds cash because no model has been promoted.")
        assert "refused: There is no bear window in the sample" in deciding
        verdict = await tab.text("#verdict")
        assert "Refused for 4 reasons" in verdict
        assert "no evidence" in verdict
        assert "! warning" in verdict
        assert tab.problems == []


async def test_training_and_backfilling_show_progress(tab: Tab) -> None:
    """A running retraining and a running backfill show a bar with its figures."""
    async with _page(tab, scenes.training()):
        assert "11 of 24 · 46 %" in await tab.text("#retraining")
        assert await tab.evaluate("document.querySelector('#retraining progress').value") == 11
        assert "No fills yet" in await tab.text("#fills")
        assert await tab.evaluate("document.querySelector('#shadows-card').hidden")
    async with _page(tab, scenes.starting()):
        assert "31,840 of 87,600" in await tab.text("#deciding")
        assert "Fetching history" in await tab.text("#chips")
        assert "no bar yet" in await tab.text("#feed")


async def test_data_never_becomes_markup(tab: Tab) -> None:
    """A reason, a symbol and a model id that are HTML appear as text and run nothing."""
    evil = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
    base = scenes.trading()
    rows = tuple(replace(row, reason=evil, model_id=evil) for row in base.decisions)
    fills = tuple(replace(row, symbol=evil) for row in base.fills)
    alerts = tuple(replace(alert, message=evil) for alert in base.state.alerts)
    state = replace(
        base.state, venue_description=evil, last_decision=rows[0], alerts=alerts, quote=evil
    )
    async with _page(tab, replace(base, state=state, decisions=rows, fills=fills)):
        await tab.wait_for("document.querySelectorAll('#decisions tbody tr').length === 40")
        assert "<img src=x" in await tab.text("#decisions")
        assert (
            await tab.evaluate("document.querySelectorAll('img[src=x], main script').length") == 0
        )
        assert "owned" not in await tab.evaluate("document.title")
        assert tab.problems == []


async def test_lost_connection_is_told_and_mended(tab: Tab) -> None:
    """When the daemon goes the page says so and keeps its figures; when it is back, it goes on."""
    async with _page(tab, scenes.trading()) as monitor:
        await tab.wait_for("document.querySelectorAll('#fills tbody tr').length === 40")
    await tab.wait_for("!document.querySelector('#connection').hidden")
    assert "2024-05-03 15:00:12" in await tab.text("#connection")
    assert "12,938.62" in await tab.text("#tiles")
    async with serving(scenes.training(), port=monitor.port):
        await tab.wait_for("document.querySelector('#connection').hidden")
        await tab.wait_for("document.querySelector('#tiles').innerText.includes('10,000.00')")


async def test_failing_list_is_told_in_its_card(tab: Tab) -> None:
    """A list that cannot be read says so in its place; the other cards are there."""
    view = replace(scenes.trading(), failures=["fills"])
    with capture_logs():
        async with _page(tab, view):
            await tab.wait_for("document.querySelector('#fills .error')")
            assert "its log says why" in await tab.text("#fills")
            await tab.wait_for("document.querySelectorAll('#decisions tbody tr').length === 40")


@pytest.mark.parametrize("width", [360, 800, 1_400])
async def test_page_never_scrolls_sideways(tab: Tab, width: int) -> None:
    """At a phone's, a tablet's and a desk's width the page fits its window."""
    async with _page(tab, scenes.trading(), width=width):
        await tab.wait_for("document.querySelectorAll('#fills tbody tr').length === 40")
        assert await tab.evaluate("document.documentElement.scrollWidth") <= width


async def test_everything_has_a_name(tab: Tab) -> None:
    """Each control, picture, region and progress bar has a name that can be read aloud."""
    async with _page(tab, scenes.training()):
        await tab.call("Accessibility.enable")
        tree = await tab.call("Accessibility.getFullAXTree")
        named = {"button", "link", "image", "region", "progressbar", "ProgressIndicator", "table"}
        nameless = [
            node["role"]["value"]
            for node in tree["nodes"]
            if not node.get("ignored")
            and node.get("role", {}).get("value") in named
            and not node.get("name", {}).get("value")
        ]
        assert nameless == []


def test_page_has_no_inline_code_and_no_other_host() -> None:
    """The files hold no inline script or style, no markup from data and no foreign address."""
    page = (STATIC / "index.html").read_text()
    assert re.findall(r"<script(?![^>]*\bsrc=)", page) == []
    assert re.findall(r"<style|\sstyle=|\son\w+=", page) == []
    for path in STATIC.iterdir():
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")
        assert "innerHTML" not in text, path.name
        assert not re.search(r"https?://", text), path.name
        assert not re.search(r"\beval\(|insertAdjacentHTML|document\.write", text), path.name
