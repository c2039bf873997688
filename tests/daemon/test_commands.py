"""Bad input at the command line: one line that says what and where, exit code 2."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from daemon.cli import build_parser
from daemon.commands import replay as replay_command
from daemon.commands.common import settings_from
from tests.training.learner_models import trained
from tests.training.test_registry import record
from training.artefact import write_artefact
from training.registry import Registry


def ballast(*arguments: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "daemon", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    return done.returncode, done.stderr


def config(folder: Path, text: str) -> Path:
    path = folder / "ballast.toml"
    path.write_text(f'state_dir = "{folder / "state"}"\n{text}', encoding="utf-8")
    return path


def assert_refused(folder: Path, answer: tuple[int, str], *words: str) -> None:
    code, error = answer
    lines = [line for line in error.splitlines() if line.startswith("ballast")]
    assert code == 2, error
    assert "Traceback" not in error
    assert len(lines) == 1
    for word in words:
        assert word in lines[0]
    assert not (folder / "state").exists()


def test_an_unknown_key(tmp_path: Path) -> None:
    """The file, the key and the nearest known key are named."""
    path = config(tmp_path, "[exchange]\nsymbls = []\n")
    assert_refused(tmp_path, ballast("run", "--config", str(path)), str(path), "exchange.symbls")


def test_a_missing_config_file(tmp_path: Path) -> None:
    """A file that is named must be there."""
    path = tmp_path / "absent.toml"
    assert_refused(tmp_path, ballast("run", "--config", str(path)), "absent.toml", "no such file")


def test_an_unknown_symbol(tmp_path: Path) -> None:
    """The symbol and what there is instead."""
    path = config(
        tmp_path,
        '[exchange]\nsymbols = ["BTC/USDT:USDT", "NOPE/USDT:USDT"]\n[sandbox]\nenabled = true\n'
        "[monitor]\nport = 0\n",
    )
    answer = ballast("run", "--config", str(path))
    assert_refused(tmp_path, answer, "NOPE/USDT:USDT", "ETH/USDT:USDT")


def test_a_port_in_use(tmp_path: Path) -> None:
    """Address and port, before the venue is asked for anything."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        path = config(tmp_path, f"[sandbox]\nenabled = true\n[monitor]\nport = {port}\n")
        assert_refused(tmp_path, ballast("run", "--config", str(path)), f"127.0.0.1:{port}")


@pytest.mark.parametrize("first", ["good", "bad"])
def test_a_parquet_file_without_the_needed_columns(tmp_path: Path, first: str) -> None:
    """File and columns; a sound file beside it is not imported either."""
    bad, good = tmp_path / "bad.parquet", tmp_path / "good.parquet"
    row = {"exchange": "binance", "market": "perp", "symbol": "BTC/USDT:USDT", "timeframe": "1h"}
    prices = {"open": 1.0, "high": 1.0, "low": 1.0, "close": 1.0, "volume": 1.0}
    pq.write_table(pa.Table.from_pylist([row | {"open_time": 1_699_999_200_000} | prices]), good)
    pq.write_table(pa.Table.from_pylist([row | prices]), bad)
    files = [good, bad] if first == "good" else [bad, good]
    path = config(tmp_path, "")
    answer = ballast("import", *map(str, files), "--config", str(path))
    assert_refused(tmp_path, answer, str(bad), "open_time")


def closed_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@pytest.mark.parametrize("command", ["snapshot", "data check"])
def test_an_unreachable_warehouse_has_the_same_exit_code(tmp_path: Path, command: str) -> None:
    """Exit code 3 whatever the command, and one line that names the address."""
    port = closed_port()
    path = config(tmp_path, f'[storage]\nwarehouse_url = "http://127.0.0.1:{port}/ballast"\n')
    code, error = ballast(*command.split(), "--config", str(path))
    assert code == 3
    (line,) = [line for line in error.splitlines() if line.startswith("ballast")]
    assert f"127.0.0.1:{port}" in line


def test_a_bad_warehouse_url(tmp_path: Path) -> None:
    """It is a mistake in the settings, and the forms that there are get named."""
    path = config(tmp_path, '[storage]\nwarehouse_url = "clickhouse://127.0.0.1/ballast"\n')
    answer = ballast("snapshot", "--config", str(path))
    assert_refused(tmp_path, answer, "storage.warehouse_url", "chdb:///absolute/path")


def test_an_unreachable_venue_has_its_own_exit_code(tmp_path: Path) -> None:
    """Host, cause and the way to the sandbox; exit code 3, no traceback, nothing written."""
    port = closed_port()
    path = config(
        tmp_path, f'[exchange]\nbase_url = "http://127.0.0.1:{port}"\n[monitor]\nport = 0\n'
    )
    code, error = ballast("run", "--config", str(path))
    assert code == 3
    assert f"127.0.0.1:{port}" in error
    assert "sandbox" in error
    assert "Traceback" not in error
    assert not (tmp_path / "state").exists()


def test_force_wants_a_reason(tmp_path: Path) -> None:
    """A refused model is never led by accident."""
    path = config(tmp_path, "")
    answer = ballast("models", "promote", "--force", "--config", str(path))
    assert_refused(tmp_path, answer, "--reason")


def test_a_replay_never_touches_the_live_account(tmp_path: Path) -> None:
    """Only accounts made for replay may be replayed on."""
    path = config(tmp_path, "")
    answer = ballast(
        *("replay", "--since", "2026-01-01", "--until", "2026-01-02", "--equal-weight"),
        *("--account", "main", "--config", str(path)),
    )
    assert_refused(tmp_path, answer, "--account main", "replay-")


def test_a_replays_account_is_named_by_its_margin_tiers_as_well(tmp_path: Path) -> None:
    """Other tiers, another history; the same tiers in another file go on with the same one."""
    names = []
    for number, rate in enumerate((0.01, 0.02, 0.01)):
        tiers = tmp_path / f"tiers{number}.json"
        rest = f'"since": "2024-01-01", "tiers": [[0, {rate}]], "liquidation_fee": 0.02'
        tiers.write_text(f'{{"ladders": [{{"symbol": "*", {rest}}}]}}')
        path = config(tmp_path, f'[account]\nmargin_tiers = "{tiers}"\n')
        words = ["replay", "--since", "2026-01-01", "--until", "2026-01-02", "--equal-weight"]
        args = build_parser().parse_args([*words, "--config", str(path)])
        names.append(replay_command._job(args, settings_from(args)).account_id)
    assert names[0] == names[2] != names[1]


@pytest.mark.parametrize("command", ["replay", "retrain"])
def test_what_a_spot_market_lacks_is_refused_by_every_command(tmp_path: Path, command: str) -> None:
    """Not by the daemon alone: a replay or a training with credit would be of no account."""
    path = config(tmp_path, '[exchange]\nname = "binance"\n[account]\nleverage_limit = 2.0\n')
    more = {
        "replay": ["--since", "2026-01-01", "--until", "2026-01-02", "--equal-weight"],
        "retrain": ["--snapshot", str(tmp_path)],
    }
    answer = ballast(command, *more[command], "--config", str(path))
    assert_refused(tmp_path, answer, "account.leverage_limit = 2", "binance is a spot market")


def test_a_replay_refuses_a_model_that_does_not_fit(tmp_path: Path) -> None:
    """A model of other symbols would hold at every decision, a spoilt one cannot be loaded."""
    path = config(tmp_path, "")
    (tmp_path / "state").mkdir()
    write_artefact(trained().artefact, tmp_path / "model")
    registry = Registry.open(f"sqlite:///{tmp_path / 'state' / 'ledger.sqlite'}")
    for name, folder in {"m": "model", "gone": "nowhere"}.items():
        registry.register(replace(record(name), artefact_path=tmp_path / folder), judged_at=5)
    registry.close()
    span = ["--since", "2026-01-01", "--until", "2026-01-02", "--config", str(path)]
    for name, words in {"m": "trained on A0/USDT:USDT", "gone": "nowhere"}.items():
        code, error = ballast("replay", "--model", name, *span)
        (line,) = [one for one in error.splitlines() if one.startswith("ballast")]
        assert code == 2, error
        assert f"model {name}: " in line
        assert words in line


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[account]\nmargin_tiers = "/nowhere/tiers.json"\n', "account.margin_tiers = "),
        ('[account]\nfills = "book"\n[exchange]\nbook_depth = 0\n', "account.fills = 'book'"),
    ],
)
def test_an_account_that_cannot_be_is_refused_before_anything_is_made(
    tmp_path: Path, text: str, words: str
) -> None:
    """No page, no store: the settings alone say that it cannot work."""
    path = config(tmp_path, f"{text}[sandbox]\nenabled = true\n")
    assert_refused(tmp_path, ballast("run", "--config", str(path)), words)
