"""``ballast signals`` and ``ballast import --signals`` from the outside."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from daemon.signal_desk import OTHERS_MARGIN_MS
from tests.market.fear_greed_site import serving

ROOT = Path(__file__).parents[2]
AHEAD = 4_102_444_800_000  # 2100-01-01 UTC, a venue's time that no wall has reached


def run(*words: str) -> subprocess.CompletedProcess[str]:
    """Run ``ballast signals``."""
    return subprocess.run(
        [sys.executable, "-m", "daemon", "signals", *words],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        timeout=60,
    )


def run_cli(*words: str) -> tuple[int, dict[str, object]]:
    """Run ``ballast signals`` and read its JSON."""
    done = run(*words, "--json")
    return done.returncode, json.loads(done.stdout)


def test_the_command_lists_what_there_is(tmp_path: Path) -> None:
    """Both built-ins, off, and no streams where nothing was stored."""
    code, document = run_cli("list", "--state-dir", str(tmp_path))
    assert code == 0
    producers = document["producers"]
    assert isinstance(producers, list)
    assert {(one["name"], one["enabled"]) for one in producers} >= {
        ("crypto_fear_greed", False),
        ("forecast", False),
    }
    assert document["streams"] == []


def test_a_dry_run_prints_rows_and_stores_none(tmp_path: Path) -> None:
    """One producer runs once against a site; no warehouse is opened."""
    with serving() as site:
        config = tmp_path / "ballast.toml"
        config.write_text(
            f'state_dir = "{tmp_path}/state"\n'
            "[signals.options.crypto_fear_greed]\n"
            f'base_url = "{site.url}"\n'
        )
        code, document = run_cli("run", "crypto_fear_greed", "--history", "--config", str(config))
    assert code == 0
    assert (document["rows"], document["stored"]) == (1, None)
    assert not (tmp_path / "state" / "warehouse").exists()


def test_a_dry_run_that_fails_says_so() -> None:
    """The kind of the failure is in the document too; a name that nobody has is bad input."""
    code, document = run_cli("run", "nobody")
    assert (code, document["fault"]) == (2, "unknown")


@pytest.mark.parametrize(
    ("name", "option", "code", "fault"),
    [
        ("nobody", "", 2, "unknown"),
        ("crypto_fear_greed", "colour = 1", 2, "bad_option"),
        ("crypto_fear_greed", 'base_url = "http://127.0.0.1:9"', 1, "unreachable"),
    ],
)
def test_a_failure_is_told_on_stderr_with_the_exit_code_of_its_kind(
    tmp_path: Path, name: str, option: str, code: int, fault: str
) -> None:
    """One line, as every command's; what is printed on stdout is what a producer gave."""
    config = tmp_path / "ballast.toml"
    config.write_text(
        f'state_dir = "{tmp_path}/state"\n[signals.options.crypto_fear_greed]\n{option}\n'
    )
    done = run("run", name, "--config", str(config))
    assert (done.returncode, done.stdout) == (code, "")
    (line,) = [one for one in done.stderr.splitlines() if one.startswith("ballast: error: ")]
    assert f"{name} failed ({fault}): " in line


STORES_AHEAD = """
import json, sys
from daemon.cli import main
from market.warehouse import Origin, Warehouse
from tests.market.stored_market import PLACE, bar

folder, ahead, config = sys.argv[1], int(sys.argv[2]), sys.argv[3]
store = Warehouse.open(f"chdb://{folder}/state/warehouse")
store.insert_bars([bar(0, open_time=ahead - PLACE["interval_ms"])], origin=Origin.REST,
                  ingested_at=ahead, **PLACE)
store.close()
main(["import", "--signals", f"{folder}/mood.csv", "--config", config])
main(["signals", "run", "crypto_fear_greed", "--store", "--config", config])
store = Warehouse.open(f"chdb://{folder}/state/warehouse")
rows = store.signals(since=0, until=ahead)
print(json.dumps({row.source: row.ingested_at for row in rows}))
"""


def test_what_is_stored_by_hand_is_stamped_after_the_newest_bar(tmp_path: Path) -> None:
    """Both commands, in the store of a sandbox whose venue runs ahead of the wall."""
    (tmp_path / "mood.csv").write_text(
        "source,version,symbol,event_time,published_at,name,value\n"
        "mood,1,,2024-03-01T00:00:00Z,2024-03-01T00:20:00Z,value,0.4\n"
    )
    (tmp_path / "state").mkdir()
    config = tmp_path / "ballast.toml"
    with serving() as site:
        config.write_text(
            f'state_dir = "{tmp_path}/state"\n'
            f'[storage]\nwarehouse_url = "chdb://{tmp_path}/state/warehouse"\n'
            f'[signals.options.crypto_fear_greed]\nbase_url = "{site.url}"\n'
        )
        done = subprocess.run(
            [sys.executable, "-c", STORES_AHEAD, str(tmp_path), str(AHEAD), str(config)],
            capture_output=True,
            text=True,
            check=True,
            cwd=ROOT,
            timeout=100,
        )
    stamps = json.loads(done.stdout.splitlines()[-1])
    assert set(stamps) == {"mood", "crypto_fear_greed"}
    assert min(stamps.values()) >= AHEAD + OTHERS_MARGIN_MS
