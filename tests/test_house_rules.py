"""House rules that the layer contracts cannot state: who imports what, and whose daemon it is."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import daemon

ROOT = Path(__file__).parents[1]
PACKAGES = ("market", "broker", "training", "daemon")


def modules() -> Iterator[tuple[str, ast.Module]]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            name = str(path.relative_to(ROOT))
            yield name, ast.parse(path.read_text(encoding="utf-8"))


def imported(tree: ast.Module) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize(
    ("library", "owners"),
    [
        ("ccxt", {"market/ccxt_client.py"}),
        ("clickhouse_connect", {"market/connection.py"}),
        ("chdb", set()),
        ("time", {"market/clock.py"}),
        (
            "torch",
            {
                "training/ppo.py",
                "training/learner.py",
                "training/policy.py",
                "training/counterfactual.py",
                "training/optimizer.py",
                "training/layers.py",
                "training/equivariant.py",
                "training/rollout_networks.py",
                "training/precision.py",
                "training/checkpoint.py",
            },
        ),
        (
            "stable_baselines3",
            {
                "training/ppo.py",
                "training/learner.py",
                "training/policy.py",
                "training/environment.py",
                "training/checkpoint.py",
            },
        ),
    ],
)
def test_a_library_is_imported_where_it_belongs(library: str, owners: set[str]) -> None:
    """Each library has its room; nobody else imports it."""
    users = {name for name, tree in modules() if library in imported(tree)}
    assert users <= owners
    assert owners == set() or users


def test_nobody_else_reads_the_wall_clock() -> None:
    """``now`` and ``utcnow`` of datetime are called nowhere."""
    for name, tree in modules():
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and node.attr in ("utcnow", "today"):
                pytest.fail(f"{name} line {node.lineno} reads the wall clock")
            if (
                isinstance(node, ast.Attribute)
                and node.attr == "now"
                and isinstance(node.value, ast.Name)
                and node.value.id in ("datetime", "date")
            ):
                pytest.fail(f"{name} line {node.lineno} reads the wall clock")


@pytest.mark.parametrize(
    "path",
    [
        "tests/broker/independent.py",
        "tests/broker/independent_walk.py",
        "tests/daemon/auditor.py",
        "tests/simulation/bookkeeper.py",
    ],
)
def test_a_second_derivation_shares_no_code_with_the_first(path: str) -> None:
    """What recomputes the account imports nothing of ours, nor a test's helper that does."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    assert not imported(tree) & {*PACKAGES, "tests", "benchmarks"}


def test_every_test_that_a_page_names_exists() -> None:
    """What a page of docs/ says is shown by a test is shown by one."""
    named = [
        (page.name, *found)
        for page in sorted((ROOT / "docs").glob("*.md"))
        for found in re.findall(r"(tests/\S+?\.py)::(\w+)", page.read_text(encoding="utf-8"))
    ]
    assert named
    for page, path, name in named:
        file = ROOT / path
        assert file.exists(), f"{page} names {path}"
        assert f"def {name}(" in file.read_text(encoding="utf-8"), f"{page} names {path}::{name}"


def test_the_daemon_package_is_ours() -> None:
    """PyPI's python-daemon installs a package of the same name; ours must win."""
    assert daemon.__file__ is not None
    assert Path(daemon.__file__).parent == ROOT / "daemon"


def test_the_command_line_never_loads_torch() -> None:
    """Everything that a running daemon imports leaves torch and SB3 alone."""
    code = (
        "import sys, daemon.cli, daemon.run, daemon.replay, daemon.commands.retrain;"
        "daemon.cli.build_parser();"
        "print([m for m in ('torch', 'stable_baselines3', 'gymnasium') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"
