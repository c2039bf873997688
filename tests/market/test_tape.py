"""A tape fits together: one set of symbols in bars, rules and settlements."""

from __future__ import annotations

from dataclasses import replace

import pytest

from market.sandbox.synthetic import synthetic_tape


def test_instruments_must_be_the_panels_symbols_in_order() -> None:
    """The asset axis has one order, everywhere."""
    tape = synthetic_tape(seed=1, history_bars=24, future_bars=0)
    with pytest.raises(ValueError, match="are not the symbols"):
        replace(tape, instruments=tape.instruments[::-1])


def test_settlements_of_unlisted_symbols_are_refused() -> None:
    """A settlement without bars could be charged to nobody."""
    tape = synthetic_tape(seed=1, history_bars=24, future_bars=0)
    stray = replace(tape.settlements[0], symbol="DOGE/USDT:USDT")
    with pytest.raises(ValueError, match="DOGE/USDT:USDT"):
        replace(tape, settlements=(*tape.settlements, stray))
