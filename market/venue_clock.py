"""What time it is at a venue, as far as the venue has said so. It never runs ahead of it."""

from __future__ import annotations

import structlog

from market.clock import monotonic_seconds
from market.rows import EVENT_TOLERANCE_MS

log = structlog.get_logger()


class VenueClock:
    """The latest time that a venue has stated, and what that makes it now.

    Attributes:
        stated: the latest time stated, UTC milliseconds; 0 before the first.
    """

    def __init__(self, *, keeps_pace: bool) -> None:
        """Know nothing yet.

        Args:
            keeps_pace: the venue's time passes like ours; a sandbox's may stand still or run fast.
        """
        self.stated = 0
        self._keeps_pace = keeps_pace
        self._stated_seconds = 0.0
        self._is_doubted = False

    def estimate(self) -> int:
        """Return a time that the venue's has reached, UTC milliseconds; 0 where none is known."""
        if not self._keeps_pace or not self.stated:
            return self.stated
        return self.stated + int((monotonic_seconds() - self._stated_seconds) * 1000)

    def note_answer(self, venue_time: int) -> None:
        """Learn what the venue says when it is asked for its time (UTC milliseconds)."""
        self._note(venue_time)
        self._is_doubted = False

    def note_event(self, event_time: int) -> None:
        """Learn from a websocket message what time it is, unless it is beyond belief."""
        estimated = self.estimate()
        if estimated and self._keeps_pace and event_time > estimated + EVENT_TOLERANCE_MS:
            # Believing it would make forming bars final; the next answer tells.
            if not self._is_doubted:
                log.warning("event_time_jumped", event_time=event_time, estimated=estimated)
            self._is_doubted = True
            return
        self._note(event_time)

    def _note(self, venue_time: int) -> None:
        if venue_time > self.stated:
            self.stated = venue_time
            self._stated_seconds = monotonic_seconds()
