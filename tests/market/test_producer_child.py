"""The child: a user's package is foreign code, and its rows are judged one by one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from market.bar import HOUR_MS
from market.producers.child import Answer, Request, read_answer
from market.producers.producer import ProducerFailed, ProducerFault, installed_producers
from market.signals import LONGEST_CONTENT, SignalFault
from tests.market.fear_greed_site import NEWEST

NOW = NEWEST * 1000 + HOUR_MS
USER_PRODUCER = """
from market.signals import Signal

class Tide:
    name, version, cadence, lag_ms, needs_history = "tide", "2", "*/5 * * * *", 1000, False
    def __init__(self, height=1.0):
        self.height = height
    def produce(self, now, context):
        print("noise on stdout")
        def row(**changes):
            facts = dict(source="tide", version="2", symbol="", event_time=now, published_at=now,
                         ingested_at=0, name="height", value=self.height, is_backfilled=False)
            return Signal(**(facts | changes))
        later = row(event_time=now + 1, published_at=now + 1)
        early = row(event_time=now - 9_000, published_at=now - 9_000, is_backfilled=True)
        kept = row(event_time=now - 9_000, published_at=now - 9_000, is_backfilled=True,
                   lag_ms=1000)
        return [row(), row(source="crypto_fear_greed"), later, early, kept]
"""


@pytest.fixture
def user_package(tmp_path: Path) -> Path:
    """A user's own distribution, as pip would install it."""
    (tmp_path / "tide_table.py").write_text(USER_PRODUCER)
    info = tmp_path / "tide_table-2.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tide-table\nVersion: 2.0\n")
    (info / "entry_points.txt").write_text(
        "[ballast.signals]\ntide = tide_table:Tide\nbroken = tide_table:Missing\n"
        "forecast = tide_table:Tide\n"
    )
    return tmp_path


def child(request: Request, *, path: Path | None = None) -> Answer:
    """Run the real child, with ``path`` on its import path."""
    root = Path(__file__).parents[2]
    places = [str(root), *([str(path)] if path else [])]
    done = subprocess.run(
        [sys.executable, "-m", "market.producers.child"],
        input=request.to_line(),
        capture_output=True,
        env={"PYTHONPATH": ":".join(places), "PATH": "/usr/bin:/bin"},
        check=False,
        timeout=60,
    )
    return read_answer(done.stdout)


def test_a_users_package_is_found_by_its_entry_point(
    user_package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An installed distribution brings a producer; it cannot take a built-in's name."""
    monkeypatch.syspath_prepend(str(user_package))
    found = {one.name: one for one in installed_producers()}
    assert found["tide"].distribution == "tide-table"
    assert found["forecast"].distribution == "ballast"
    assert "tide_table" not in sys.modules


def test_a_users_producer_runs_in_a_child_under_its_own_name(user_package: Path) -> None:
    """Its rows come back; rows of another, of the future or of too little lag do not."""
    request = Request(name="tide", options={"height": 3.5}, now=NOW, interval_ms=HOUR_MS)
    answer = child(request, path=user_package)
    assert [(one.source, one.value) for one in answer.rows] == [("tide", 3.5)] * 2
    assert [one.fault for one in answer.refused] == [
        SignalFault.BAD_NAME, SignalFault.BAD_TIME, SignalFault.BAD_LAG,
    ]  # fmt: skip
    assert "lag_ms=self.lag_ms" in answer.refused[-1].message
    assert '"height"' in answer.refused[-1].content
    assert answer.description.cadence == "*/5 * * * *"


@pytest.mark.parametrize(
    ("name", "options", "fault"),
    [
        ("nobody", {}, ProducerFault.UNKNOWN),
        ("broken", {}, ProducerFault.UNLOADABLE),
        ("tide", {"depth": 1}, ProducerFault.BAD_OPTION),
        ("crypto_fear_greed", {"base_url": "ftp://x"}, ProducerFault.BAD_OPTION),
    ],
)
def test_a_producer_that_cannot_be_made_says_why(
    user_package: Path, name: str, options: dict[str, Any], fault: ProducerFault
) -> None:
    """An unknown name, an import that fails and a bad option are told apart."""
    with pytest.raises(ProducerFailed) as failed:
        child(Request(name=name, options=options), path=user_package)
    assert failed.value.fault is fault


def test_an_answer_that_makes_no_sense_is_a_crash() -> None:
    """Whatever a broken child writes, the reader raises the one typed failure."""
    for document in (b"", b"{}", b"[]", b'{"rows": 1}', b"\xff", json.dumps({"fault": 1}).encode()):
        with pytest.raises(ProducerFailed) as failed:
            read_answer(document)
        assert failed.value.fault is ProducerFault.CRASHED


FOREIGN_ROWS = """
from dataclasses import dataclass, replace
from market.signals import RejectedSignal, Signal, SignalFault

@dataclass
class OwnRow:
    source: str = "tide"
    value: object = 10**5000

@dataclass(frozen=True, kw_only=True)
class Unchecked(Signal):
    def __post_init__(self):
        pass

def facts(now):
    return dict(source="tide", version="2", symbol="", event_time=now, published_at=now,
                ingested_at=0, name="height", is_backfilled=False)

class Tide:
    name, version, cadence, lag_ms, needs_history = "tide", "2", "* * * * *", 0, False
    def produce(self, now, context):
        good = Signal(**facts(now), value=1.0)
        return [OwnRow(), {1: 2, "a": 3}, None, Unchecked(**facts(now), value=10**5000),
                Unchecked(**facts("soon"), value=1.0), good]
"""


def test_rows_of_a_foreign_class_are_refused_with_a_reason(user_package: Path) -> None:
    """What is no signal, or was never checked, costs itself only."""
    (user_package / "tide_table.py").write_text(FOREIGN_ROWS)
    answer = child(Request(name="tide", now=NOW), path=user_package)
    assert [one.value for one in answer.rows] == [1.0]
    assert [one.fault for one in answer.refused] == [
        *[SignalFault.NOT_A_SIGNAL] * 3, SignalFault.OUT_OF_RANGE, SignalFault.BAD_TIME,
    ]  # fmt: skip
    assert "a OwnRow, not a market.signals.Signal" in answer.refused[0].message


def document(**changes: Any) -> bytes:
    """What a child writes that has nothing to give."""
    described = {
        "name": "a", "version": "1", "cadence": "* * * * *", "lag_ms": 0, "needs_history": False,
    }  # fmt: skip
    return json.dumps({"description": described, "rows": [], "refused": []} | changes).encode()


def test_half_a_character_is_written_out() -> None:
    """A text cut off in mid-pair is none in UTF-8; no store and no log could take it."""
    told = {"fault": "not_a_number", "message": "so bullish \ud83d", "content": "\ud83d"}
    (refused,) = read_answer(document(refused=[told])).refused
    assert (refused.message, refused.content) == ("so bullish \\ud83d", "\\ud83d")
    with pytest.raises(ProducerFailed, match=r"no \\ud83d"):
        read_answer(json.dumps({"fault": "refused", "message": "no \ud83d"}).encode())


def test_a_refusal_is_kept_in_a_bounded_length() -> None:
    """A producer may quote a whole page."""
    told = {"fault": "not_a_number", "message": "x" * 10_000, "content": "y" * 10_000}
    (refused,) = read_answer(document(refused=[told])).refused
    assert (len(refused.message), len(refused.content)) == (LONGEST_CONTENT, LONGEST_CONTENT)
