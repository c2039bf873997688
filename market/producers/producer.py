"""What a producer of signals is, and how those that are installed are found.

A producer has a name, a version, a cadence and a declared lag, and makes rows when asked. It runs
in a process of its own (``market.producers.child``) and never in the daemon's, so it may import
what it likes, hang or crash. This module must never import a producer before it is asked for by
name: a foreign package is foreign code.
"""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from typing import Protocol, TypeAlias, cast

from market.panel import Panel
from market.signals import RejectedSignal, Signal

ENTRY_POINT_GROUP = "ballast.signals"

BUILT_IN: Mapping[str, str] = {
    "crypto_fear_greed": "market.producers.fear_greed:FearGreed",
    "forecast": "market.producers.forecast:Forecast",
}
"""Name → ``module:class``; an entry point may not take one of these names."""

Option: TypeAlias = str | int | float | bool
Row: TypeAlias = Signal | RejectedSignal
Rows: TypeAlias = Sequence[Row]


class ProducerFault(enum.StrEnum):
    """Why a producer gave nothing."""

    UNKNOWN = "unknown"
    UNLOADABLE = "unloadable"
    BAD_OPTION = "bad_option"
    MISSING_LIBRARY = "missing_library"
    TOO_LITTLE_HISTORY = "too_little_history"
    UNREACHABLE = "unreachable"
    TIMED_OUT = "timed_out"
    REFUSED = "refused"
    PAYLOAD = "payload"
    CRASHED = "crashed"


class ProducerFailed(Exception):
    """A producer cannot give rows now; ``fault`` says of which kind, the message says why."""

    def __init__(self, fault: ProducerFault, message: str) -> None:
        super().__init__(message)
        self.fault = fault


@dataclass(frozen=True, slots=True, kw_only=True)
class ProducerContext:
    """What a producer is told.

    Attributes:
        venue, symbols, interval_ms: the market that the daemon trades.
        last_event_time: of its newest row that is stored, UTC milliseconds; ``None`` at the first
            run, when it may give its whole history with ``is_backfilled=True``.
        history: closed bars up to now, for a producer with ``needs_history``; else ``None``.
    """

    venue: str
    symbols: tuple[str, ...]
    interval_ms: int
    last_event_time: int | None = None
    history: Panel | None = None


class Producer(Protocol):
    """Anything that makes signals; an instance is made with its options as keyword arguments.

    Attributes:
        name: the ``source`` of every row that it makes.
        version: the ``version`` of every row: another recipe, another version.
        cadence: five crontab fields, UTC, on the venue's clock.
        lag_ms: how long after publication its rows are usable, declared for its back-filled rows.
        needs_history: whether it reads bars.
    """

    name: str
    version: str
    cadence: str
    lag_ms: int
    needs_history: bool

    def produce(self, now: int, context: ProducerContext) -> Rows | Awaitable[Rows]:
        """Return new rows, and those that it had to refuse; a coroutine function will do too.

        Args:
            now: UTC milliseconds on the venue's clock; nothing later may be returned.
            context: what it is told.

        Raises:
            ProducerFailed: nothing can be given now.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """A producer that can be asked for.

    Attributes:
        distribution: the package that brings it.
        target: ``module:class``.
    """

    name: str
    distribution: str
    target: str
    entry_point: EntryPoint = field(repr=False, compare=False)


def installed_producers() -> tuple[Installed, ...]:
    """Return every producer there is by name, without importing any.

    Two distributions with one name, or one that takes a built-in's name, are settled for the
    built-in and then for the first distribution by name: a package cannot replace another's.
    """
    found = {
        name: Installed(
            name=name,
            distribution="ballast",
            target=target,
            entry_point=EntryPoint(name=name, value=target, group=ENTRY_POINT_GROUP),
        )
        for name, target in BUILT_IN.items()
    }
    foreign = [
        Installed(
            name=each.name,
            distribution="unknown" if each.dist is None else each.dist.name,
            target=each.value,
            entry_point=each,
        )
        for each in entry_points(group=ENTRY_POINT_GROUP)
    ]
    for one in sorted(foreign, key=lambda one: (one.distribution, one.target)):
        found.setdefault(one.name, one)
    return tuple(found[name] for name in sorted(found))


def load_producer(name: str, options: Mapping[str, Option]) -> Producer:
    """Import the producer and make one.

    Raises:
        ProducerFailed: there is none of that name, it cannot be imported, it does not accept the
            options, or it is not a producer.
    """
    named = {one.name: one for one in installed_producers()}
    if name not in named:
        raise ProducerFailed(
            ProducerFault.UNKNOWN, f"no producer {name!r}; there are {', '.join(named)}"
        )
    factory = _import(named[name])
    try:
        made = factory(**options)  # type: ignore[operator]  # checked below, by what it makes
    except (TypeError, ValueError) as error:
        raise ProducerFailed(
            ProducerFault.BAD_OPTION, f"signals.options.{name}: {error}"
        ) from error
    return _checked(name, made)


def _import(installed: Installed) -> object:
    try:
        loaded: object = installed.entry_point.load()
    except (ImportError, AttributeError) as error:
        raise ProducerFailed(
            ProducerFault.UNLOADABLE,
            f"producer {installed.name!r} of {installed.distribution} ({installed.target}) cannot "
            f"be imported: {error}",
        ) from error
    return loaded


def _checked(name: str, made: object) -> Producer:
    types = {"name": str, "version": str, "cadence": str, "lag_ms": int, "needs_history": bool}
    wrong = [
        f"{attribute} is not {kind.__name__}"
        for attribute, kind in types.items()
        if not isinstance(getattr(made, attribute, None), kind)
    ]
    if not callable(getattr(made, "produce", None)):
        wrong.append("it has no produce()")
    if getattr(made, "name", name) != name:
        wrong.append(f"its name is {getattr(made, 'name', None)!r}")
    if wrong:
        raise ProducerFailed(
            ProducerFault.UNLOADABLE, f"{name!r} is not a producer: {'; '.join(wrong)}"
        )
    return cast(Producer, made)
