"""What can name target weights: the deployed policy, a fallback, or a file of weights."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from daemon.decision import Source, Target
from market.panel import Float64Array, Int64Array, Panel
from market.signal_join import SignalPanel
from market.signals import SignalColumn
from training.inference import Policy
from training.observation import PortfolioState

_LAST_TIME = 253_402_300_799_999  # of the year 9999, the last that a date can have


class WeightsFileError(Exception):
    """A weights file is unusable; the message names the file, the line and the remedy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyTarget:
    """The champion's policy, and the signals that it reads.

    Attributes:
        signals: the schema's columns, joined at the closes that are decided on; ``None`` for a
            policy without.
    """

    policy: Policy
    signals: SignalPanel | None = None

    @property
    def source(self) -> Source:
        """A learned policy."""
        return Source.POLICY

    @property
    def model_id(self) -> str | None:
        """The artefact's id."""
        return self.policy.model_id

    def target_weights(self, panel: Panel, describe: Describe) -> Float64Array | None:
        """Ask the policy, on the bars that it requires."""
        start = len(panel) - self.policy.required_bars
        recent = panel.window(max(start, 0), len(panel))
        return self.policy.target_weights(recent, describe(), self.signals)


Describe = Callable[[], PortfolioState]
"""What tells a target about the account, as ``daemon.decision.Target`` has it."""

JoinSignals = Callable[[Sequence[SignalColumn], Sequence[str], Int64Array], SignalPanel]
"""``join(columns, symbols, decision_times)``, as ``daemon.signal_desk.SignalDesk.join``."""


def informed(target: Target, decision_times: Int64Array, join: JoinSignals) -> Target:
    """Return the target with the signals that it needs to decide at ``decision_times`` (T,).

    Args:
        target: anything; only a policy trained with signals changes.
        decision_times: closes of bars, ascending; with those of its lookback before them.
        join: how signals are read.
    """
    if not isinstance(target, PolicyTarget) or not target.policy.schema.signals:
        return target
    schema = target.policy.schema
    return replace(target, signals=join(schema.signals, schema.symbols, decision_times))


@dataclass(frozen=True, slots=True)
class CashTarget:
    """Hold nothing."""

    source: Source = Source.CASH
    model_id: str | None = None

    def target_weights(self, panel: Panel, _describe: Describe) -> Float64Array | None:
        """Return zeros."""
        return np.zeros(len(panel.symbols))


@dataclass(frozen=True, slots=True)
class HoldTarget:
    """Trade nothing this once."""

    source: Source = Source.NONE
    model_id: str | None = None

    def target_weights(self, _panel: Panel, _describe: Describe) -> Float64Array | None:
        """Return ``None``: hold."""
        return None


@dataclass(frozen=True, slots=True)
class EqualWeightTarget:
    """Spread ``gross`` of equity evenly; a little under the limit leaves room for costs."""

    gross: float = 0.95
    source: Source = Source.EQUAL_WEIGHT
    model_id: str | None = None

    def target_weights(self, panel: Panel, describe: Describe) -> Float64Array | None:
        """Return equal weights; a symbol without a bar keeps the weight it has."""
        seen = panel.observed[-1]
        if not seen.any():
            return None
        portfolio = describe()
        room = self.gross - float(portfolio.weights[~seen].sum())
        share = min(self.gross / len(seen), max(0.0, room) / int(seen.sum()))
        return np.where(seen, share, portfolio.weights)


@dataclass(frozen=True, slots=True, kw_only=True)
class FileTarget:
    """Weights by decision time, from a file; a time that is not in it holds."""

    schedule: Mapping[int, Mapping[str, float]]
    now: int
    source: Source = Source.WEIGHTS_FILE
    model_id: str | None = None

    def target_weights(self, panel: Panel, _describe: Describe) -> Float64Array | None:
        """Return the row of the present decision; a symbol that it leaves out is sold."""
        row = self.schedule.get(self.now)
        if row is None:
            return None
        return np.array([row.get(symbol, 0.0) for symbol in panel.symbols])


def load_weights(
    path: Path,
    *,
    symbols: tuple[str, ...],
    leverage_limit: float,
    allow_short: bool = False,
) -> dict[int, dict[str, float]]:
    """Read ``decision_time,symbol,weight`` rows; times are UTC milliseconds or ISO 8601.

    A negative weight is a short, and needs ``allow_short``.

    Raises:
        WeightsFileError: the file, a column, a symbol, a weight or a sum is not usable.
    """
    schedule: dict[int, dict[str, float]] = {}
    for line, row in _rows(path):
        where = f"{path}, line {line}"
        time = parse_time(row["decision_time"] or "", where)
        symbol, weight = row["symbol"] or "", _weight(row["weight"] or "", where)
        if weight < 0 and not allow_short:
            raise WeightsFileError(
                f"{where}: weight {weight:g} is a short; account.allow_short permits it, on "
                "perpetuals"
            )
        if symbol not in symbols:
            raise WeightsFileError(
                f"{where}: unknown symbol {symbol!r}; known: {', '.join(symbols)}"
            )
        if symbol in schedule.setdefault(time, {}):
            raise WeightsFileError(f"{where}: {symbol} has two weights for one decision time")
        schedule[time][symbol] = weight
    for time, weights in schedule.items():
        gross = sum(map(abs, weights.values()))
        if gross > leverage_limit + 1e-9:
            raise WeightsFileError(
                f"{path}: weights at {row_time(time)} sum to {gross:g}, above the leverage limit "
                f"of {leverage_limit:g} (account.leverage_limit)"
            )
    return schedule


def _rows(path: Path) -> list[tuple[int, dict[str, str | None]]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            missing = {"decision_time", "symbol", "weight"} - set(reader.fieldnames or ())
            if missing:
                raise WeightsFileError(f"{path}: missing column(s) {', '.join(sorted(missing))}")
            return [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError) as error:
        raise WeightsFileError(f"{path}: cannot be read: {error}") from None


def _weight(text: str, where: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        raise WeightsFileError(f"{where}: weight {text!r} is not a number") from None
    if not np.isfinite(weight):
        raise WeightsFileError(f"{where}: weight {text!r} is not a finite number")
    return weight


def parse_time(text: str, where: str) -> int:
    """Read UTC milliseconds or an ISO 8601 time (UTC where no zone is given).

    Raises:
        WeightsFileError: neither.
    """
    if text.isascii() and text.isdigit():
        if int(text) > _LAST_TIME:
            raise WeightsFileError(f"{where}: time {text!r} is no time that a calendar has")
        return int(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise WeightsFileError(
            f"{where}: time {text!r} is neither UTC milliseconds nor ISO 8601"
        ) from None
    return round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)


def row_time(time: int) -> str:
    """Write UTC milliseconds as ISO 8601."""
    return datetime.fromtimestamp(time / 1000, UTC).isoformat()
