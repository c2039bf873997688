"""Scripted faults of the sandbox venue: the values, their file, a random script and the report.

This is the door to the parts: ``fault`` (values), ``fault_file`` (TOML), ``fault_draw`` (random
scripts), ``fault_report`` (injected against noticed). docs/faults.md has the table of kinds.
"""

from __future__ import annotations

from market.sandbox.fault import Fault, FaultKind, Place
from market.sandbox.fault_draw import FAULT_FREE_MS, random_faults
from market.sandbox.fault_file import FaultFileError, load_faults
from market.sandbox.fault_report import (
    NOTICED_BY,
    CounterSample,
    FaultRow,
    early_requests,
    fault_report,
    fault_totals,
)

__all__ = [
    "FAULT_FREE_MS",
    "NOTICED_BY",
    "CounterSample",
    "Fault",
    "FaultFileError",
    "FaultKind",
    "FaultRow",
    "Place",
    "early_requests",
    "fault_report",
    "fault_totals",
    "load_faults",
    "random_faults",
]
