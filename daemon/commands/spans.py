"""Times, spans and durations on the command line: read from options, written for people."""

from __future__ import annotations

import argparse

from daemon.commands.common import UsageError
from daemon.targets import WeightsFileError, parse_time, row_time
from market.bar import DAY_MS, HOUR_MS, MINUTE_MS


def add_span_options(
    parser: argparse.ArgumentParser, *, since: str, until: str, since_required: bool = False
) -> None:
    """Add ``--since`` and ``--until``.

    ``since`` and ``until`` are their help: which time is meant, and what counts without it.
    """
    parser.add_argument("--since", metavar="TIME", required=since_required, help=since)
    parser.add_argument("--until", metavar="TIME", help=until)


def span_options(args: argparse.Namespace) -> tuple[int | None, int | None]:
    """Read ``--since`` and ``--until`` as UTC milliseconds; ``None`` for one not given.

    Raises:
        UsageError: one is no time, or the span ends before it begins.
    """
    since, until = time_option(args, "since"), time_option(args, "until")
    check_span(since, until)
    return since, until


def time_option(args: argparse.Namespace, name: str) -> int | None:
    """Read ``--name`` as UTC milliseconds; ``None`` where it was not given.

    Raises:
        UsageError: it is no time.
    """
    text: str | None = getattr(args, name)
    if text is None:
        return None
    try:
        return parse_time(text, f"--{name}")
    except WeightsFileError as error:
        raise UsageError(str(error)) from None


def check_span(since: int | None, until: int | None) -> None:
    """Refuse a span that ends before it begins.

    Raises:
        UsageError: naming both.
    """
    if since is not None and until is not None and since >= until:
        raise UsageError(f"--since {moment(since)} is not before --until {moment(until)}")


def moment(time: int) -> str:
    """Write UTC milliseconds for people, to the second: ``2024-07-01 09:30``."""
    text = row_time(time - time % 1_000).removesuffix("+00:00").replace("T", " ")
    return text.removesuffix(":00") if text.count(":") == 2 else text


def length(ms: int) -> str:
    """Write a duration for people, such as ``33 h`` or ``90 min``."""
    if ms >= 3 * DAY_MS:
        return f"{ms / DAY_MS:.4g} d"
    if ms >= 2 * HOUR_MS:
        return f"{ms / HOUR_MS:.4g} h"
    return f"{ms / MINUTE_MS:.4g} min"
