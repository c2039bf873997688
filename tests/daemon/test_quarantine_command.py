"""``ballast data quarantine`` from the outside: what is listed, and what may be cleared."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
BTC, ETH = "BTC/USDT:USDT", "ETH/USDT:USDT"

FILL_AND_RUN = """
import json, sys
from daemon.cli import main
from dataclasses import replace
from market.bar import BarDefect
from market.signals import read_signals
from market.warehouse import Warehouse
from tests.market.stored_market import ETH, END, HOUR_MS, PLACE, bar

store = Warehouse.open(f"chdb://{sys.argv[1]}/state/warehouse")
refused = [(bar(hour, close=-1.0), BarDefect.NOT_POSITIVE) for hour in range(3)]
refused.append((replace(bar(0, ETH), open_time=10**17), BarDefect.MISALIGNED))
store.quarantine.insert(refused, ingested_at=END, **PLACE)
place = {"venue": "bybit", "interval_ms": 0, "ingested_at": END + HOUR_MS}
store.quarantine.insert([(bar(9), BarDefect.NOT_FINITE)], kind="settlements", **place)
_, signals = read_signals([{"source": "mood", "value": "much"}])
store.insert_refused_signals(signals, ingested_at=END - HOUR_MS)
store.close()
print("\\x1e0", flush=True)
for line in json.loads(sys.argv[2]):
    print("\\x1e", main(["data", "quarantine", "--state-dir", f"{sys.argv[1]}/state", *line]),
          sep="", flush=True)
"""


def run_all(folder: Path, *lines: list[str]) -> tuple[list[tuple[int, str]], str]:
    """Run the action on a store with six refused rows: (exit code, stdout) of each, and stderr."""
    (folder / "state").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", FILL_AND_RUN, str(folder), json.dumps(lines)],
        capture_output=True,
        text=True,
        timeout=100,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    _filling, *parts = done.stdout.split("\x1e")
    codes, texts = zip(*(part.split("\n", 1) for part in parts), strict=True)
    return list(zip(map(int, codes[1:]), texts[:-1], strict=True)), done.stderr


def symbols(text: str) -> list[tuple[str, str]]:
    """Kind and symbol of the rows of a document."""
    document: dict[str, Any] = json.loads(text)
    return [(row["kind"], row["symbol"]) for row in document["rows"]]


def test_refused_rows_are_listed_with_all_that_is_known(tmp_path: Path) -> None:
    """Refused last first, at most the limit, by filters; signals are of no venue."""
    answers, errors = run_all(
        tmp_path,
        ["--json"],
        ["--json", "--limit", "1"],
        ["--json", "--exchange", "binanceusdm", "--since", "2001-09-09"],
        ["--json", "--symbol", BTC, "--defect", "price_not_positive", "--interval", "1h"],
        [],
        ["--limit", "2"],
        ["--kind", "mark_bars"],
    )
    assert [code for code, _ in answers] == [0] * 7, errors
    texts = [text for _, text in answers]
    bars = [("bars", BTC)] * 3
    assert symbols(texts[0]) == [("settlements", BTC), *bars, ("bars", ETH), ("signals", "")]
    newest = json.loads(texts[1])
    assert newest["matching"] == 6
    (row,) = newest["rows"]
    assert (row["venue"], row["interval_ms"], row["defect"]) == ("bybit", 0, "not_finite")
    assert json.loads(row["content"])["open_time"] == row["time"] == 1_700_031_600_000
    assert symbols(texts[2]) == [*bars, ("bars", ETH)]
    assert symbols(texts[3]) == bars
    assert "binanceusdm  1h        bars         BTC/USDT:USDT  2023-11-14 22:00" in texts[4]
    assert "100000000000000000" in texts[4]
    assert texts[4].splitlines()[-1] == "6 of 6 rows in quarantine"
    assert texts[5].splitlines()[-2:] == ["2 of 6 rows in quarantine", "--limit N shows more"]
    assert texts[6] == "0 of 0 rows in quarantine\n"


def test_rows_are_cleared_by_a_filter_or_all_of_them(tmp_path: Path) -> None:
    """It says how many it removed; rows of another venue stay, signals belong to every one."""
    answers, errors = run_all(
        tmp_path,
        ["--clear", "--kind", "bars", "--until", "2023-11-15"],
        ["--json"],
        ["--clear", "--all", "--exchange", "bybit", "--json"],
        ["--json"],
        ["--clear", "--all"],
    )
    assert [code for code, _ in answers] == [0] * 5, errors
    texts = [text for _, text in answers]
    assert texts[0] == "removed 2 rows from quarantine\n"
    assert json.loads(texts[1])["matching"] == 4
    assert json.loads(texts[2]) == {"removed": 2}
    assert symbols(texts[3]) == [("bars", BTC), ("bars", ETH)]
    assert texts[4] == "removed 2 rows from quarantine\n"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (["--clear"], "--clear: say which rows"),
        (["--clear", "--exchange", "binanceusdm"], "--clear: say which rows"),
        (["--all"], "--all: only --clear needs it"),
        (["--clear", "--all", "--symbol", BTC], "--all contradicts --symbol"),
        (["--clear", "--all", "--limit", "5"], "--limit 5: --clear removes every row"),
        (["--limit", "0"], "--limit 0: must be 1 to 10000"),
        (["--limit", "10001"], "--limit 10001: must be 1 to 10000"),
        (["--defect", "ugly"], "--defect ugly: unknown; there are bad_flag"),
        (["--since", "2024-02-01", "--until", "2024-01-01"], "--since 2024-02-01"),
        (["--interval", "5x"], "--interval: "),
    ],
)
def test_what_is_not_said_clearly_is_bad_input(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, line: list[str], words: str
) -> None:
    """Exit code 2 and a line that names the option; the store is not opened."""
    from daemon.cli import main

    code = main(["data", "quarantine", "--state-dir", str(tmp_path / "state"), *line])
    told = capsys.readouterr()
    assert (code, told.out) == (2, "")
    assert told.err.startswith(f"ballast: error: {words}")
