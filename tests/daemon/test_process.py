"""The daemon as a process: it trades, stops, resumes, and survives being killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.store import Store
from market.bar import HOUR_MS

HISTORY_DAYS = 60
CONFIG = f"""
[exchange]
symbols = ["BTC/USDT:USDT", "ETH/USDT:USDT"]
history_days = {HISTORY_DAYS}
{{exchange}}
[account]
fallback = "equal_weight"
[training]
enabled = false
[monitor]
port = 0
[log]
level = "warning"
"""


def ballast(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "daemon", *arguments]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def sandbox() -> Iterator[str]:
    """A lock-step sandbox in its own process; it outlives the daemons that are killed."""
    process = subprocess.Popen(
        ballast(
            *("sandbox", "--json", "--lock-step", "--speed", "0", "--port", "0"),
            *("--history-days", str(HISTORY_DAYS), "--symbols", "BTC/USDT:USDT,ETH/USDT:USDT"),
        ),
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    assert process.stdout is not None
    yield str(json.loads(process.stdout.readline())["url"])
    process.terminate()
    process.wait(10)
    process.stdout.close()


@pytest.fixture(scope="module")
def config(sandbox: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Settings of one account at that sandbox, shared by the tests in the order of the file."""
    folder = tmp_path_factory.mktemp("daemon")
    path = folder / "ballast.toml"
    text = CONFIG.format(exchange=f'base_url = "{sandbox}"')
    path.write_text(f'state_dir = "{folder / "state"}"\n{text}', encoding="utf-8")
    return path


def ledger(config: Path) -> Store:
    return Store.open(f"sqlite:///{config.parent / 'state' / 'ledger.sqlite'}")


def decision_times(config: Path) -> list[int]:
    store = ledger(config)
    try:
        return [record.decision_time for record in store.decisions("main")]
    finally:
        store.close()


def run_until(config: Path, bars: int) -> dict[str, object]:
    done = subprocess.run(
        ballast("run", "--config", str(config), "--until-bars", str(bars), "--json"),
        capture_output=True,
        text=True,
        timeout=100,
        env=environment(),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    summary: dict[str, object] = json.loads(done.stdout)
    return summary


def test_a_run_of_n_bars_ends_by_itself_with_a_summary(config: Path) -> None:
    """Exit code 0 and one JSON document whose figures are those of the ledger."""
    summary = run_until(config, 12)
    assert summary["decisions_this_run"] == 12
    assert summary["missed_intervals"] == 0
    store = ledger(config)
    fills = store.fills("main")
    store.close()
    assert summary["fills"] == len(fills) > 0
    assert summary["fees"] == pytest.approx(sum(float(fill.fee) for fill in fills))


def test_a_killed_daemon_goes_on_without_a_gap_or_a_repetition(config: Path) -> None:
    """Kill −9 three times at different points: every interval is decided exactly once."""
    before = decision_times(config)
    for pause in (0.3, 0.7, 1.1):
        process = subprocess.Popen(
            ballast("run", "--config", str(config)),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment(),
        )
        reached = len(decision_times(config))
        deadline = time.monotonic() + 60
        while len(decision_times(config)) < reached + 3 and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(pause)
        process.send_signal(signal.SIGKILL)
        process.wait()
    summary = run_until(config, 3)
    after = decision_times(config)
    assert len(after) >= len(before) + 12
    assert after == list(range(after[0], after[-1] + HOUR_MS, HOUR_MS))
    assert summary["missed_intervals"] == 0
    store = ledger(config)
    assert store.check("main") == []
    store.close()


def test_sigterm_stops_within_seconds_and_the_process_never_loaded_torch(config: Path) -> None:
    """A polite stop is quick, exits 0, and no torch library was ever mapped."""
    process = subprocess.Popen(
        ballast("run", "--config", str(config)),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment(),
    )
    reached = len(decision_times(config))
    while len(decision_times(config)) < reached + 2:
        assert process.poll() is None
        time.sleep(0.05)
    maps = Path(f"/proc/{process.pid}/maps").read_text(encoding="utf-8")
    started = time.monotonic()
    process.terminate()
    assert process.wait(10) == 0
    assert time.monotonic() - started < 5
    assert "clickhouse" in maps.lower() or "chdb" in maps.lower()
    assert "torch" not in maps


def test_an_account_never_changes_its_market(config: Path, tmp_path: Path) -> None:
    """The same state with another venue is refused with exit code 2, and nothing changes."""
    before = decision_times(config)
    other = tmp_path / "other.toml"
    text = config.read_text(encoding="utf-8").replace('base_url = "http://127.0.0.1', "#")
    other.write_text(text + "[sandbox]\nenabled = true\nspeed = 0\n", encoding="utf-8")
    done = subprocess.run(
        ballast("run", "--config", str(other), "--until-bars", "1"),
        capture_output=True,
        text=True,
        timeout=60,
        env=environment(),
        check=False,
    )
    assert done.returncode == 2
    assert "use another state_dir" in done.stderr
    assert decision_times(config) == before
