"""Logs: events with facts, one line each, in UTC.

Owns the configuration of structlog and of the standard library's logging, once per process. A
terminal gets readable lines that do not break a progress bar; everything else gets JSON. It must
never let a secret through, and a log that cannot be written must never stop the daemon.
"""

from __future__ import annotations

import contextlib
import logging
import re
import sys
from collections.abc import MutableMapping
from typing import TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger
from tqdm import tqdm

LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
REDACTED = "[redacted]"


def configure_logging(
    level: str = "info", *, json: bool | None = None, stream: TextIO | None = None
) -> None:
    """Configure logging for this process; a second call replaces the first.

    Args:
        level: one of ``LEVELS``; libraries are heard from ``warning`` up whatever it says.
        json: JSON lines; None chooses them where ``stream`` is not a terminal.
        stream: where lines go; standard error by default.

    Raises:
        ValueError: the level is not one of ``LEVELS``.
    """
    if level not in LEVELS:
        raise ValueError(f"log level must be one of {', '.join(LEVELS)}, got {level!r}")
    target = stream if stream is not None else sys.stderr
    as_json = json if json is not None else not target.isatty()
    structlog.configure(
        processors=_processors(as_json=as_json, colours=target.isatty()),
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=lambda *_: _LineWriter(target),
        # Module-level loggers must follow a later configuration (a reload, a test).
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    for handler in [each for each in root.handlers if isinstance(each, _ToStructlog)]:
        root.removeHandler(handler)
    root.addHandler(_ToStructlog())
    root.setLevel(max(LEVELS[level], logging.WARNING))
    logging.captureWarnings(True)


def redact(_logger: WrappedLogger, _method: str, event_dict: EventDict) -> EventDict:
    """Replace secrets: values whose key names one, and credentials inside text."""
    return {key: _redact_value(key, value) for key, value in event_dict.items()}


class _LineWriter:
    """The last stage: one finished line, written above any progress bar."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def msg(self, line: str) -> None:
        # A closed pipe or a full disk loses the line, not the daemon.
        with contextlib.suppress(OSError, ValueError):
            tqdm.write(line, file=self._stream)
            self._stream.flush()

    log = debug = info = warn = warning = error = critical = exception = fatal = failure = err = msg


class _ToStructlog(logging.Handler):
    """Hands a record of the standard library on to structlog."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            structlog.get_logger().log(
                record.levelno,
                "library_message",
                logger=record.name,
                message=record.getMessage(),
                exc_info=record.exc_info or None,
            )
        except (TypeError, ValueError):
            # A library's malformed record is reported as logging itself reports it.
            self.handleError(record)


def _processors(*, as_json: bool, colours: bool) -> list[Processor]:
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
        redact,
    ]
    if as_json:
        return [*shared, structlog.processors.JSONRenderer(sort_keys=False, default=str)]
    return [
        *shared,
        structlog.dev.ConsoleRenderer(colors=colours, timestamp_key="at", pad_event_to=22),
    ]


def _redact_value(key: str, value: object) -> object:
    if _SECRET_KEY.search(key) and value is not None:
        return REDACTED
    if isinstance(value, str):
        return _BEARER.sub(rf"\1{REDACTED}", _URL_PASSWORD.sub(rf"\1{REDACTED}@", value))
    if isinstance(value, MutableMapping):
        return {name: _redact_value(str(name), item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_redact_value(key, item) for item in value]
    return value


_SECRET_KEY = re.compile(r"token|secret|passw|api_?key|authorization|credential", re.IGNORECASE)
_URL_PASSWORD = re.compile(r"(\b[a-z][a-z0-9+.\-]*://[^\s/:@]*:)[^\s/@]+@", re.IGNORECASE)
_BEARER = re.compile(r"(\b(?:bearer|basic)\s+)[\w\-.~+/]{8,}=*", re.IGNORECASE)
