"""``ballast import`` from the outside: what it prints, and that its documentation is true."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from daemon.commands.importing import REMEDY
from tests.market.recorded_files import START, candles, funding, write_csv, write_parquet
from tests.market.test_importing_formats import (
    SIGNAL_HEADER,
    klines,
    ohlcv,
    write_feather,
    write_signals,
    write_zip,
)

DOCUMENT = Path(__file__).parents[2] / "docs" / "importing.md"
RUN_ALL = """
import json, shlex, sys
from daemon.cli import main
for line in json.loads(sys.argv[1]):
    print(line, main([*shlex.split(line)[1:], "--state-dir", "state"]), flush=True)
"""


def python(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run in ``folder``, with this checkout's code."""
    root = str(DOCUMENT.parents[1])
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=100,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": root},
        check=False,
    )


def test_summary_as_json(tmp_path: Path) -> None:
    """Rows, written, unchanged and rejected by reason: per file, in total, and what was skipped.

    A row that replaces a stored one is written, and counted apart from the new ones.
    """
    (tmp_path / "notes.txt").touch()
    arguments = ["-m", "daemon", "import", str(tmp_path), "--json", "--state-dir"]
    documents = []
    for close in (11.0, 11.0, 12.0):
        path = write_parquet(tmp_path, candles("A/B:B", close=[close, 99.0, 13.0, 14.0, 15.0]))
        done = python(tmp_path.parent, *arguments, str(tmp_path.parent / "state"))
        assert done.returncode == 0, done.stderr
        documents.append(json.loads(done.stdout))
    first, again, changed = documents
    assert first["files"] == [
        {
            "path": str(path),
            "kind": "bars",
            "rows": 5,
            "written": 4,
            "new": 4,
            "revised": 0,
            "unchanged": 0,
            "rejected": 1,
            "rejected_by": {"open_or_close_outside_low_high": 1},
        }
    ]
    nothing = {"rows": 5, "written": 0, "new": 0, "revised": 0, "unchanged": 4, "rejected": 1}
    assert again["total"] == nothing
    assert changed["total"] == nothing | {"written": 1, "revised": 1, "unchanged": 3}
    assert list(again["skipped"]) == [str(tmp_path / "notes.txt")]


def test_the_table_counts_revised_rows_apart_from_new_ones(tmp_path: Path) -> None:
    """Three bars are stored; a file with one of them changed and two more comes after."""
    lines = []
    for rows, close in ((3, 11.0), (5, 12.0)):
        columns = candles("A/B:B", close=[close, 12.0, 13.0, 14.0, 15.0])
        write_parquet(tmp_path, {name: cells[:rows] for name, cells in columns.items()})
        done = python(tmp_path, "-m", "daemon", "import", "file.parquet", "--state-dir", "state")
        assert done.returncode == 0, done.stderr
        lines.append([line.split() for line in done.stdout.splitlines()[:2]])
    header, row = lines[1]
    assert header[2:8] == ["rows", "written", "new", "revised", "unchanged", "rejected"]
    assert row[2:8] == ["5", "3", "2", "1", "2", "0"]
    assert lines[0][1][2:8] == ["3", "3", "3", "0", "0", "0"]


def test_nothing_to_import_is_bad_input(tmp_path: Path) -> None:
    """No path, or a folder without a file."""
    for arguments, words in ([], "name files or folders"), ([str(tmp_path)], "no file there"):
        done = python(tmp_path, "-m", "daemon", "import", *arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert words in done.stderr


def test_unsuitable_files_are_named_with_the_reason_and_the_remedy(tmp_path: Path) -> None:
    """The first ten and a count of the others, on stderr; exit code 2 and no store."""
    for day in range(1, 13):
        (tmp_path / f"BTCUSDT-aggTrades-2023-07-{day:02}.zip").touch()
    done = python(tmp_path, "-m", "daemon", "import", ".", "--state-dir", "state")
    assert (done.returncode, done.stdout) == (2, "")
    error, *hints = done.stderr.splitlines()
    assert "none of the 12 files there can be imported" in error
    named = [line for line in hints if "skipped BTCUSDT-aggTrades-2023-07-" in line]
    assert len(named) == 10
    assert all("not that of Binance's klines or funding rates" in line for line in named)
    assert [line.removeprefix("ballast: hint: ") for line in hints[10:]] == [
        "skipped 2 more files",
        REMEDY,
    ]
    assert not (tmp_path / "state").exists()


def test_bars_do_not_go_into_the_store_of_the_default_sandbox(tmp_path: Path) -> None:
    """Its market is synthetic; what names a store is said, and nothing is made."""
    write_parquet(tmp_path, candles("A/B:B"))
    done = python(tmp_path, "-m", "daemon", "import", ".")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--exchange binanceusdm" in done.stderr
    assert not (tmp_path / "var").exists()


def test_a_file_of_which_nothing_is_taken_is_a_fault(tmp_path: Path) -> None:
    """Exit code 1, and the reason on stderr; the other file is imported all the same."""
    write_parquet(tmp_path, candles("A/B:B"))
    nothing = {name: cells[:0] for name, cells in candles("C/B:B").items()}
    empty = write_csv(tmp_path, nothing)
    done = python(tmp_path, "-m", "daemon", "import", ".", "--json", "--state-dir", "state")
    assert done.returncode == 1
    assert f"{empty.name}: no row was taken" in done.stderr
    assert json.loads(done.stdout)["total"]["written"] == 5


def test_every_documented_command_works(tmp_path: Path) -> None:
    """Each command of docs/importing.md, on files of the names that it uses."""
    files = {
        "market/file.parquet": candles("A/B:B"),
        "bars.parquet": candles("A/B:B"),
        "funding.csv": funding("A/B:B"),
        "marks.csv": candles("A/B:B"),
        "btc.csv": {
            name: cells
            for name, cells in candles("").items()
            if name not in ("exchange", "market", "symbol", "timeframe")
        },
    }
    for name, columns in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        write = write_csv if path.suffix == ".csv" else write_parquet
        write(path.parent, columns).rename(path)
    write_zip(tmp_path / "data/futures/um/daily/klines/BTCUSDT-1h-2023-07-18.zip", klines())
    minutes = [(START + i * 60_000, 2, 2, 2, 2, 1, 0, 2, 1, 1, 2, 0) for i in range(3)]
    write_zip(tmp_path / "BTCUSDT-1m-2023-07.zip", minutes)
    write_zip(tmp_path / "BTCUSDT-1h-2023-07.zip", klines(volume=0, count=60))
    write_feather(tmp_path / "user_data/data/binance/BTC_USDT-1h.feather", ohlcv())
    write_feather(tmp_path / "BTC_USDT_USDT-1h-futures.feather", ohlcv())
    write_signals(tmp_path / "sentiment.csv", f"me,1,,{START},{START},x,1", header=SIGNAL_HEADER)
    commands = re.findall(r"^ballast import .*$", DOCUMENT.read_text(), re.MULTILINE)
    assert len(commands) >= 10
    done = python(tmp_path, "-c", RUN_ALL, json.dumps(commands))
    results = [line for line in done.stdout.splitlines() if line.startswith("ballast import")]
    assert results == [f"{command} 0" for command in commands], done.stderr
