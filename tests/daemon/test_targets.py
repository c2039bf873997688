"""Weights files: what is usable is read exactly, what is not names file and line."""

from __future__ import annotations

from pathlib import Path

import pytest

from daemon.targets import WeightsFileError, load_weights

SYMBOLS = ("BTC/USDT:USDT", "ETH/USDT:USDT")
NOON = 1_767_268_800_000  # 2026-01-01T12:00Z


def write(folder: Path, *rows: str, header: str = "decision_time,symbol,weight") -> Path:
    path = folder / "weights.csv"
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def test_times_are_milliseconds_or_iso(tmp_path: Path) -> None:
    """Both ways of writing a time name the same moment; no zone means UTC."""
    path = write(tmp_path, f"{NOON},BTC/USDT:USDT,0.4", "2026-01-01T12:00:00Z,ETH/USDT:USDT,0.5")
    assert load_weights(path, symbols=SYMBOLS, leverage_limit=1.0) == {
        NOON: {"BTC/USDT:USDT": 0.4, "ETH/USDT:USDT": 0.5}
    }


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ((f"{NOON},DOGE/USDT:USDT,0.1",), "line 2: unknown symbol 'DOGE/USDT:USDT'"),
        ((f"{NOON},BTC/USDT:USDT,much",), "line 2: weight 'much' is not a number"),
        ((f"{NOON},BTC/USDT:USDT,-0.1",), "is a short; account.allow_short permits it"),
        ((f"{NOON},BTC/USDT:USDT,nan",), "not a finite number"),
        (("²,BTC/USDT:USDT,0.1",), "line 2: time '²' is neither"),
        (("9" * 20 + ",BTC/USDT:USDT,0.1",), "is no time that a calendar has"),
        (("noon,BTC/USDT:USDT,0.1",), "line 2: time 'noon' is neither"),
        ((f"{NOON},BTC/USDT:USDT,0.6", f"{NOON},ETH/USDT:USDT,0.5"), "sum to 1.1, above"),
        ((f"{NOON},BTC/USDT:USDT,0.1", f"{NOON},BTC/USDT:USDT,0.1"), "line 3: BTC/USDT:USDT has"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, rows: tuple[str, ...], expected: str) -> None:
    """Every kind of unusable row is refused with file, line and cause."""
    path = write(tmp_path, *rows)
    with pytest.raises(WeightsFileError, match="weights.csv") as caught:
        load_weights(path, symbols=SYMBOLS, leverage_limit=1.0)
    assert expected in str(caught.value)


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    """The header is checked first."""
    path = write(tmp_path, header="decision_time,symbol")
    with pytest.raises(WeightsFileError, match=r"missing column\(s\) weight"):
        load_weights(path, symbols=SYMBOLS, leverage_limit=1.0)
