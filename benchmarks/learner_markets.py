"""Markets whose best policy is known, as tapes that the ordinary training reads.

A tape is a panel of bars with the planted returns, and one signal column that carries the state a
policy may observe; training, kernel and evaluation then run as on any market. Costs are the fee
alone: no spread, no impact, lots too small to round; accounts are spot accounts. Drift and pure
noise show an AR(1) signal that says nothing, and the interior markets a constant label for each
asset, because a policy that treats all assets alike could not hold them differently.
This module must never import torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import numpy as np

from broker.costs import CostModel
from market.bar import HOUR_MS
from market.instrument import Instrument
from market.panel import ARRAY_FIELDS, BoolArray, Float64Array, Panel
from market.signal_join import SignalPanel
from market.signals import SignalColumn
from training.config import RewardKind

T0 = 1_640_995_200_000  # 2022-01-01
TRAINING_BARS = 200_000
PERSISTENCE = 0.95
BP = 1e-4
SIGNAL = SignalColumn(source="planted", version="1", name="state", max_age_seconds=3_600)
_DAILY_QUOTE_VOLUME = 1e12
_NOTHING = Decimal("1e-250")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tape:
    """T bars of N assets with what was planted in them.

    Attributes:
        panel: bars whose open is the close before.
        signals: (T, N, 1) what a policy may see at each close.
        hidden: (T, N) the state itself, where the signal is a noisy view of it.
        expected: (T, N) mean of the next bar's return given ``hidden``, a fraction.
    """

    panel: Panel
    signals: SignalPanel
    hidden: Float64Array
    expected: Float64Array


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnerMarket:
    """One market of the learner's benchmark.

    Attributes:
        assets: N.
        cost: one-way, a fraction of the traded notional.
        steps: transitions that training may use.
        state: ``state(rng, bars, assets)`` gives hidden and shown state, (T, N) each.
        mean_return: (N,) unconditional mean per bar; slope: what a unit of state adds.
        sigma: of the returns' noise per bar; correlation: between any two assets.
        risk_aversion: γ of the variance reward; 0 rewards the net return itself.
    """

    name: str
    assets: int
    cost: float
    steps: int
    state: Callable[[np.random.Generator, int, int], tuple[Float64Array, Float64Array]]
    mean_return: tuple[float, ...]
    slope: float = 0.0
    sigma: float = 0.01
    correlation: float = 0.0
    risk_aversion: float = 0.0
    covariance: Float64Array = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        unit = np.eye(self.assets) * (1 - self.correlation) + self.correlation
        object.__setattr__(self, "covariance", self.sigma**2 * unit)

    @property
    def costs(self) -> CostModel:
        """The fee as the broker charges it."""
        return CostModel(fee_rate=self.cost, half_spread_bps=0.0, impact_coefficient=0.0)

    @property
    def config_changes(self) -> Mapping[str, Any]:
        """What the market asks of a training configuration: objective, data and budget."""
        objective: dict[str, Any] = {"reward": RewardKind.SHARPE_HURDLE, "hurdle_sharpe": 0.0}
        if self.risk_aversion:
            objective = {"reward": RewardKind.VARIANCE, "risk_aversion": self.risk_aversion}
        return objective | {
            "features": ("return_1",),
            "signals": (SIGNAL,),
            "total_steps": self.steps,
        }

    def tape(self, seed: int, bars: int) -> Tape:
        """Return ``bars`` bars; equal seeds give equal tapes."""
        rng = np.random.default_rng(seed)
        hidden, shown = self.state(rng, bars, self.assets)
        expected = np.asarray(self.mean_return) + self.slope * hidden
        root = np.linalg.cholesky(self.covariance)
        moves = rng.standard_normal((bars, self.assets)) @ root.T
        moves[1:] += expected[:-1]
        panel = _panel(moves)
        return Tape(panel=panel, signals=_signals(panel, shown), hidden=hidden, expected=expected)


def autoregression(
    rng: np.random.Generator, bars: int, assets: int
) -> tuple[Float64Array, Float64Array]:
    """``x' = 0.95x + sqrt(1 − 0.95²)·ε``, started in its stationary law, seen as it is."""
    innovation = np.sqrt(1 - PERSISTENCE**2) * rng.standard_normal((bars, assets))
    x = np.empty((bars, assets))
    x[0] = rng.standard_normal(assets)
    for bar in range(1, bars):
        x[bar] = PERSISTENCE * x[bar - 1] + innovation[bar]
    return x, x


def blurred_autoregression(
    rng: np.random.Generator, bars: int, assets: int
) -> tuple[Float64Array, Float64Array]:
    """The same process, seen through unit noise."""
    x, _ = autoregression(rng, bars, assets)
    return x, x + rng.standard_normal((bars, assets))


def labels(
    rng: np.random.Generator,  # noqa: ARG001 # as the other states
    bars: int,
    assets: int,
) -> tuple[Float64Array, Float64Array]:
    """Constants from −1 to 1 that tell the assets apart: a shared encoder knows no places."""
    state = np.broadcast_to(np.linspace(-1.0, 1.0, assets), (bars, assets))
    return np.zeros((bars, assets)), state


def two_states(
    rng: np.random.Generator, bars: int, assets: int
) -> tuple[Float64Array, Float64Array]:
    """±1, kept with probability 0.98 from bar to bar, seen as it is."""
    flips = np.where(rng.random((bars, assets)) < 1 - STAY, -1.0, 1.0)
    state = np.cumprod(flips, axis=0, dtype=np.float64)
    return state, state


STAY = 0.98

MARKETS: Mapping[str, LearnerMarket] = {
    market.name: market
    for market in (
        LearnerMarket(
            name="drift", assets=1, cost=10 * BP, steps=100_000,
            state=autoregression, mean_return=(20 * BP,),
        ),
        LearnerMarket(
            name="noise", assets=1, cost=10 * BP, steps=200_000,
            state=autoregression, mean_return=(0.0,),
        ),
        LearnerMarket(
            name="ar1", assets=1, cost=50 * BP, steps=200_000,
            state=autoregression, mean_return=(0.0,), slope=30 * BP,
        ),
        LearnerMarket(
            name="regime", assets=1, cost=10 * BP, steps=200_000,
            state=two_states, mean_return=(0.0,), slope=30 * BP,
        ),
        LearnerMarket(
            name="interior20", assets=2, cost=10 * BP, steps=200_000, state=labels,
            mean_return=(20 * BP, 15 * BP), sigma=0.02, correlation=0.2, risk_aversion=20.0,
        ),
        LearnerMarket(
            name="interior14", assets=2, cost=10 * BP, steps=200_000, state=labels,
            mean_return=(20 * BP, 15 * BP), sigma=0.02, correlation=0.2, risk_aversion=14.0,
        ),
        LearnerMarket(
            name="momentum8", assets=8, cost=10 * BP, steps=500_000,
            state=blurred_autoregression, mean_return=(0.0,) * 8, slope=20 * BP,
        ),
    )
}  # fmt: skip


def instruments(panel: Panel) -> tuple[Instrument, ...]:
    """Spot instruments of the panel without steps or minimums that anything meets."""
    return tuple(
        Instrument(
            symbol=symbol,
            venue_symbol=symbol.replace("/", ""),
            base=symbol.split("/")[0],
            quote="USDT",
            tick_size=_NOTHING,
            lot_step=_NOTHING,
            min_quantity=_NOTHING,
            max_quantity=None,
            min_notional=Decimal(0),
            funding_interval_minutes=None,
        )
        for symbol in panel.symbols
    )


def _panel(moves: Float64Array) -> Panel:
    """Hourly bars from 100 that open at the close before; ``moves`` (T, N) are simple returns."""
    close = 100.0 * np.cumprod(1.0 + moves, axis=0)
    opened = np.vstack((close[:1], close[:-1]))
    nothing, zero = np.full_like(close, np.nan), np.zeros_like(close)
    bars, assets = close.shape
    arrays = dict.fromkeys(ARRAY_FIELDS, nothing)
    arrays |= {
        "open": opened,
        "close": close,
        "high": np.maximum(opened, close),
        "low": np.minimum(opened, close),
        "volume": _DAILY_QUOTE_VOLUME / close,
        "funding_at_open": zero,
        "funding_in_bar": zero,
    }
    return Panel(
        symbols=tuple(f"P{number}/USDT" for number in range(assets)),
        interval_ms=HOUR_MS,
        open_time=T0 + HOUR_MS * np.arange(bars, dtype=np.int64),
        **arrays,
    )


def _signals(panel: Panel, shown: Float64Array) -> SignalPanel:
    known: BoolArray = np.ones((*shown.shape, 1), dtype=np.bool_)
    return SignalPanel(
        columns=(SIGNAL,), decision_times=panel.close_time, values=shown[:, :, None], known=known
    )
