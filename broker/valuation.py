"""What an account is worth: its state as a kernel book, its equity and its drifted weights.

It reads state and prices and changes nothing. A held symbol without a mark is an error: equity is
never guessed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from broker import kernel
from broker.execution import has_price
from broker.money import to_float
from broker.state import AccountState
from market.instrument import Market


class MarkMissing(ValueError):
    """A held symbol has no mark; the caller must carry its last known one forward."""


def account_book(state: AccountState, symbols: Sequence[str]) -> kernel.Book:
    """Return wallet () and positions (asset,) of ``symbols`` in their order; 0 where flat.

    A spot account's wallet is its cash and what was paid for these symbols: the kernel's equity is
    then cash + Σ quantity·mark.
    """
    held = [state.positions.get(symbol) for symbol in symbols]
    quantity = np.array([to_float(one.quantity) if one else 0.0 for one in held])
    entry_price = np.array([to_float(one.entry_price) if one else 0.0 for one in held])
    wallet = np.array(to_float(state.wallet))
    if state.market is Market.SPOT:
        wallet = wallet + np.vecdot(quantity, entry_price)
    return kernel.Book(wallet, quantity, entry_price)


def mark_array(
    state: AccountState, symbols: Sequence[str], mark: Mapping[str, float]
) -> kernel.Float64Array:
    """Return marks (asset,), 0 where unknown and nothing is held.

    Raises:
        MarkMissing: a held symbol has no finite positive mark.
    """
    known = [mark[symbol] if has_price(mark.get(symbol)) else 0.0 for symbol in symbols]
    missing = [
        symbol
        for symbol, value in zip(symbols, known, strict=True)
        if value == 0.0 and symbol in state.positions
    ]
    if missing:
        raise MarkMissing(f"account {state.account_id} holds {missing} without a mark price")
    return np.array(known)


def account_equity(state: AccountState, mark: Mapping[str, float]) -> float:
    """Return wallet + Σ quantity·(mark − entry), quote currency.

    Raises:
        MarkMissing: a held symbol has no finite positive mark.
    """
    symbols = sorted(state.positions)
    marks = mark_array(state, symbols, mark)
    return float(kernel.equity(account_book(state, symbols), marks))


def account_weights(
    state: AccountState, mark: Mapping[str, float], price: Mapping[str, float] | None = None
) -> Mapping[str, float]:
    """Return the drifted weight of every held symbol, ``quantity·price/equity``.

    Args:
        state: the account.
        mark: valuation prices, for the equity and where ``price`` has none.
        price: decision prices. With them, a target equal to the result trades nothing; without,
            exposure is measured at the mark.

    Raises:
        MarkMissing: a held symbol has no finite positive mark.
    """
    symbols = sorted(state.positions)
    marks = mark_array(state, symbols, mark)
    book = account_book(state, symbols)
    chosen = [
        price[symbol] if price is not None and has_price(price.get(symbol)) else marks[index]
        for index, symbol in enumerate(symbols)
    ]
    drifted = kernel.weights(book.quantity, np.array(chosen), kernel.equity(book, marks))
    return {symbol: float(weight) for symbol, weight in zip(symbols, drifted, strict=True)}
