"""A daemon that is killed again and again: nothing decided twice, no bar missing, ledger sound."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from broker.store import Store
from market.bar import DAY_MS, HOUR_MS
from market.sandbox.synthetic import synthetic_tape

pytestmark = pytest.mark.simulation

ROUNDS = 20
SEED = 11
HISTORY_DAYS = 60
SYMBOLS = ("BTC/USDT:USDT", "ETH/USDT:USDT", "SOL/USDT:USDT")

DUMP = """
import sys
import numpy as np
from pathlib import Path
from daemon.history import load_panel
from daemon.settings import load_settings
from market.warehouse import Warehouse

settings = load_settings(Path(sys.argv[1]))
warehouse = Warehouse.open(settings.warehouse_url)
panel = load_panel(settings, warehouse, since=int(sys.argv[2]), until=int(sys.argv[3]))
np.savez(sys.argv[4], **{n: getattr(panel, n) for n in ("open", "high", "low", "close", "volume")})
warehouse.close()
"""


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "daemon", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.fixture
def sandbox() -> Iterator[str]:
    process = start(
        *("sandbox", "--json", "--lock-step", "--speed", "0", "--port", "0"),
        *("--synthetic", str(SEED), "--symbols", ",".join(SYMBOLS)),
        *("--history-days", str(HISTORY_DAYS)),
    )
    assert process.stdout is not None
    yield str(json.loads(process.stdout.readline())["url"])
    process.terminate()
    process.communicate(timeout=10)


@pytest.mark.timeout(900)
def test_twenty_kills_at_random_moments(sandbox: str, tmp_path: Path) -> None:
    """Every interval decided once, funding posted once, every bar as the venue had it."""
    rng = np.random.default_rng(SEED)
    config = tmp_path / "ballast.toml"
    config.write_text(
        f'state_dir = "{tmp_path / "state"}"\n[exchange]\nbase_url = "{sandbox}"\n'
        f"symbols = {list(SYMBOLS)}\nhistory_days = {HISTORY_DAYS}\n"
        '[account]\nfallback = "equal_weight"\n[training]\nenabled = false\n'
        "[monitor]\nport = 0\n",
        encoding="utf-8",
    )
    for _ in range(ROUNDS):
        process = start("run", "--config", str(config))
        time.sleep(float(rng.uniform(2.0, 11.0)))
        process.send_signal(signal.SIGKILL)
        process.communicate()
    last = start("run", "--config", str(config), "--until-bars", "2")
    last.communicate(timeout=120)
    assert last.returncode == 0

    store = Store.open(f"sqlite:///{tmp_path / 'state' / 'ledger.sqlite'}")
    times = [record.decision_time for record in store.decisions("main")]
    assert store.check("main") == []
    store.close()
    assert len(times) > ROUNDS
    assert times == list(range(times[0], times[-1] + HOUR_MS, HOUR_MS))

    truth = synthetic_tape(seed=SEED, symbols=SYMBOLS, history_bars=HISTORY_DAYS * 24).panel
    since = times[0] - HISTORY_DAYS * DAY_MS + HOUR_MS
    dump = tmp_path / "panel.npz"
    subprocess.run(
        [sys.executable, "-c", DUMP, str(config), str(since), str(times[-1]), str(dump)],
        check=True,
        timeout=60,
    )
    rows = (truth.open_time >= since) & (truth.close_time <= times[-1])
    with np.load(dump) as stored:
        for name in ("open", "high", "low", "close", "volume"):
            np.testing.assert_array_equal(stored[name], getattr(truth, name)[rows])
