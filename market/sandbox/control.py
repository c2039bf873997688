"""The sandbox's own endpoints, which no venue has: its clock, commits, log, truth and faults.

``GET /sandbox/clock``, ``POST /sandbox/commit``, ``GET /sandbox/log[?kind=][&since=NUMBER]``,
``GET /sandbox/truth[?since=][&until=]`` and ``GET /sandbox/faults``. They are never touched by a
fault.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable

from aiohttp import web

from market.sandbox.playback import Playback
from market.sandbox.served import Served, ServedLog
from market.sandbox.tape import Tape
from market.sandbox.timeline import Timeline
from market.sandbox.truth import truth_rows

_ROWS_PER_WRITE = 2_000


class Control:
    """Answers about one sandbox."""

    def __init__(
        self,
        *,
        tape: Tape,
        timeline: Timeline,
        playback: Playback,
        served: ServedLog,
        commit: Callable[[int], None],
        faults: Callable[[], Iterable[Served]],
    ) -> None:
        """Answer from these parts; ``faults`` gives the state of every scripted fault."""
        self._tape = tape
        self._timeline = timeline
        self._playback = playback
        self._served = served
        self._commit = commit
        self._faults = faults

    def add_routes(self, app: web.Application) -> None:
        """Serve under ``/sandbox``."""
        app.router.add_get("/sandbox/clock", self._serve_clock)
        app.router.add_post("/sandbox/commit", self._serve_commit)
        app.router.add_get("/sandbox/log", self._serve_log)
        app.router.add_get("/sandbox/truth", self._serve_truth)
        app.router.add_get("/sandbox/faults", self._serve_faults)

    async def _serve_clock(self, request: web.Request) -> web.Response:
        del request
        tape, timeline = self._tape, self._timeline
        return _json({
            "now": timeline.now(),
            "speed": timeline.speed,
            "lock_step": timeline.lock_step,
            "start": timeline.start,
            "end": timeline.end,
            "last_close": timeline.last_close,
            "ended": timeline.ended,
            "venue": tape.venue.value,
            "interval_ms": timeline.interval_ms,
            "symbols": list(tape.panel.symbols),
            "synthetic": tape.synthetic,
            "description": tape.description,
        })  # fmt: skip

    async def _serve_commit(self, request: web.Request) -> web.Response:
        decision_time = _decision_time(await request.text())
        if decision_time is None:
            wanted = 'the body must be {"decision_time": milliseconds}'
            return _json({"error": wanted}, status=400)
        self._commit(decision_time)
        timeline = self._timeline
        return _json({
            "decision_time": decision_time,
            "lock_step": timeline.lock_step,
            "last_close": timeline.last_close,
            "ended": timeline.ended,
        })  # fmt: skip

    async def _serve_log(self, request: web.Request) -> web.Response:
        try:
            since = _time(request, "since", 0)
        except ValueError as wrong:
            return _json({"error": str(wrong)}, status=400)
        lines = [f"{line}\n" for line in self._served.lines(request.query.get("kind"), since=since)]
        return _lines(lines, {"X-Sandbox-Dropped": str(self._served.dropped)})

    async def _serve_truth(self, request: web.Request) -> web.StreamResponse:
        timeline = self._timeline
        try:
            since = _time(request, "since", timeline.start)
            until = _time(request, "until", timeline.last_close)
        except ValueError as wrong:
            return _json({"error": str(wrong)}, status=400)
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        lines: list[str] = []
        until = min(until, timeline.last_close)
        for row in truth_rows(self._playback, since=since, until=until, now=timeline.now()):
            lines.append(json.dumps(row) + "\n")
            if len(lines) >= _ROWS_PER_WRITE:
                await response.write("".join(lines).encode())
                lines.clear()
        await response.write("".join(lines).encode())
        await response.write_eof()
        return response

    async def _serve_faults(self, request: web.Request) -> web.Response:
        del request
        return _lines([f"{entry.line()}\n" for entry in self._faults()], {})


def _time(request: web.Request, name: str, default: int) -> int:
    text = request.query.get(name)
    if text is None:
        return default
    if not text.isdecimal():
        raise ValueError(f"{name} must be a whole number that is not negative, got {text!r}")
    return int(text)


def _decision_time(body: str) -> int | None:
    try:
        message = json.loads(body)
    except ValueError:
        return None
    value = message.get("decision_time") if isinstance(message, dict) else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _lines(lines: Iterable[str], headers: dict[str, str]) -> web.Response:
    return web.Response(text="".join(lines), content_type="application/x-ndjson", headers=headers)


def _json(facts: dict[str, object], *, status: int = 200) -> web.Response:
    return web.json_response(facts, status=status)
