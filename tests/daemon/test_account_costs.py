"""``ballast account costs`` and ``recompute`` from the outside: figures and exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from broker.calibrated_costs import META_KEY, read_calibration
from broker.calibration import Estimate
from broker.store import Store
from tests.broker.planted_books import BTC, KAPPA, SIZES, SPREAD_BPS
from tests.daemon.audited_market import FIRST, HOURS, MODELLED_AT, WALKED_AT
from tests.daemon.test_data_commands import HOLD, run_all

ROOT = Path(__file__).parents[2]
WALKS = [word for size in SIZES for word in ("--size", str(size))]


def prepare(what: str, folder: Path) -> None:
    """Build or change the stored market in a process of its own: it owns the store."""
    subprocess.run(
        [sys.executable, "-m", "tests.daemon.audited_market", what, str(folder)],
        check=True,
        cwd=ROOT,
        timeout=60,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Settings of the live venue over the stored market."""
    folder = tmp_path_factory.mktemp("audited")
    path = folder / "ballast.toml"
    path.write_text(
        f'state_dir = "{folder / "state"}"\n[exchange]\nsymbols = ["{BTC}"]\n'
        '[log]\nlevel = "error"\n',
        encoding="utf-8",
    )
    prepare("build", folder / "state")
    return ["--config", str(path)]


def state_of(options: list[str]) -> Path:
    return Path(options[1]).parent / "state"


def test_costs_of_recorded_books(options: list[str]) -> None:
    """Spread and impact that were planted, beside the fill that walked a book; saved when asked."""
    late = str((FIRST + HOURS - 72) * 3_600_000)
    answers, errors = run_all(
        ["account", "costs", "--json", *WALKS, *options],
        ["account", "costs", "--json", "--save", "--since", late, *options],
        ["account", "costs", "--save", *WALKS, *options],
        ["account", "costs", "--size", "-1", *options],
        ["account", "costs", "--exchange", "bybit", *options],
        ["account", "costs", "--json", "--until", str(WALKED_AT * 3_600_000), *options],
    )
    assert [code for code, _ in answers] == [0, 1, 0, 2, 2, 0], errors
    found, few, before = (json.loads(answers[number][1]) for number in (0, 1, 5))
    own = found["symbols"][BTC]
    assert own["half_spread_bps"]["value"] == pytest.approx(SPREAD_BPS)
    assert own["impact_coefficient"]["value"] == pytest.approx(KAPPA, rel=1e-6)
    assert own["impact_coefficient"]["source"]["snapshots"] == HOURS
    assert found["origin"] == {"venue": "binanceusdm", "is_sandbox": False}
    assert own["realised"]["fills"] == 1
    # 400 at the mid: 2 bps, and 0.7·0.03·√(400/1e8) is 0.42 bps; the model said 1.06.
    assert own["realised"]["realised_bps"] == pytest.approx(2.42)
    assert own["realised"]["modelled_bps"] == pytest.approx(1.06)
    assert before["symbols"][BTC]["realised"] is None  # that fill walked a later book
    assert own["calibrated"]["half_spread_bps"] == pytest.approx(SPREAD_BPS)
    refused = few["symbols"][BTC]["half_spread_bps"]
    assert refused["reason"] == "too_few_snapshots"
    for words in ("nothing saved", "--size -1", "trades 'binanceusdm'"):
        assert words in errors
    store = Store.open(f"sqlite:///{state_of(options) / 'ledger.sqlite'}")
    kept = read_calibration(store.meta(META_KEY) or "")
    store.close()
    impact = kept.symbols[BTC].impact_coefficient
    assert isinstance(impact, Estimate)
    assert impact.value == own["impact_coefficient"]["value"]


def test_fills_computed_again(options: list[str]) -> None:
    """All equal; then the venue revises a bar, and the fill of that bar differs."""
    second = f"main:order:{MODELLED_AT[1] * 3_600_000}:{BTC}:fill"
    again = ["account", "recompute", *options]
    answers, errors = run_all(
        [*again, "--json"], [*again, "--fill", second], [*again, "--fill", "main:order:0:x:fill"]
    )
    assert [code for code, _ in answers] == [0, 0, 2], errors
    found = json.loads(answers[0][1])
    assert (found["fills"], found["equal"]) == (3, 3)
    assert [one["kind"] for one in found["recomputed"]] == ["modelled", "modelled", "book"]
    assert "1 of 1 fills are equal" in answers[1][1]
    prepare("revise", state_of(options))
    (table, later), errors = run_all(
        again, [*again, "--json", "--since", str(MODELLED_AT[1] * 3_600_000 + 2_000)]
    )
    assert (table[0], later[0]) == (1, 0), errors
    assert "2 of 3 fills are equal" in table[1]
    assert f"{second}: reference_price is 100.25, recomputed 100.5" in errors
    assert json.loads(later[1])["fills"] == 1


def test_a_store_that_a_daemon_owns(options: list[str]) -> None:
    """Exit code 3, one line, whichever verb."""
    url = f"chdb://{state_of(options) / 'warehouse'}"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "open\n"
        answers, errors = run_all(
            ["account", "costs", *options], ["account", "recompute", *options]
        )
        holder.communicate()
    assert [code for code, _ in answers] == [3, 3], errors
    assert "Traceback" not in errors
