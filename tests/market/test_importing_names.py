"""Which symbol the name of a Binance archive stands for."""

from __future__ import annotations

from pathlib import Path

import pytest

from market.importing import ImportHints, ImportRejected, check_file
from market.instrument import Market
from tests.market.test_importing_formats import klines, write_zip


def symbols(path: Path, hints: ImportHints) -> list[str]:
    """The symbols of an archive of this name."""
    rows = next(check_file(write_zip(path, klines()), hints).recording.read())
    return sorted(set(rows["symbol"].to_pylist()))


@pytest.mark.parametrize(
    ("name", "symbol"),
    [
        ("BTCAEUR", "BTC/AEUR"),
        ("BNBUSD", "BNB/USD"),
        ("DOTUSD", "DOT/USD"),
        ("USDTUSD", "USDT/USD"),
        ("LUNABUSD", "LUNA/BUSD"),
        ("TUSDBTUSD", "TUSDB/TUSD"),
        ("ETHUST", "ETH/UST"),
        ("EURUSDT", "EUR/USDT"),
    ],
)
def test_a_name_is_read_with_the_longest_known_base_then_quote(
    tmp_path: Path, name: str, symbol: str
) -> None:
    """More than one known quote ends most of these names."""
    path = tmp_path / f"{name}-1h-2023-11.zip"
    assert symbols(path, ImportHints(market=Market.SPOT)) == [symbol]


@pytest.mark.parametrize(
    ("name", "symbol"), [("ARBUSD", "ARB/USD"), ("BTCAEUR", "BTCA/EUR"), ("XYZQQQ", "XY/ZQQQ")]
)
def test_the_option_decides_where_it_can_be_read_in_the_name(
    tmp_path: Path, name: str, symbol: str
) -> None:
    """However unlikely the reading is."""
    path = tmp_path / f"spot/monthly/klines/{name}/1h/{name}-1h-2023-11.zip"
    assert symbols(path, ImportHints(symbol=symbol)) == [symbol]


@pytest.mark.parametrize(
    ("name", "symbol"),
    [
        ("BTCUSDT", "ETH/USDT:USDT"),
        ("BTCUSDT", "BTC/USDT"),
        ("XYZQQQ", "BTC/USDT:USDT"),
        ("BTCUSDT_231229", "BTC/USDT:USDT"),
    ],
)
def test_an_option_that_the_name_cannot_mean_is_a_contradiction(
    tmp_path: Path, name: str, symbol: str
) -> None:
    """Another base, the other market, a dated future."""
    path = tmp_path / f"futures/um/monthly/klines/{name}/1h/{name}-1h-2023-11.zip"
    with pytest.raises(ImportRejected, match=f"its symbol is .*, but --symbol says {symbol}"):
        symbols(path, ImportHints(symbol=symbol))
