"""The registry on a real SQLite file."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from training.gates import Check, Relation, Verdict
from training.records import (
    ModelRecord,
    NoChampion,
    OutOfSample,
    PromotionKind,
    PromotionRefused,
    RunStatus,
    UnknownModel,
)
from training.registry import Registry


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A database file that does not exist yet."""
    return f"sqlite:///{tmp_path / 'ledger.sqlite'}"


@pytest.fixture
def registry(url: str) -> Iterator[Registry]:
    """An open, empty registry."""
    opened = Registry.open(url)
    yield opened
    opened.close()


def check(*, passed: bool, value: float = 0.97) -> Check:
    """One hard check."""
    return Check(
        name="net_sharpe_psr",
        value=value,
        threshold=0.95,
        relation=Relation.AT_LEAST,
        hard=True,
        passed=passed,
        explanation="A sentence.",
    )


def record(model_id: str, *, passed: bool = True, value: float = 0.97) -> ModelRecord:
    """A model with one check and a record of three bars."""
    checks = (check(passed=passed, value=value),)
    return ModelRecord(
        model_id=model_id,
        created_at=1_000,
        snapshot_id="snap",
        artefact_path=Path("/models") / model_id,
        config={"seeds": [1, 2]},
        lineage={"windows": 4},
        verdict=Verdict(passed=passed, checks=checks, reasons=() if passed else ("A sentence.",)),
        out_of_sample=OutOfSample(
            open_time=np.array([0, 60_000, 120_000], dtype=np.int64),
            net_return=np.array([0.1, -0.2, math.nan]),
            equal_weight=np.array([0.0, 0.01, 0.02]),
        ),
    )


def test_a_model_comes_back_as_it_was(registry: Registry) -> None:
    """Every field survives, arrays to the bit."""
    registry.register(record("a"), judged_at=5)
    back, sent = registry.model("a"), record("a")
    assert back.config == sent.config
    assert back.lineage == sent.lineage
    assert back.verdict == sent.verdict
    assert back.artefact_path == sent.artefact_path
    np.testing.assert_array_equal(back.out_of_sample.open_time, sent.out_of_sample.open_time)
    np.testing.assert_array_equal(back.out_of_sample.net_return, sent.out_of_sample.net_return)


def test_what_was_not_measured_stays_not_measured(registry: Registry) -> None:
    """A NaN value comes back as NaN and still refuses."""
    registry.register(record("a", passed=False, value=math.nan), judged_at=5)
    verdict = registry.verdict("a")
    assert math.isnan(verdict.checks[0].value)
    assert verdict.checks[0].refuses
    assert not verdict.passed


def test_promotion_moves_the_pointer_once(registry: Registry) -> None:
    """A promoted model leads, and promoting it again adds no history."""
    registry.register(record("a"), judged_at=5)
    assert registry.champion() is None
    registry.promote("a", reason="gates passed", at=10)
    registry.promote("a", reason="again", at=11)
    champion = registry.champion()
    assert champion is not None
    assert (champion.model_id, champion.promoted_at, champion.reason) == ("a", 10, "gates passed")
    assert len(registry.promotions()) == 1


def test_unknown_and_refused_models_do_not_lead(registry: Registry) -> None:
    """Only a registered model whose gates passed may be promoted."""
    registry.register(record("bad", passed=False), judged_at=5)
    with pytest.raises(UnknownModel, match="ghost"):
        registry.promote("ghost", reason="r", at=1)
    with pytest.raises(PromotionRefused, match="bad was refused"):
        registry.promote("bad", reason="r", at=1)
    assert registry.champion() is None


def test_force_needs_a_reason_and_is_recorded(registry: Registry) -> None:
    """An owner may overrule the gates, with a reason, and the history says forced."""
    registry.register(record("bad", passed=False), judged_at=5)
    with pytest.raises(PromotionRefused, match="needs a reason"):
        registry.promote("bad", reason="  ", at=1, force=True)
    registry.promote("bad", reason="rehearsal", at=2, force=True)
    assert [p.kind for p in registry.promotions()] == [PromotionKind.FORCED]


def test_the_newest_verdict_counts(registry: Registry) -> None:
    """A model judged again and refused can no longer be promoted; both verdicts are kept."""
    registry.register(record("a"), judged_at=5)
    registry.register(record("a", passed=False), judged_at=6)
    assert not registry.verdict("a").passed
    assert [summary.judged_at for summary in registry.list_models()] == [6]
    with pytest.raises(PromotionRefused):
        registry.promote("a", reason="r", at=7)


def test_rollback_walks_back_one_champion_at_a_time(registry: Registry) -> None:
    """From c to b to a to none; a rollback after a new promotion returns to what led then."""
    for model_id in "abc":
        registry.register(record(model_id), judged_at=5)
        registry.promote(model_id, reason="r", at=10)
    led = []
    for at in (20, 21):
        champion = registry.rollback(reason="breach", at=at)
        led.append(champion.model_id if champion else None)
    assert led == ["b", "a"]
    registry.promote("c", reason="r", at=30)
    back = registry.rollback(reason="breach", at=31)
    assert back is not None
    assert back.model_id == "a"
    assert registry.rollback(reason="breach", at=32) is None
    with pytest.raises(NoChampion):
        registry.rollback(reason="breach", at=33)
    assert len(registry.promotions()) == 8


def test_every_connection_sees_one_pointer(url: str, registry: Registry) -> None:
    """Two processes' worth of registries promote at once: one leads, both are in the history."""
    for model_id in "ab":
        registry.register(record(model_id), judged_at=5)
    other = Registry.open(url)
    threads = [
        threading.Thread(target=r.promote, args=(m,), kwargs={"reason": "r", "at": 1})
        for r, m in ((registry, "a"), (other, "b"))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert registry.champion() == other.champion()
    history = registry.promotions()
    assert sorted(p.model_id or "" for p in history) == ["a", "b"]
    champion = registry.champion()
    assert champion is not None
    assert champion.model_id == history[-1].model_id
    other.close()


def test_list_says_who_leads(registry: Registry) -> None:
    """The list holds passed and refused models and marks the champion."""
    registry.register(record("a"), judged_at=5)
    registry.register(record("b", passed=False), judged_at=5)
    registry.promote("a", reason="r", at=10)
    assert {s.model_id: (s.passed, s.leads) for s in registry.list_models()} == {
        "a": (True, True),
        "b": (False, False),
    }


def test_an_interrupted_run_is_failed_at_the_next_start(url: str, registry: Registry) -> None:
    """A run that never ended is marked; finished ones keep their outcome."""
    registry.start_run("r1", trigger="schedule", at=1)
    registry.finish_run("r1", status=RunStatus.CANDIDATE, at=2, message="passed", model_id="m")
    registry.start_run("r2", trigger="bootstrap", at=3)
    later = Registry.open(url)
    assert later.mark_interrupted_runs(at=9) == ("r2",)
    assert later.mark_interrupted_runs(at=10) == ()
    newest, oldest = later.runs()
    assert (newest.run_id, newest.status, newest.ended_at, newest.message) == (
        "r2", RunStatus.FAILED, 9, "interrupted",
    )  # fmt: skip
    assert (oldest.status, oldest.model_id) == (RunStatus.CANDIDATE, "m")
    later.close()


def test_a_promotion_is_noted_in_its_run(registry: Registry) -> None:
    """The run that made the champion says so; others are left alone."""
    for run_id, model_id in (("r1", "a"), ("r2", "b")):
        registry.register(record(model_id), judged_at=5)
        registry.start_run(run_id, trigger="schedule", at=1)
        registry.finish_run(
            run_id, status=RunStatus.CANDIDATE, at=2, message="passed", model_id=model_id
        )
    registry.promote("a", reason="r", at=10)
    assert {run.run_id: run.status for run in registry.runs()} == {
        "r1": RunStatus.PROMOTED,
        "r2": RunStatus.CANDIDATE,
    }


def test_starting_a_run_twice_is_starting_it_once(registry: Registry) -> None:
    """The daemon and its child may both note the start; the first note stands."""
    registry.start_run("r1", trigger="schedule", at=1)
    registry.start_run("r1", trigger="manual", at=2)
    (run,) = registry.runs()
    assert (run.trigger, run.started_at, run.status) == ("schedule", 1, RunStatus.RUNNING)
