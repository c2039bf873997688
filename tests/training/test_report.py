"""What a verdict looks like in text and in JSON."""

from __future__ import annotations

import json
import math

from training.gates import Check, Relation, Verdict
from training.report import verdict_json, verdict_text


def check(name: str, value: float, *, hard: bool, passed: bool) -> Check:
    """A check against a threshold of one half."""
    return Check(
        name=name,
        value=value,
        threshold=0.5,
        relation=Relation.AT_LEAST,
        hard=hard,
        passed=passed,
        explanation=f"{name} is {value}.",
    )


VERDICT = Verdict(
    passed=False,
    checks=(
        check("good", 0.75, hard=True, passed=True),
        check("bad", 0.25, hard=True, passed=False),
        check("odd", 0.25, hard=False, passed=False),
        check("missing", math.nan, hard=False, passed=False),
    ),
    reasons=("bad is 0.25.", "missing is nan."),
)


def test_text() -> None:
    """The whole report, to the letter."""
    assert verdict_text(VERDICT, facts={"model": "m1"}) == (
        "model: m1\n"
        "verdict: REFUSED\n"
        "\n"
        "check    value  threshold  kind     result\n"
        "good     0.75   >= 0.5     hard     pass\n"
        "bad      0.25   >= 0.5     hard     FAIL\n"
        "odd      0.25   >= 0.5     warning  warn\n"
        "missing  -      >= 0.5     warning  NO EVIDENCE\n"
        "\n"
        "refused because:\n"
        "  - bad is 0.25.\n"
        "  - missing is nan.\n"
        "\n"
        "warnings:\n"
        "  - odd is 0.25.\n"
    )


def test_json_is_strict() -> None:
    """NaN never reaches JSON, and every check says whether it refuses."""
    document = json.loads(json.dumps(verdict_json(VERDICT), allow_nan=False))
    assert document["passed"] is False
    assert [item["refuses"] for item in document["checks"]] == [False, True, False, True]
    assert document["checks"][3]["value"] is None
