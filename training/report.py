"""A verdict as text for a terminal and as JSON for programs and the page. Pure formatting."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from training.gates import Check, Verdict

_HEADER = ("check", "value", "threshold", "kind", "result")


def verdict_json(verdict: Verdict) -> dict[str, Any]:
    """Plain JSON values; what could not be measured is ``null``."""
    return {
        "passed": verdict.passed,
        "reasons": list(verdict.reasons),
        "warnings": list(verdict.warnings),
        "checks": [check_json(check) for check in verdict.checks],
    }


def check_json(check: Check) -> dict[str, Any]:
    """One check as plain JSON values."""
    return {
        "name": check.name,
        "value": _null_if_nan(check.value),
        "threshold": _null_if_nan(check.threshold),
        "relation": check.relation.value,
        "hard": check.hard,
        "passed": check.passed,
        "refuses": check.refuses,
        "explanation": check.explanation,
    }


def verdict_text(verdict: Verdict, *, facts: Mapping[str, str] | None = None) -> str:
    """A table of the checks under ``facts`` (name: value lines), then the reasons.

    Nothing is coloured and the widths fit the content, so that it can be mailed or grepped.
    """
    lines = [f"{name}: {value}" for name, value in (facts or {}).items()]
    lines.append(f"verdict: {'passed' if verdict.passed else 'REFUSED'}")
    lines.append("")
    lines.extend(_table([_HEADER, *(_row(check) for check in verdict.checks)]))
    for title, sentences in (("refused because", verdict.reasons), ("warnings", verdict.warnings)):
        if sentences:
            lines.extend(["", f"{title}:", *(f"  - {sentence}" for sentence in sentences)])
    return "\n".join(lines) + "\n"


def _row(check: Check) -> tuple[str, ...]:
    return (
        check.name,
        _figure(check.value),
        f"{check.relation.value} {_figure(check.threshold)}",
        "hard" if check.hard else "warning",
        _result(check),
    )


def _result(check: Check) -> str:
    if check.passed:
        return "pass"
    if not check.measured:
        return "NO EVIDENCE"
    return "FAIL" if check.hard else "warn"


def _figure(value: float) -> str:
    return f"{value:.4g}" if math.isfinite(value) else "-"


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _null_if_nan(value: float) -> float | None:
    return value if math.isfinite(value) else None
