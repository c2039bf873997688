"""Stop the process at every write point of the store: the ledger is the uninterrupted one's."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from broker.store import Store
from tests.broker.worlds import World
from tests.simulation.crashes import (
    AFTER_COMMIT,
    EXIT_CODE,
    Files,
    History,
    Place,
    Rows,
    Server,
    WritePoints,
    emptied,
    ledger_rows,
    live,
)
from tests.simulation.histories import ACCOUNT

ROOT = Path(__file__).parents[2]
KILL_EVERY = 60
SHORT = pytest.param(History(decisions=12, commit_every=4), id="12 decisions, 4 at a time")
LONG = pytest.param(
    History(decisions=200),
    id="200 decisions",
    marks=[pytest.mark.simulation, pytest.mark.timeout(3_600)],
)


@dataclass(frozen=True)
class Uninterrupted:
    """A replay that nothing stopped: its write points, its ledger, a digest after each commit."""

    points: list[str]
    rows: Rows
    digests: list[str]

    def committed(self, point: int) -> str:
        """Digest of what is durable when a process ends at ``point``."""
        return self.digests[self.points[: point + 1].count(AFTER_COMMIT)]


def uninterrupted(history: History, world: World, url: str) -> Uninterrupted:
    """Replay into the database at ``url``."""
    digests = [digest({})]
    points = WritePoints(on_commit=lambda: digests.append(digest(ledger_rows(url))))
    live(url, history, world, points)
    return Uninterrupted(points.passed, ledger_rows(url), digests)


def digest(rows: Rows) -> str:
    """SHA-256 of every value of every row."""
    return hashlib.sha256(repr(rows).encode()).hexdigest()


def place_at(url: str, folder: Path) -> Place:
    """The database behind ``url``, empty."""
    return Files(folder) if url.startswith("sqlite") else Server(url)


@pytest.mark.parametrize("history", [SHORT, LONG])
def test_a_stop_at_any_write_point_leaves_the_same_ledger(
    history: History, store_url: str, tmp_path: Path
) -> None:
    """Every process is stopped one write point later than the one before, until all is done.

    After each stop the rows are exactly those of the uninterrupted replay at its last commit; in
    the end every row is, hash chain included, and no write point was left out.
    """
    world = history.world()
    whole = uninterrupted(history, world, store_url)
    place = place_at(emptied(store_url, tmp_path), tmp_path)
    points: list[str] = []
    commits = stop_at = 0
    while True:
        one = WritePoints(stop_at=stop_at, stop=place.stop, new_ledger=commits == 0)
        if not live(place.url, history, world, one).stopped:
            break
        points.append(one.passed[-1])
        commits += points[-1] == AFTER_COMMIT
        stop_at = 0 if points[-1] == AFTER_COMMIT else stop_at + 1
        assert digest(ledger_rows(place.url)) == whole.digests[commits], points[-1]
    assert ledger_rows(place.url) == whole.rows
    assert len(whole.rows["decisions"]) == history.decisions
    assert points == whole.points
    store = Store.open(place.url)
    assert store.check(ACCOUNT) == []
    store.close()
    print(f"stopped at {len(points)} write points, {commits} of them right after a commit")


@pytest.mark.parametrize(
    "history",
    [
        pytest.param(History(decisions=3), id="3 decisions"),
        pytest.param(
            History(decisions=40),
            id="40 decisions",
            marks=[pytest.mark.simulation, pytest.mark.timeout(900)],
        ),
    ],
)
def test_a_killed_process_leaves_the_same_ledger(
    history: History, store_url: str, tmp_path: Path
) -> None:
    """A child ends itself at a write point; what it left is carried on to the same ledger."""
    world = history.world()
    whole = uninterrupted(history, world, store_url)
    around_commits = [i for i, name in enumerate(whole.points) if "commit" in name]
    chosen = sorted({*range(0, len(whole.points), KILL_EVERY)[1:], *around_commits[-2:]})
    for point in chosen:
        url = emptied(store_url, tmp_path / f"at{point}")
        arguments = (url, str(history.decisions), str(history.commit_every), str(point))
        child = subprocess.run(
            [sys.executable, "-m", "tests.simulation.crashes", *arguments],
            cwd=ROOT,
            check=False,
            timeout=100,
        )
        assert child.returncode == EXIT_CODE
        assert digest(ledger_rows(url)) == whole.committed(point), whole.points[point]
        live(url, history, world, WritePoints())
        assert ledger_rows(url) == whole.rows
    print(f"killed at {len(chosen)} write points: {', '.join(whole.points[i] for i in chosen)}")
