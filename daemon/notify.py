"""Messages to systemd: ready, alive, what it does, stopping (sd_notify(3)).

A no-op where ``$NOTIFY_SOCKET`` is absent, so the loop calls it without asking where it runs. It
must never raise because of the service manager: trading does not depend on being watched.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass

MAX_STATUS_CHARACTERS = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Notifier:
    """Sends notifications to ``address``; None sends nothing."""

    address: str | None

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Notifier:
        """Read ``$NOTIFY_SOCKET``: a path, or ``@name`` in the abstract namespace."""
        address = environ.get("NOTIFY_SOCKET", "")
        return cls(address=address if address.startswith(("/", "@")) else None)

    def ready(self, status: str = "") -> bool:
        """Tell that start-up is over."""
        return self._send("READY=1", *_status_lines(status))

    def status(self, text: str) -> bool:
        """Tell in one line what the daemon does; ``systemctl status`` shows it."""
        return self._send(*_status_lines(text))

    def watchdog(self) -> bool:
        """Feed the watchdog. Call this only after progress, never from a bare timer."""
        return self._send("WATCHDOG=1")

    def extend_startup(self, seconds: float) -> bool:
        """Ask for more time to start: a long backfill is not a failed start."""
        return self._send(f"EXTEND_TIMEOUT_USEC={int(seconds * 1_000_000)}")

    def stopping(self, status: str = "") -> bool:
        """Tell that the daemon is on its way out."""
        return self._send("STOPPING=1", *_status_lines(status))

    def _send(self, *assignments: str) -> bool:
        """Send one datagram; False where there is nobody to send it to."""
        if self.address is None or not assignments:
            return False
        # A leading zero byte is Linux's abstract namespace, which systemd writes as "@".
        target = "\0" + self.address[1:] if self.address.startswith("@") else self.address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
                # A full queue must not hold up the loop.
                channel.setblocking(False)
                channel.sendto("\n".join(assignments).encode(), target)
        except OSError:
            return False
        return True


def watchdog_interval_seconds(environ: Mapping[str, str], *, pid: int) -> float | None:
    """How often systemd wants ``WATCHDOG=1``, real seconds; None where it does not watch us.

    Half of ``$WATCHDOG_USEC``, as sd_watchdog_enabled(3) recommends. ``$WATCHDOG_PID`` names the
    process that is meant, so that a child does not feed its parent's watchdog.
    """
    limit = environ.get("WATCHDOG_USEC", "")
    if not limit.isdecimal() or int(limit) == 0:
        return None
    if environ.get("WATCHDOG_PID", str(pid)) != str(pid):
        return None
    return int(limit) / 1_000_000 / 2


def _status_lines(text: str) -> tuple[str, ...]:
    if not text:
        return ()
    # A newline would start another assignment.
    return (f"STATUS={' '.join(text.split())[:MAX_STATUS_CHARACTERS]}",)
