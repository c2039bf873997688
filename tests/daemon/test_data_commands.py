"""``ballast data``, ``snapshot`` and ``backfill`` from the outside: figures and exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.commands.spans import moment
from market.bar import DAY_MS, HOUR_MS
from tests.market.recorded_files import candles, funding, write_csv, write_parquet
from tests.market.stored_market import BTC, ETH

SHARED = Path(__file__).parents[3] / "shared" / "market"
RUN_ALL = """
import json, sys
from daemon.cli import main
for line in json.loads(sys.argv[1]):
    print("\\x1e", main(line), sep="", flush=True)
"""
HOLD = """
import sys, time
from market.warehouse import Warehouse
store = Warehouse.open(sys.argv[1])
print("open", flush=True)
sys.stdin.read()
"""


def run_all(*lines: list[str]) -> tuple[list[tuple[int, str]], str]:
    """Run commands one after another; (exit code, stdout) of each, and all of stderr."""
    done = subprocess.run(
        [sys.executable, "-c", RUN_ALL, json.dumps(lines)],
        capture_output=True,
        text=True,
        timeout=100,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answers, text = [], ""
    for line in done.stdout.split("\n"):  # splitlines() would also split at the mark
        if line.startswith("\x1e"):
            answers.append((int(line[1:]), text))
            text = ""
        else:
            text += line + "\n"
    return answers, done.stderr


@pytest.fixture(scope="module")
def sandbox() -> Iterator[tuple[str, int]]:
    """A venue that stands still, in its own process, and its start."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "daemon", "sandbox", "--json", "--lock-step", "--speed", "0"),
            *("--port", "0", "--history-days", "40", "--symbols", f"{BTC},{ETH}"),
        ],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.stdout is not None
    facts = json.loads(process.stdout.readline())
    yield facts["url"], facts["start"]
    process.terminate()
    process.wait(10)
    process.stdout.close()


def config(folder: Path, url: str) -> list[str]:
    """Options that choose settings in ``folder`` on the venue at ``url``."""
    path = folder / "ballast.toml"
    path.write_text(
        f'state_dir = "{folder / "state"}"\n[exchange]\nbase_url = "{url}"\n'
        f'symbols = ["{BTC}", "{ETH}"]\n[log]\nlevel = "error"\n',
        encoding="utf-8",
    )
    return ["--config", str(path)]


def test_history_is_fetched_once_checked_frozen_and_exported(
    sandbox: tuple[str, int], tmp_path: Path
) -> None:
    """Backfill ends where it is told, goes on from there, and asks for nothing twice."""
    url, start = sandbox
    options = config(tmp_path, url)
    since, until = start - 10 * DAY_MS, start - 4 * DAY_MS
    fetch = ["backfill", "--since", str(since), "--json", *options]
    out = tmp_path / "out"
    out.mkdir()
    answers, errors = run_all(
        [*fetch, "--until", str(until)],
        fetch,
        fetch,
        ["data", "check", "--json", *options],
        ["data", "check", "--at", str(start + 3 * HOUR_MS), *options],
        ["snapshot", "--json", *options],
        ["snapshot", *options],
        ["snapshot", "--since", str(until), "--json", *options],
        ["data", "export", str(out), "--symbol", ETH, "--json", *options],
        ["data", "export", str(out), *options],
        ["data", "check", "--symbol", "NOPE/USDT:USDT", *options],
        ["data", "check", "--interval", "5m", *options],
    )
    codes = [code for code, _ in answers]
    assert codes == [0, 0, 0, 0, 1, 0, 0, 0, 0, 2, 2, 2], errors
    part, rest, again, check = (json.loads(text) for _, text in answers[:4])
    assert part["new_bars"] == part["bars"] == 2 * 6 * 24
    assert (rest["new_bars"], rest["bars"], rest["mark_bars"]) == (2 * 4 * 24, 480, 480)
    assert (again["new_bars"], again["new_mark_bars"], again["new_settlements"]) == (0, 0, 0)
    assert again["request_weight"] < rest["request_weight"]
    assert rest["gaps"] == {"fetchable": 0, "absent": 0, "deferred": 0}
    (scope,) = check["scopes"]
    assert check["holds"]
    assert [one["bars"] for one in scope["symbols"]] == [240, 240]
    assert "STALE" in answers[4][1]
    frozen, later = json.loads(answers[5][1]), json.loads(answers[7][1])
    assert (frozen["bars"], frozen["since"], frozen["existed"]) == (240, since, False)
    assert frozen["until"] - frozen["since"] == 10 * DAY_MS
    assert "existed already" in answers[6][1]
    assert frozen["id"] in answers[6][1]
    assert (later["since"], later["bars"]) == (until, 96)
    assert later["id"] != frozen["id"]
    exported = {Path(one["path"]).name: one["rows"] for one in json.loads(answers[8][1])}
    assert (exported["bars.parquet"], exported["mark_bars.parquet"]) == (240, 240)
    assert exported["signals.parquet"] == 0
    assert "signals.parquet" not in {one.name for one in out.iterdir()}
    fresh = ["--state-dir", str(tmp_path / "fresh"), "--log-level", "error"]
    ((code, text),), errors_too = run_all(["import", str(out), "--json", *fresh])
    assert code == 0, errors_too
    assert json.loads(text)["total"]["written"] == sum(exported.values())
    for words in ("--force", "no bars of it are stored", "binanceusdm 1h"):
        assert words in errors
    assert "Traceback" not in errors


def test_bad_input_is_one_line_and_writes_nothing(tmp_path: Path) -> None:
    """No warehouse yet, times that are none or the wrong way round, no venue; exit code 2."""
    options = config(tmp_path, "http://127.0.0.1:9")
    lines = [
        ["data", "check", *options],
        ["data", "export", str(tmp_path / "x.csv"), *options],
        ["snapshot", *options],
        ["data", "check", "--at", "noon", *options],
        ["backfill", "--since", "2024-02-01", "--until", "2024-01-01", *options],
        ["backfill", "--since", "2024-02-01", "--state-dir", str(tmp_path / "state")],
        ["backfill", "--since", "2024-02-01", *options],
    ]
    answers, errors = run_all(*lines)
    assert [code for code, _ in answers] == [2, 2, 2, 2, 2, 2, 3]
    assert errors.count("ballast: error") == len(lines)
    assert "connection refused" in errors
    assert not (tmp_path / "state").exists()
    assert not (tmp_path / "x.csv").exists()


def test_a_store_that_a_daemon_owns_is_left_alone(sandbox: tuple[str, int], tmp_path: Path) -> None:
    """The message says who has it and what to do; each command ends with 3."""
    url, start = sandbox
    options = config(tmp_path, url)
    owner = subprocess.Popen(
        [sys.executable, "-c", HOLD, f"chdb://{tmp_path / 'state' / 'warehouse'}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert owner.stdout is not None
    assert owner.stdin is not None
    try:
        assert any(line == "open\n" for line in iter(owner.stdout.readline, ""))
        answers, errors = run_all(
            ["data", "check", *options],
            ["data", "export", str(tmp_path / "x.csv"), *options],
            ["snapshot", *options],
            ["backfill", "--since", str(start - DAY_MS), *options],
        )
    finally:
        owner.stdin.close()
        owner.wait(20)
        owner.stdout.close()
    assert [code for code, _ in answers] == [3, 3, 3, 3]
    assert errors.count("another ballast process owns") == 4
    assert "stop it" in errors


def test_settlements_without_bars_are_shown_and_exported(tmp_path: Path) -> None:
    """In the table and the document; one file or a folder of them; a symbol without bars too."""
    settled, both = tmp_path / "settled", tmp_path / "both"
    for folder in (settled, both):
        folder.mkdir()
        write_csv(folder, funding(ETH))
    write_parquet(both, candles(BTC))
    out = tmp_path / "out"
    out.mkdir()
    alone, mixed = (
        ["--state-dir", str(tmp_path / name), "--log-level", "error"] for name in ("alone", "mixed")
    )
    answers, errors = run_all(
        ["import", str(settled), *alone],
        ["data", "check", *alone],
        ["data", "check", "--json", *alone],
        ["data", "check", "--symbol", ETH, "--exchange", "binanceusdm", "--json", *alone],
        ["data", "export", str(tmp_path / "f.csv"), "--kind", "settlements", "--json", *alone],
        ["data", "export", str(out), "--json", *alone],
        ["data", "export", str(tmp_path / "b.csv"), *alone],
        ["data", "check", "--interval", "1h", *alone],
        ["data", "check", "--symbol", BTC, *alone],
        ["import", str(both), *mixed],
        ["data", "check", "--json", *mixed],
        ["data", "export", str(out), "--force", "--json", *mixed],
    )
    assert [code for code, _ in answers] == [0, 0, 0, 0, 0, 0, 2, 2, 2, 0, 0, 0], errors
    texts = [text for _, text in answers]
    assert "binanceusdm, settlements of symbols without bars" in texts[1]
    assert f"{ETH}  2023-11-14 22:00  2023-11-15 06:00        2        1" in texts[1]
    found = json.loads(texts[2])
    assert (found["holds"], found["scopes"]) == (True, [])
    assert found == json.loads(texts[3])
    (venue,) = found["settlements_without_bars"]
    (symbol,) = venue["symbols"]
    assert (venue["venue"], symbol["symbol"]) == ("binanceusdm", ETH)
    assert (symbol["settlements"], symbol["settlements_without_mark"]) == (2, 1)
    assert symbol["last_nominal_time"] - symbol["first_nominal_time"] == 8 * HOUR_MS
    (exported,) = json.loads(texts[4])
    assert exported["rows"] == 2
    assert {one["rows"] for one in json.loads(texts[5])} == {0, 2}
    later = json.loads(texts[10])
    assert [one["symbol"] for one in later["scopes"][0]["symbols"]] == [BTC]
    assert later["settlements_without_bars"] == found["settlements_without_bars"]
    rows = {Path(one["path"]).name: one["rows"] for one in json.loads(texts[11])}
    assert (rows["bars.parquet"], rows["settlements.parquet"]) == (5, 2)
    assert "no bars of anything at binanceusdm 1h" in errors
    assert "there are settlements of binanceusdm" in errors
    fresh = ["--state-dir", str(tmp_path / "fresh"), "--log-level", "error", "--json"]
    ((code, text),), errors = run_all(["import", str(tmp_path / "f.csv"), *fresh])
    assert (code, json.loads(text)["total"]["new"]) == (0, 2), errors


def test_real_gaps_come_out_with_their_lengths(tmp_path: Path) -> None:
    """Binance's 33 hours in 2018, and the months without BNB from 2023-12-30 on."""
    recorded = SHARED / "bars_binance_spot_1h.parquet"
    if not recorded.exists():
        pytest.skip("the recorded market is not here")
    state = ["--state-dir", str(tmp_path / "state"), "--log-level", "error"]
    answers, errors = run_all(
        ["import", str(recorded), *state], ["data", "check", "--json", *state]
    )
    assert [code for code, _ in answers] == [0, 1], errors
    (scope,) = json.loads(answers[1][1])["scopes"]
    found = {
        (one["symbol"], moment(one["first_open_time"])[:10]): one["length_ms"]
        for one in scope["gaps"]
    }
    assert found["BTC/USDT", "2018-02-08"] == 33 * HOUR_MS
    assert found["BNB/USDT", "2023-12-30"] == 2_932 * HOUR_MS  # until 2024-05-01
    (btc,) = [one for one in scope["symbols"] if one["symbol"] == "BTC/USDT"]
    assert btc["expected"] == btc["bars"] + btc["missing"]
    assert btc["gaps"]["fetchable"] == btc["missing"]
