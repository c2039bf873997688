"""The trained policy without torch: what the daemon and the evaluation run.

Repeats the arithmetic of ``training.policy`` in numpy float32 and is held to
stable-baselines3's deterministic action by the self-check inside each artefact. This module must
never import torch, stable-baselines3 or gymnasium.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Protocol

import numpy as np

from market.features import Features, compute_features, warmup_bars
from market.panel import Float64Array, Int64Array, Panel
from market.signal_join import SignalPanel
from training.allocation import ACTION_BOUND, allocate
from training.artefact import Arrays, Artefact, ArtefactRejected, read_artefact
from training.normalizer import Float32Array
from training.observation import (
    ObservationRejected,
    ObservationSchema,
    PortfolioState,
    assemble,
    market_channels,
    required_bars,
    with_signals,
    write_account,
)
from training.windows import MarketWindows, market_windows

SELF_CHECK_TOLERANCE = 1e-5
_PREPARED_AT_ONCE = 1_024


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PreparedMarket:
    """The market's share of the first layer for every bar, so that a backtest computes it once.

    Attributes:
        hidden: per member (T', N, H) or (T', H), what each window gives to the first layer.
        decision_time: (T',) UTC ms, the close of each window's newest bar.
    """

    hidden: tuple[Float32Array, ...]
    decision_time: Int64Array


class Policy:
    """One model: the mean of its members' weights. Immutable."""

    def __init__(self, artefact: Artefact) -> None:
        """Take the arrays out of ``artefact``; ``load_policy`` also runs the self-check."""
        self.artefact = artefact
        self.model_id = artefact.model_id
        self.schema = artefact.schema
        self.symbols = artefact.schema.symbols
        self.interval_ms = artefact.schema.interval_ms
        self.required_bars = required_bars(
            artefact.schema, warmup_bars(artefact.schema.features, artefact.schema.interval_ms)
        )
        self._networks = tuple(
            actor_network(member.actor, self.schema) for member in artefact.members
        )

    def target_weights(
        self, panel: Panel, portfolio: PortfolioState, signals: SignalPanel | None = None
    ) -> Float64Array:
        """Return (N,) risky weights for one account at the close of the panel's last bar.

        Args:
            panel: at least ``required_bars`` bars, of exactly this policy's symbols.
            portfolio: state of the account at that close.
            signals: those of the schema at (at least) the newest ``lookback_bars`` closes.

        Raises:
            ObservationRejected: wrong symbols, interval or length, signals that are not the
                schema's, or a value is not finite.
        """
        recent = panel.window(max(0, len(panel) - self.required_bars), len(panel))
        windows = self._windows(recent, self._observed(recent, signals))
        newest = windows.at(np.array(len(windows) - 1))
        obs = assemble(newest, portfolio, recent.close_time[-1], self.schema)
        return self.weights_from(obs)

    def weights_from(self, obs: Float32Array) -> Float64Array:
        """Return (..., N) risky weights for flat observations (..., width)."""
        return self._ensemble(self.actions(obs))

    def actions(self, obs: Float32Array) -> list[Float64Array]:
        """Return each member's deterministic action (..., N), as stable-baselines3 clips it."""
        if obs.shape[-1] != self.schema.width:
            raise ObservationRejected(f"width {obs.shape[-1]} is not {self.schema.width}")
        if not np.isfinite(obs).all():
            raise ObservationRejected("the observation is not finite")
        return [_clip(network.action(obs)) for network in self._networks]

    def prepare(self, panel: Panel, features: Features | None = None) -> PreparedMarket:
        """Compute the market's share of every decision from bar ``lookback_bars − 1`` on.

        Args:
            panel: the bars.
            features: of the whole panel, where they were computed before; a policy with signals
                needs them here (``training.observation.with_signals``).
        """
        windows = self._windows(panel, features or self._features(panel))
        bars = np.arange(self.schema.lookback_bars - 1, len(panel))
        pieces = np.array_split(bars, -(-len(bars) // _PREPARED_AT_ONCE))
        hidden = tuple(
            np.concatenate([network.market_hidden(windows.at(piece)) for piece in pieces])
            for network in self._networks
        )
        return PreparedMarket(hidden=hidden, decision_time=panel.close_time[bars])

    def weights_at(
        self, prepared: PreparedMarket, row: Int64Array, portfolio: PortfolioState
    ) -> Float64Array:
        """Return (B, N) weights of B accounts, account b deciding at row ``row[b]``.

        The same as ``weights_from`` on the assembled observation, without the window's part of
        the arithmetic. Row k decides at the close of panel bar ``k + lookback_bars − 1``.
        """
        account = np.empty((*row.shape, self.schema.account_width), dtype=np.float32)
        write_account(account, portfolio, prepared.decision_time[row], self.schema)
        actions = [
            _clip(network.action_from(hidden[row], account))
            for network, hidden in zip(self._networks, prepared.hidden, strict=True)
        ]
        return self._ensemble(actions)

    def _ensemble(self, actions: Sequence[Float64Array]) -> Float64Array:
        """Mean of the members' weights: each allocates for itself."""
        rule = self.artefact
        each = [
            allocate(action, budget=rule.budget, long_only=rule.long_only) for action in actions
        ]
        mean: Float64Array = np.mean(each, axis=0)
        return mean

    def _observed(self, panel: Panel, signals: SignalPanel | None) -> Features:
        """Features of the panel and, where the schema has some, the signals at its closes.

        Only the newest ``lookback_bars`` rows are ever read, so live joins no more than those.
        """
        features = self._features(panel)
        if not self.schema.signals:
            return features
        if signals is None or signals.columns != self.schema.signals:
            raise ObservationRejected("the signals are not those that the policy was trained on")
        first = max(0, len(panel) - self.schema.lookback_bars)
        newest = Features(
            values=features.values[first:], known=features.known[first:], names=features.names
        )
        return with_signals(newest, signals.at(panel.close_time[first:]))

    def _features(self, panel: Panel) -> Features:
        return compute_features(panel, self.schema.features)

    def _windows(self, panel: Panel, features: Features) -> MarketWindows:
        if panel.symbols != self.symbols or panel.interval_ms != self.interval_ms:
            raise ObservationRejected(
                f"panel of {panel.symbols} every {panel.interval_ms} ms, the policy wants "
                f"{self.symbols} every {self.interval_ms} ms"
            )
        channels = market_channels(features, self.artefact.normalizer, self.schema)
        return market_windows(channels, self.schema.lookback_bars)


class Network(Protocol):
    """One member's arithmetic, in two parts: the market's share, and the rest."""

    def action(self, obs: Float32Array) -> Float32Array:
        """Return (..., N) unclipped mean actions for observations (..., width)."""

    def market_hidden(self, rows: Float32Array) -> Float32Array:
        """Return what market rows (..., N, L·C) give to the first layer."""

    def action_from(self, market_hidden: Float32Array, account: Float32Array) -> Float32Array:
        """Finish the forward pass from that and the account's part (..., N + G)."""


def actor_network(arrays: Arrays, schema: ObservationSchema) -> Network:
    """Return the network whose arrays these are.

    Raises:
        ValueError: a layer is missing or has the wrong shape.
    """
    return MlpActor(arrays, schema) if "dense_0" in arrays else ActorNetwork(arrays, schema)


class MlpActor:
    """One member's arrays: dense layers over the observation with tanh between."""

    def __init__(self, arrays: Arrays, schema: ObservationSchema) -> None:
        """Check the shapes against the schema.

        Raises:
            ValueError: a layer is missing or has the wrong shape.
        """
        self._schema = schema
        self._dense, self._bias = _layers(arrays, "dense"), _layers(arrays, "dense_bias")
        self._hold = np.float32(arrays["hold"])
        if len(self._dense) != len(self._bias):
            raise ValueError("actor layers are incomplete")
        if len(self._dense[0]) != schema.width:
            raise ValueError(
                f"first layer takes {len(self._dense[0])} inputs, the schema gives {schema.width}"
            )

    def action(self, obs: Float32Array) -> Float32Array:
        """Return (..., N) unclipped mean actions for observations (..., width)."""
        width = self._schema.market_width
        return self.action_from(obs[..., :width] @ self._dense[0][:width], obs[..., width:])

    def market_hidden(self, rows: Float32Array) -> Float32Array:
        """Return (..., H): what market rows (..., N, L·C) give to the first layer."""
        width = self._schema.market_width
        hidden: Float32Array = rows.reshape(*rows.shape[:-2], width) @ self._dense[0][:width]
        return hidden

    def action_from(self, market_hidden: Float32Array, account: Float32Array) -> Float32Array:
        """Finish the forward pass from (..., H) and the account's part (..., N + G)."""
        hidden = market_hidden + account @ self._dense[0][self._schema.market_width :]
        hidden = hidden + self._bias[0]
        for dense, bias in zip(self._dense[1:], self._bias[1:], strict=True):
            hidden = np.tanh(hidden) @ dense + bias
        action: Float32Array = hidden + self._hold * account[..., : self._schema.asset_count]
        return action


class ActorNetwork:
    """One member's arrays: equivariant layers with tanh between (``training.policy``)."""

    def __init__(self, arrays: Arrays, schema: ObservationSchema) -> None:
        """Check the shapes against the schema.

        Raises:
            ValueError: a layer is missing or has the wrong shape.
        """
        self._schema = schema
        self._own = _layers(arrays, "own")
        self._pooled = _layers(arrays, "pooled")
        self._bias = _layers(arrays, "bias")
        self._hold = np.float32(arrays["hold"])
        if not len(self._own) == len(self._pooled) == len(self._bias) > 0:
            raise ValueError("actor layers are incomplete")
        inputs = schema.asset_width + 1
        shared = schema.account_width - schema.asset_count
        if len(self._own[0]) != inputs or len(self._pooled[0]) != inputs + shared:
            raise ValueError(
                f"first layer takes {len(self._own[0])} and {len(self._pooled[0])} inputs, "
                f"the schema gives {inputs} and {inputs + shared}"
            )

    def action(self, obs: Float32Array) -> Float32Array:
        """Return (..., N) unclipped mean actions for observations (..., width)."""
        schema = self._schema
        market = obs[..., : schema.market_width]
        rows = market.reshape(*obs.shape[:-1], schema.asset_count, schema.asset_width)
        return self.action_from(self.market_hidden(rows), obs[..., schema.market_width :])

    def market_hidden(self, rows: Float32Array) -> Float32Array:
        """Return (..., N, H): what market rows (..., N, L·(F + 1)) give to the first layer."""
        width = self._schema.asset_width
        pool = rows.mean(axis=-2) @ self._pooled[0][:width]
        hidden: Float32Array = rows @ self._own[0][:width] + pool[..., None, :]
        return hidden

    def action_from(self, market_hidden: Float32Array, account: Float32Array) -> Float32Array:
        """Finish the forward pass from (..., N, H) and the account's part (..., N + G)."""
        count, width = self._schema.asset_count, self._schema.asset_width
        weights = account[..., :count]
        pooled_inputs = np.concatenate(
            (weights.mean(axis=-1, keepdims=True), account[..., count:]), axis=-1
        )
        hidden = market_hidden + weights[..., None] * self._own[0][width]
        hidden = hidden + (pooled_inputs @ self._pooled[0][width:] + self._bias[0])[..., None, :]
        for own, pooled, bias in zip(self._own[1:], self._pooled[1:], self._bias[1:], strict=True):
            active = np.tanh(hidden)
            hidden = active @ own + (active.mean(axis=-2) @ pooled + bias)[..., None, :]
        action: Float32Array = hidden[..., 0] + self._hold * weights
        return action


def load_policy(directory: Path) -> Policy:
    """Read an artefact, run its self-check, and return the policy.

    Raises:
        ArtefactRejected: the files, the network or the self-check failed; the message says which.
    """
    artefact = read_artefact(directory)
    try:
        policy = Policy(artefact)
    except (KeyError, ValueError) as error:
        raise ArtefactRejected(directory, [f"network: {error}"]) from error
    if failed := _self_check_failures(policy):
        raise ArtefactRejected(directory, failed)
    return policy


def mean_weights(artefact: Artefact, obs: Float32Array) -> tuple[Float64Array, Float64Array]:
    """Return each member's actions (M, n, N) and the ensemble's weights (n, N)."""
    policy = Policy(artefact)
    return np.stack(policy.actions(obs)), policy.weights_from(obs)


def _self_check_failures(policy: Policy) -> list[str]:
    check = policy.artefact.self_check
    if len(check.observations) == 0:
        return ["self-check: holds no observations"]
    try:
        actions, weights = mean_weights(policy.artefact, check.observations)
    except (ObservationRejected, ValueError) as error:
        return [f"self-check: {error}"]
    failed = []
    for name, got, expected in (
        ("actions", actions, check.actions),
        ("weights", weights, check.weights),
    ):
        if got.shape != expected.shape or not np.isfinite(expected).all():
            failed.append(
                f"self-check: stored {name} have shape {expected.shape} or are not finite"
            )
        elif (worst := float(np.abs(got - expected).max())) > SELF_CHECK_TOLERANCE:
            failed.append(f"self-check: {name} differ by {worst:.2e}")
    return failed


def _layers(arrays: Arrays, kind: str) -> list[Float32Array]:
    found: list[Float32Array] = []
    for number in count():
        if f"{kind}_{number}" not in arrays:
            return found
        found.append(np.ascontiguousarray(arrays[f"{kind}_{number}"], dtype=np.float32))
    raise AssertionError("unreachable: the loop above ends by returning")


def _clip(action: Float32Array) -> Float64Array:
    return np.clip(action, -ACTION_BOUND, ACTION_BOUND).astype(np.float64)
