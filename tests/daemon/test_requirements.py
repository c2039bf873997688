from __future__ import annotations

import pytest

from tests import requirements
from tests.requirements import require, required


@pytest.fixture(autouse=True)
def nothing_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which no outside program is found."""
    monkeypatch.setattr(
        requirements, "PROGRAMS", dict.fromkeys(("chromium", "postgres"), lambda: None)
    )
    monkeypatch.delenv("BALLAST_REQUIRE", raising=False)


def test_absent_program_skips_with_a_reason() -> None:
    """Where a program is absent and not demanded, the test says so and is skipped."""
    with pytest.raises(pytest.skip.Exception, match="chromium is not installed"):
        require("chromium")


def test_demanded_program_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the environment demands it, its absence is a failure; others still skip."""
    monkeypatch.setenv("BALLAST_REQUIRE", "chromium")
    with pytest.raises(pytest.fail.Exception, match="BALLAST_REQUIRE asks for it"):
        require("chromium")
    with pytest.raises(pytest.skip.Exception):
        require("postgres")


def test_names_are_listed_with_commas() -> None:
    """Spaces and empty parts do not matter; a name that is not known is an error."""
    assert required({"BALLAST_REQUIRE": "postgres, chromium,"}) == {"postgres", "chromium"}
    assert required({}) == frozenset()
    with pytest.raises(ValueError, match="chromum"):
        required({"BALLAST_REQUIRE": "chromum"})
