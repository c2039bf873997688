from __future__ import annotations

import io
import json
import logging
import warnings
from datetime import UTC, datetime

import pytest
import structlog
from tqdm import tqdm

from daemon.log import configure_logging


class Terminal(io.StringIO):
    """A stream that says that a person looks at it."""

    def isatty(self) -> bool:
        return True


def _lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_json_line_has_event_level_facts_and_utc() -> None:
    """Outside a terminal an event is one JSON line, dated in UTC."""
    stream = io.StringIO()
    configure_logging("info", stream=stream)
    structlog.get_logger().info("order_filled", symbol="BTC", fill_price=61_234.5)
    (line,) = _lines(stream)
    assert (line["event"], line["level"], line["symbol"]) == ("order_filled", "info", "BTC")
    at = datetime.fromisoformat(str(line["at"]))
    assert at.utcoffset() == UTC.utcoffset(None)


def test_terminal_gets_a_readable_line() -> None:
    """On a terminal an event is text, unless JSON is asked for."""
    stream = Terminal()
    configure_logging("info", stream=stream)
    structlog.get_logger().info("bar_closed", symbol="BTC")
    assert "bar_closed" in stream.getvalue()
    assert not stream.getvalue().startswith("{")
    asked = Terminal()
    configure_logging("info", json=True, stream=asked)
    structlog.get_logger().info("bar_closed")
    assert _lines(asked)[0]["event"] == "bar_closed"


def test_level_silences_what_is_below() -> None:
    """At warning, information is not written."""
    stream = io.StringIO()
    configure_logging("warning", stream=stream)
    structlog.get_logger().info("bar_closed")
    structlog.get_logger().warning("feed_stale")
    assert [line["event"] for line in _lines(stream)] == ["feed_stale"]


def test_libraries_are_heard_from_warning_up() -> None:
    """The standard library's records come out once, in the same form, from warning up."""
    stream = io.StringIO()
    configure_logging("debug", stream=stream)
    configure_logging("debug", stream=stream)
    logging.getLogger("apscheduler").info("added job")
    logging.getLogger("ccxt").warning("late by %d s", 3)
    (line,) = _lines(stream)
    assert (line["logger"], line["message"]) == ("ccxt", "late by 3 s")


def test_python_warnings_are_logged() -> None:
    """A warning of the interpreter is an event and not a stray line on stderr."""
    stream = io.StringIO()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        configure_logging("info", stream=stream)
        warnings.warn("old call", DeprecationWarning, stacklevel=1)
        logging.captureWarnings(False)
    assert "old call" in str(_lines(stream)[0]["message"])


def test_secrets_are_not_written() -> None:
    """Neither under a telling key, nor in a URL, a header or a traceback."""
    stream = io.StringIO()
    configure_logging("info", stream=stream)
    try:
        raise ValueError("cannot reach https://quant:hunter2hunter2@db:8123/ballast")
    except ValueError:
        structlog.get_logger().exception(
            "store_failed",
            BALLAST_TOKEN="hunter2hunter2",
            headers={"Authorization": "Bearer hunter2hunter2"},
            text="sent Authorization: Bearer hunter2hunter2",
            url="postgresql://quant:hunter2hunter2@db/ledger",
        )
    assert "hunter2" not in stream.getvalue()
    assert "postgresql://quant:[redacted]@db/ledger" in stream.getvalue()
    assert "ValueError" in stream.getvalue()


def test_traceback_has_no_local_variables() -> None:
    """What a function had in its hands stays out of the log."""
    stream = Terminal()
    configure_logging("info", stream=stream)
    value_at_hand = "-".join(("very", "private"))
    try:
        raise ValueError("broken")
    except ValueError:
        structlog.get_logger().exception("failed")
    assert value_at_hand not in stream.getvalue()
    assert "ValueError: broken" in stream.getvalue()


def test_line_does_not_cut_a_progress_bar() -> None:
    """While a bar is drawn, a log line stands on a line of its own and the bar comes back."""
    stream = Terminal()
    configure_logging("info", stream=stream)
    with tqdm(total=10, file=stream, desc="backfill", mininterval=0, ncols=60) as bar:
        bar.update(4)
        structlog.get_logger().info("bar_closed", symbol="BTC")
    rows = [piece for part in stream.getvalue().split("\n") for piece in part.split("\r")]
    told = [row for row in rows if "bar_closed" in row]
    assert len(told) == 1
    assert "backfill" not in told[0]
    after = stream.getvalue().split("bar_closed")[1]
    assert "backfill" in after


def test_log_that_cannot_be_written_stops_nothing() -> None:
    """A closed pipe or a full disk loses a line, not the daemon."""

    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

    configure_logging("info", stream=Full())
    structlog.get_logger().info("bar_closed")


def test_unknown_level_is_refused() -> None:
    """A typing error in the level is an error that names what is possible."""
    with pytest.raises(ValueError, match="debug, info, warning, error"):
        configure_logging("verbose")
