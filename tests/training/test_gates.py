"""Each gate on records whose figures are known by construction."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from market.panel import Float64Array
from training.gates import Check, Comparison, Evidence, Stress, Thresholds, Verdict, judge

BARS = 1_000
BARS_PER_YEAR = 8_760.0


def swing(mean: float, size: float, bars: int = BARS) -> Float64Array:
    """Returns that alternate around ``mean`` by ``size``: Sharpe per bar is mean/size."""
    return mean + size * np.where(np.arange(bars) % 2 == 0, 1.0, -1.0)


def evidence(**changes: object) -> Evidence:
    """A record that passes every gate, with some fields replaced."""
    good = swing(0.001, 0.01)
    sound = Evidence(
        bars_per_year=BARS_PER_YEAR,
        windows=4,
        net_return=good,
        turnover=np.full(BARS, 0.01),
        weights=np.full((BARS, 4), 0.2),
        stressed={stress: swing(0.0005, 0.01) for stress in Stress},
        equal_weight=swing(0.0002, 0.01),
    )
    return dataclasses.replace(sound, **changes)  # type: ignore[arg-type]  # fields by name


def check(verdict: Verdict, name: str) -> Check:
    """Return the check called ``name``."""
    return next(item for item in verdict.checks if item.name == name)


def test_a_sound_record_passes_every_gate() -> None:
    """Nothing refuses and nothing warns."""
    verdict = judge(evidence())
    assert verdict.passed
    assert verdict.reasons == ()
    assert verdict.warnings == ()
    assert all(item.passed for item in verdict.checks)


def test_reasons_are_the_sentences_of_the_refusing_checks() -> None:
    """A refusal says why in the words of its checks."""
    verdict = judge(evidence(windows=3))
    assert not verdict.passed
    assert verdict.reasons == ("3 test windows were judged, needed 4.",)


def test_sharpe_probability_needs_evidence_not_luck() -> None:
    """0.03 a bar over 1000 bars is z = 0.95, probability 0.83: positive, but not enough."""
    verdict = judge(evidence(net_return=swing(0.0003, 0.01)))
    psr = check(verdict, "net_sharpe_psr")
    expected = 0.5 * (1 + math.erf(0.03 * math.sqrt(999) / 2**0.5))
    assert psr.value == pytest.approx(expected, abs=1e-3)
    assert psr.hard
    assert not psr.passed
    assert check(verdict, "beats_cash").passed
    assert not verdict.passed


def test_loss_is_refused() -> None:
    """A record that loses money does not beat cash."""
    verdict = judge(evidence(net_return=swing(-0.001, 0.01)))
    assert not check(verdict, "beats_cash").passed
    assert not verdict.passed


def test_equal_weight_must_be_beaten() -> None:
    """A sound record is refused where equal weight has the higher Sharpe ratio."""
    verdict = judge(evidence(equal_weight=swing(0.002, 0.01)))
    assert [c.name for c in verdict.checks if c.refuses] == ["beats_equal_weight"]


@pytest.mark.parametrize(
    ("stress", "name", "refused"),
    [
        (Stress.COST_X2, "cost_stress_x2", True),
        (Stress.COST_X3, "cost_stress_x3", False),
        (Stress.LATENCY, "latency_plus_one_bar", False),
        (Stress.FUNDING_X2, "funding_x2", False),
    ],
)
def test_stresses(stress: Stress, name: str, refused: bool) -> None:
    """Only twice the costs is hard; the other stresses warn."""
    stressed = {**evidence().stressed, stress: swing(-0.0005, 0.01)}
    verdict = judge(evidence(stressed=stressed))
    failed = check(verdict, name)
    assert not failed.passed
    assert verdict.passed is not refused
    assert (failed.explanation in verdict.warnings) is not refused


@pytest.mark.parametrize("stress", list(Stress))
def test_a_stress_that_was_not_run_is_a_refusal(stress: Stress) -> None:
    """Missing evidence refuses, even where the gate is only a warning."""
    stressed = {name: record for name, record in evidence().stressed.items() if name != stress}
    verdict = judge(evidence(stressed=stressed))
    assert not verdict.passed
    assert "could not be measured" in verdict.reasons[0]


def test_holding_cash_is_named() -> None:
    """Four percent in one asset is ``no_position``; five percent is a position."""
    low = judge(evidence(weights=np.full((BARS, 1), 0.049)))
    enough = judge(evidence(weights=np.full((BARS, 1), 0.0501)))
    assert [c.name for c in low.checks if c.refuses] == ["no_position"]
    assert enough.passed


def test_an_all_cash_record_is_refused() -> None:
    """No trade, no return, no variation: refused, and nothing divides by zero."""
    zero = np.zeros(BARS)
    verdict = judge(
        evidence(
            net_return=zero,
            turnover=zero,
            weights=np.zeros((BARS, 4)),
            stressed=dict.fromkeys(Stress, zero),
        )
    )
    refusing = {c.name for c in verdict.checks if c.refuses}
    assert {"no_position", "net_sharpe_psr", "beats_cash", "cost_stress_x2"} <= refusing


@pytest.mark.parametrize("name", ["net_return", "turnover", "equal_weight"])
def test_one_nan_anywhere_is_a_refusal(name: str) -> None:
    """A single NaN bar in any record never passes."""
    record = getattr(evidence(), name).copy()
    record[17] = math.nan
    assert not judge(evidence(**{name: record})).passed


def test_one_nan_weight_is_a_refusal() -> None:
    """A NaN weight makes exposure, concentration and saturation unmeasured."""
    weights = np.full((BARS, 4), 0.2)
    weights[3, 1] = math.nan
    verdict = judge(evidence(weights=weights))
    refusing = {c.name for c in verdict.checks if c.refuses}
    assert refusing == {"no_position", "concentration_hhi", "saturation"}


def test_an_empty_record_is_a_refusal() -> None:
    """No bars, no promotion."""
    empty = np.empty(0)
    verdict = judge(
        evidence(
            net_return=empty,
            turnover=empty,
            equal_weight=empty,
            weights=np.empty((0, 4)),
            stressed=dict.fromkeys(Stress, empty),
        )
    )
    assert not verdict.passed


def test_concentration_by_hand() -> None:
    """Weights (0.3, 0.1) are shares (3/4, 1/4): index 10/16; flat bars do not count."""
    weights = np.tile([0.3, 0.1], (BARS, 1))
    weights[::2] = 0.0
    value = check(judge(evidence(weights=weights)), "concentration_hhi").value
    assert value == pytest.approx(0.625)


def test_turnover_is_per_day() -> None:
    """10 % per hourly bar is 2.4 times equity a day: a warning, not a refusal."""
    verdict = judge(evidence(turnover=np.full(BARS, 0.1)))
    assert check(verdict, "turnover_per_day").value == pytest.approx(2.4)
    assert verdict.passed
    assert len(verdict.warnings) == 1


def test_saturation_counts_corners() -> None:
    """A quarter of the bars all in one asset and a quarter all in cash is one half."""
    weights = np.full((BARS, 2), 0.4)
    weights[:250] = [1.0, 0.0]
    weights[250:500] = 0.0
    assert check(judge(evidence(weights=weights)), "saturation").value == pytest.approx(0.5)


def comparison(candidate: float, champion: float, bars: int = BARS) -> Comparison:
    """Two swinging records on the same bars."""
    return Comparison(
        champion_id="m-old",
        candidate=swing(candidate, 0.01, bars),
        champion=swing(champion, 0.01, bars),
    )


def test_champion_may_be_missed_by_half_a_sharpe() -> None:
    """A Sharpe per bar of 0.005 is 0.47 a year: allowed to lose; 0.006 is 0.56: refused."""
    near = judge(evidence(comparison=comparison(0.0010, 0.00105)))
    far = judge(evidence(comparison=comparison(0.0010, 0.00106)))
    assert near.passed
    assert [c.name for c in far.checks if c.refuses] == ["not_worse_than_champion"]
    assert "comparison of recipes" in far.reasons[0]


def test_too_few_common_bars_are_no_comparison() -> None:
    """With a champion but hardly a common bar the evidence is missing."""
    verdict = judge(evidence(comparison=comparison(0.001, 0.0, bars=100)))
    assert not verdict.passed
    assert judge(
        evidence(comparison=comparison(0.001, 0.0, bars=100)), Thresholds(common_bars=100)
    ).passed


def test_a_champion_that_held_cash_has_sharpe_zero() -> None:
    """A champion forced into the lead with an all-cash record can still be beaten."""
    cash = Comparison(champion_id="m", candidate=swing(0.001, 0.01), champion=np.zeros(BARS))
    assert judge(evidence(comparison=cash)).passed


def test_without_a_champion_there_is_no_such_check() -> None:
    """The first promotion is not compared with anybody."""
    assert "not_worse_than_champion" not in {c.name for c in judge(evidence()).checks}
