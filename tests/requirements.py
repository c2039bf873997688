"""Outside programs that some tests need, and what happens where one is absent.

Such a test skips with a reason; ``BALLAST_REQUIRE=postgres,chromium`` turns the skip of the named
ones into a failure, so that a machine that should run them cannot pass without them.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest


def require(name: str) -> str:
    """Return the path of the program behind ``name``, or skip (or fail) the test.

    Args:
        name: one of ``PROGRAMS``.
    """
    found = PROGRAMS[name]()
    if found is not None:
        return found
    reason = f"{name} is not installed"
    if name in required(os.environ):
        pytest.fail(f"{reason}, and BALLAST_REQUIRE asks for it", pytrace=False)
    pytest.skip(reason)


def required(environ: Mapping[str, str]) -> frozenset[str]:
    """Return the names in ``$BALLAST_REQUIRE``.

    Raises:
        ValueError: a name is not one of ``PROGRAMS``: a typing error would require nothing.
    """
    names = frozenset(
        name.strip() for name in environ.get("BALLAST_REQUIRE", "").split(",") if name.strip()
    )
    if unknown := names - PROGRAMS.keys():
        raise ValueError(
            f"BALLAST_REQUIRE names {', '.join(sorted(unknown))}; known: {', '.join(PROGRAMS)}"
        )
    return names


def _find_program(*names: str) -> Callable[[], str | None]:
    return lambda: next((path for name in names if (path := shutil.which(name))), None)


def _find_postgres() -> str | None:
    """``postgres`` is outside the PATH on Debian."""
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    return str(installed[-1]) if installed else shutil.which("postgres")


PROGRAMS: Mapping[str, Callable[[], str | None]] = {
    "chromium": _find_program("chromium", "chromium-browser", "google-chrome"),
    "postgres": _find_postgres,
    "systemd-analyze": _find_program("systemd-analyze"),
}
