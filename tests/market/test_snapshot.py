"""Snapshots: frozen, content-hashed, verified."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest

from market.bar import HOUR_MS
from market.instrument import Instrument
from market.panel import ARRAY_FIELDS, Panel
from market.snapshot import Snapshot, SnapshotCorrupt, load_snapshot, save_snapshot


def panel(bars: int = 4, symbols: tuple[str, ...] = ("A", "B"), seed: int = 1) -> Panel:
    """A panel of numbers with holes."""
    rng = np.random.default_rng(seed)
    shape = (bars, len(symbols))
    arrays = {name: rng.normal(size=shape) for name in ARRAY_FIELDS}
    arrays["quote_volume"][:] = np.nan
    if bars:
        arrays["close"][0, 0] = np.nan
    open_time = np.arange(bars, dtype=np.int64) * HOUR_MS
    return Panel(symbols=symbols, interval_ms=HOUR_MS, open_time=open_time, **arrays)


def instrument(symbol: str) -> Instrument:
    """Trading rules with every field set but one."""
    return Instrument(
        symbol=symbol,
        venue_symbol=f"{symbol}USDT",
        base=symbol,
        quote="USDT",
        tick_size=Decimal("0.10"),
        lot_step=Decimal("0.001"),
        min_quantity=Decimal("0.001"),
        max_quantity=None,
        min_notional=Decimal("100"),
        funding_interval_minutes=480,
    )


def save(root: Path, content: Panel) -> Snapshot:
    """Save with one instrument per symbol."""
    rules = [instrument(symbol) for symbol in content.symbols]
    return save_snapshot(content, rules, venue="binanceusdm", root=root)


def test_loaded_snapshot_equals_what_was_saved(tmp_path: Path) -> None:
    """Arrays, symbols, venue and rules come back, NaN included."""
    content = panel()
    loaded = load_snapshot(save(tmp_path, content).directory)
    assert (loaded.venue, loaded.panel.symbols) == ("binanceusdm", ("A", "B"))
    assert loaded.panel.interval_ms == HOUR_MS
    assert loaded.instruments == (instrument("A"), instrument("B"))
    for name in ("open_time", *ARRAY_FIELDS):
        np.testing.assert_array_equal(getattr(loaded.panel, name), getattr(content, name))


def test_arrays_are_mapped_and_read_only(tmp_path: Path) -> None:
    """A reader shares the file's pages and cannot change them."""
    loaded = save(tmp_path, panel())
    assert isinstance(loaded.panel.close, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        loaded.panel.close[0, 0] = 1.0


def test_directory_is_named_by_the_content(tmp_path: Path) -> None:
    """The same content has the same id in any root, other content another."""
    first, second = save(tmp_path / "one", panel()), save(tmp_path / "two", panel())
    assert first.id == second.id == first.directory.name
    assert first.directory == tmp_path / "one" / first.id
    assert save(tmp_path / "one", panel(seed=2)).id != first.id


def test_id_covers_more_than_the_arrays(tmp_path: Path) -> None:
    """Another venue or another rule is another snapshot."""
    rules = [instrument("A"), instrument("B")]
    ids = {
        save_snapshot(panel(), rules, venue="binanceusdm", root=tmp_path).id,
        save_snapshot(panel(), rules, venue="bybit", root=tmp_path).id,
        save_snapshot(
            panel(),
            [rules[0], replace(rules[1], min_notional=Decimal(5))],
            venue="bybit",
            root=tmp_path,
        ).id,
    }
    assert len(ids) == 3


def test_id_ignores_how_the_same_values_are_written(tmp_path: Path) -> None:
    """Memory order, negative zero, the bits of NaN, trailing zeros and the rules' order."""
    content = panel()
    arrays = {name: np.asfortranarray(getattr(content, name)) for name in ARRAY_FIELDS}
    content.funding_at_open[0, 0] = 0.0
    arrays["funding_at_open"] = np.where(
        content.funding_at_open == 0, -0.0, content.funding_at_open
    )
    arrays["quote_volume"] = -arrays["quote_volume"]
    twin = Panel(symbols=("A", "B"), interval_ms=HOUR_MS, open_time=content.open_time, **arrays)
    rules = [replace(instrument(symbol), tick_size=Decimal("0.1")) for symbol in "BA"]
    saved = save_snapshot(twin, rules, venue="binanceusdm", root=tmp_path)
    assert saved.id == save(tmp_path, content).id


def test_saving_twice_keeps_one_directory(tmp_path: Path) -> None:
    """No second copy and no temporary name stays behind."""
    save(tmp_path, panel())
    saved = save(tmp_path, panel())
    assert [item.name for item in tmp_path.iterdir()] == [saved.id]


def test_changed_byte_is_found(tmp_path: Path) -> None:
    """One flipped bit in one array makes the snapshot corrupt."""
    directory = save(tmp_path, panel()).directory
    content = bytearray((directory / "close.npy").read_bytes())
    content[-1] ^= 1
    (directory / "close.npy").write_bytes(content)
    with pytest.raises(SnapshotCorrupt, match=r"close\.npy differs"):
        load_snapshot(directory)


@pytest.mark.parametrize("name", ["volume.npy", "meta.json"])
@pytest.mark.parametrize("damage", ["remove", "empty", "cut"])
def test_incomplete_snapshot_is_found(tmp_path: Path, name: str, damage: str) -> None:
    """A missing, empty or half-written file makes the snapshot corrupt."""
    path = save(tmp_path, panel()).directory / name
    content = path.read_bytes()
    if damage == "remove":
        path.unlink()
    else:
        path.write_bytes(content[: len(content) // 2] if damage == "cut" else b"")
    with pytest.raises(SnapshotCorrupt, match=name):
        load_snapshot(path.parent)


def test_changed_meta_data_are_found(tmp_path: Path) -> None:
    """The id covers the meta data: an edited rule does not pass."""
    path = save(tmp_path, panel()).directory / "meta.json"
    meta = json.loads(path.read_text())
    meta["instruments"][0]["min_notional"] = "1"
    path.write_text(json.dumps(meta))
    with pytest.raises(SnapshotCorrupt, match="does not match its own id"):
        load_snapshot(path.parent)


def test_damaged_snapshot_is_replaced_when_saved_again(tmp_path: Path) -> None:
    """The cure for a corrupt snapshot is to save it again."""
    directory = save(tmp_path, panel()).directory
    (directory / "low.npy").unlink()
    assert save(tmp_path, panel()).directory == directory
    load_snapshot(directory)


def test_empty_panel_can_be_saved(tmp_path: Path) -> None:
    """No bars are a snapshot too."""
    assert len(save(tmp_path, panel(bars=0)).panel) == 0


def test_rules_must_be_those_of_the_panel(tmp_path: Path) -> None:
    """Each symbol has its rules, and nothing else has."""
    with pytest.raises(ValueError, match="instruments are of"):
        save_snapshot(panel(), [instrument("A")], venue="bybit", root=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_two_years_of_five_symbols_are_saved_within_a_second(tmp_path: Path) -> None:
    """The daemon writes one before every training."""
    content = panel(bars=2 * 365 * 24, symbols=tuple("ABCDE"))
    start = time.process_time()
    save(tmp_path, content)
    assert time.process_time() - start < 1.0
