from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.notify import MAX_STATUS_CHARACTERS, Notifier, watchdog_interval_seconds


@pytest.fixture(params=["path", "abstract"])
def received(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[tuple[socket.socket, Notifier]]:
    """A socket such as systemd's, and a notifier that was told of it."""
    name = str(tmp_path / "notify") if request.param == "path" else f"@ballast-{tmp_path.name}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.settimeout(5)
        channel.bind(f"\0{name[1:]}" if name.startswith("@") else name)
        yield channel, Notifier.from_environment({"NOTIFY_SOCKET": name})


def test_messages_arrive(received: tuple[socket.socket, Notifier]) -> None:
    """Each call is one datagram in the words of sd_notify(3), on a path or an abstract socket."""
    channel, notifier = received
    assert notifier.ready("trades")
    assert channel.recv(4_096) == b"READY=1\nSTATUS=trades"
    assert notifier.watchdog()
    assert channel.recv(4_096) == b"WATCHDOG=1"
    assert notifier.extend_startup(90)
    assert channel.recv(4_096) == b"EXTEND_TIMEOUT_USEC=90000000"
    assert notifier.stopping()
    assert channel.recv(4_096) == b"STOPPING=1"


def test_status_cannot_smuggle_an_assignment(received: tuple[socket.socket, Notifier]) -> None:
    """A newline in a status text does not become another assignment, and its length is bounded."""
    channel, notifier = received
    notifier.status("fails\nWATCHDOG=1\n" + "x" * 10_000)
    message = channel.recv(65_536).decode()
    assert "\n" not in message
    assert len(message) == len("STATUS=") + MAX_STATUS_CHARACTERS


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:2:1"}])
def test_without_systemd_nothing_is_sent(environ: dict[str, str]) -> None:
    """Where there is no (known) socket every call is a no-op."""
    notifier = Notifier.from_environment(environ)
    assert notifier.address is None
    assert not notifier.ready()
    assert not notifier.watchdog()


def test_dead_service_manager_is_no_error(tmp_path: Path) -> None:
    """A socket that nobody listens on must not stop trading."""
    assert not Notifier(address=str(tmp_path / "gone")).ready()


def test_full_queue_does_not_block(received: tuple[socket.socket, Notifier]) -> None:
    """A service manager that does not read costs a message, never the loop's time."""
    _, notifier = received
    assert not all(notifier.watchdog() for _ in range(5_000))


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({"WATCHDOG_USEC": "60000000"}, 30.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "17"}, 30.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "18"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_watchdog_interval(environ: dict[str, str], seconds: float | None) -> None:
    """Half of the limit, for the process that is meant, else none."""
    assert watchdog_interval_seconds(environ, pid=17) == seconds
