"""A throw-away PostgreSQL server on a Unix socket, for tests that must run on both databases."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.requirements import require, required

START_SECONDS = 20.0


@contextmanager
def postgres_server() -> Iterator[str]:
    """Yield the URL of a running server's first database; skip where there is none."""
    program = Path(require("postgres"))
    if importlib.util.find_spec("psycopg") is None:
        if "postgres" in required(os.environ):
            pytest.fail("psycopg is not installed, and BALLAST_REQUIRE asks for postgres")
        pytest.skip("psycopg is not installed")
    user = _unprivileged_user()
    directory = Path(tempfile.mkdtemp(prefix="ballast-postgres-"))
    if user is not None:
        shutil.chown(directory, user)
    data = directory / "data"
    try:
        subprocess.run(
            [program.with_name("initdb"), "-D", data, "-U", "ballast", "-A", "trust", "-N"],
            user=user, check=True, capture_output=True, cwd=directory,
        )  # fmt: skip
        server = subprocess.Popen(
            [program, "-D", data, "-k", directory, "-c", "listen_addresses=", "-F"],
            user=user, cwd=directory, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            _wait_for(directory / ".s.PGSQL.5432", server)
            yield f"postgresql+psycopg://ballast@/postgres?host={directory}"
        finally:
            server.send_signal(signal.SIGINT)  # fast: SIGTERM would wait for every client
            server.wait(START_SECONDS)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _unprivileged_user() -> str | None:
    """PostgreSQL refuses to run as root; Debian's package makes a user for it."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam("postgres").pw_name
    except KeyError:
        pytest.skip("PostgreSQL does not run as root, and there is no user postgres")


def _wait_for(socket: Path, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not socket.exists():
        if server.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"PostgreSQL did not start (exit code {server.poll()})")
        time.sleep(0.05)
    time.sleep(0.2)  # the socket appears a moment before the server answers
