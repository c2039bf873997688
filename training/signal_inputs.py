"""Signals as a training run reads them: out of its snapshot, joined by the rule that live uses.

This module must never import torch, stable-baselines3 or gymnasium, and does no IO.
"""

from __future__ import annotations

from collections.abc import Sequence

from market.panel import Panel
from market.signal_join import SignalPanel, join_signals
from market.signals import Signal, SignalColumn


class SignalMissing(Exception):
    """A column was asked for and the snapshot holds nothing of it; the message says which."""


def signals_at(
    panel: Panel, signals: Sequence[Signal], columns: Sequence[SignalColumn]
) -> SignalPanel | None:
    """Join the snapshot's signals with every close of ``panel``; ``None`` without columns.

    A column that no bar knows is refused: a policy trained on it would meet its first real value
    live, and what it saw before the stream was first stored could not be told from its archive
    (``market.signal_join``).

    Raises:
        SignalMissing: a column is unknown at every bar and for every asset.
    """
    if not columns:
        return None
    joined = join_signals(signals, columns, panel.symbols, panel.close_time)
    for number, column in enumerate(joined.columns):
        if not joined.known[:, :, number].any():
            raise SignalMissing(
                f"training.signals: no value of {column.name!r} by {column.source!r} version "
                f"{column.version!r} is known at any bar; import it (ballast import --signals "
                "FILE), enable its producer, or leave the column out"
            )
    return joined
