"""What a venue's rate limit counts: weight within fixed windows of venue time. Pure."""

from __future__ import annotations


class RequestMeter:
    """Weight used in the present window; windows begin at multiples of their length.

    Attributes:
        limit: weight that one window allows.
        window_ms: length of a window, venue milliseconds.
        used: weight of the present window, refused requests included.
    """

    def __init__(self, *, limit: int, window_ms: int) -> None:
        """Start with an empty window."""
        self.limit = limit
        self.window_ms = window_ms
        self.used = 0
        self._window = -1

    def add(self, weight: int, *, now: int) -> int:
        """Count ``weight`` at ``now`` (UTC milliseconds) and return what the window has used."""
        window = now // self.window_ms
        self.used = weight if window != self._window else self.used + weight
        self._window = window
        return self.used

    @property
    def is_exceeded(self) -> bool:
        """Whether the present window has used more than its limit."""
        return self.used > self.limit

    @property
    def resets_at(self) -> int:
        """When the window of the last request ends, UTC milliseconds."""
        return (self._window + 1) * self.window_ms
