"""The JSON document that every benchmark ends with: figures, machine, versions, commit, checks."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

PACKAGES = ("numpy", "torch", "stable-baselines3", "ccxt", "chdb", "clickhouse-connect")


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One figure that was asked for, its target in words, and whether it holds."""

    name: str
    value: float
    target: str
    holds: bool


def document(name: str, figures: Mapping[str, Any], checks: Sequence[Check]) -> dict[str, Any]:
    """Return the document of benchmark ``name`` as plain JSON values."""
    return {
        "benchmark": name,
        "figures": dict(figures),
        "checks": [asdict(check) for check in checks],
        "machine": {"cores": os.cpu_count(), "processor": platform.machine()},
        "versions": {"python": platform.python_version()}
        | {package: version(package) for package in PACKAGES},
        "commit": _commit(),
    }


def _commit() -> str:
    root = Path(__file__).parents[1]
    found = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=root, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return found.stdout.strip() or "unknown"
