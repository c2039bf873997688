"""Snapshots: frozen, content-hashed, verified."""

from __future__ import annotations

import json
import os
import shutil
import time
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest

from market.bar import HOUR_MS
from market.instrument import Instrument
from market.panel import ARRAY_FIELDS, Panel
from market.signals import Signal
from market.snapshot import (
    TENSOR_COLUMNS,
    Snapshot,
    SnapshotCorrupt,
    Verify,
    load_snapshot,
    save_snapshot,
)


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


def signal(hour: int, symbol: str = "", value: float = 0.5) -> Signal:
    """A stored row."""
    return Signal(
        source="s",
        version="1",
        symbol=symbol,
        event_time=1_700_000_000_000 + hour * HOUR_MS,
        published_at=1_700_000_000_000 + hour * HOUR_MS + 7,
        ingested_at=1_800_000_000_000,
        name="n",
        value=value,
        is_backfilled=hour % 2 == 0,
        lag_ms=60 * hour,
    )


def test_signals_are_frozen_with_the_bars(tmp_path: Path) -> None:
    """They come back by symbol and time, in whatever order they were given, and are in the id."""
    signals = [signal(2, "A", -1.5), signal(1, "A"), signal(3)]
    rules = [instrument(symbol) for symbol in "AB"]
    ids = {
        save_snapshot(panel(), rules, venue="v", root=tmp_path, signals=given).id
        for given in (signals, signals[::-1])
    }
    (saved,) = (load_snapshot(tmp_path / each) for each in ids)
    assert saved.signals == (signal(3), signal(1, "A"), signal(2, "A", -1.5))
    other = save_snapshot(panel(), rules, venue="v", root=tmp_path, signals=signals[:2])
    assert other.id != saved.id


def test_tensor_holds_the_panel_as_float32(tmp_path: Path) -> None:
    """(T, N, C) for training, mapped, NaN where the panel has NaN."""
    saved = save(tmp_path, panel())
    expected = [getattr(saved.panel, name).astype(np.float32) for name in TENSOR_COLUMNS]
    assert isinstance(saved.tensor, np.memmap)
    assert saved.tensor.dtype == np.float32
    np.testing.assert_array_equal(saved.tensor, np.stack(expected, axis=-1))


def test_snapshot_of_an_older_ballast_is_refused(tmp_path: Path) -> None:
    """The message says which format it has, and what to do."""
    path = save(tmp_path, panel()).directory / "meta.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 1}))
    with pytest.raises(SnapshotCorrupt, match="is of format 1.*make the snapshot again"):
        load_snapshot(path.parent)


def _damage(directory: Path) -> None:
    content = bytearray((directory / "close.npy").read_bytes())
    content[-1] ^= 1
    (directory / "close.npy").write_bytes(content)


def _vouch(directory: Path) -> None:
    """Leave the note of a verification that found today's files sound, some time ago."""
    sound = save(directory.parent, panel(seed=3)).directory / "verified.json"
    files = json.loads(sound.read_text())["files"]
    for name in files:
        status = (directory / f"{name}.npy").stat()
        files[name] = [status.st_dev, status.st_ino, status.st_size]
        files[name] += [status.st_mtime_ns, status.st_ctime_ns]
    (directory / "verified.json").write_text(json.dumps({"files": files}))
    later = time.time_ns() + 10**9
    os.utime(directory / "verified.json", ns=(later, later))


def test_verified_files_are_not_read_again(tmp_path: Path) -> None:
    """Once per machine and content: what was vouched for is trusted, unless told otherwise."""
    directory = save(tmp_path, panel()).directory
    _damage(directory)
    _vouch(directory)
    load_snapshot(directory)
    with pytest.raises(SnapshotCorrupt, match=r"close\.npy differs"):
        load_snapshot(directory, verify=Verify.ALWAYS)


def test_file_changed_after_it_was_verified_is_read_again(tmp_path: Path) -> None:
    """Also when its size and its time of modification are what they were."""
    directory = save(tmp_path, panel()).directory
    _vouch(directory)
    status = (directory / "close.npy").stat()
    _damage(directory)
    os.utime(directory / "close.npy", ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(SnapshotCorrupt, match=r"close\.npy differs"):
        load_snapshot(directory)


def test_copied_snapshot_is_read_again(tmp_path: Path) -> None:
    """A note that came along from another machine says nothing about the copy."""
    directory = save(tmp_path, panel()).directory
    _damage(directory)
    _vouch(directory)
    shutil.copytree(directory, tmp_path / "copy")
    with pytest.raises(SnapshotCorrupt, match=r"close\.npy differs"):
        load_snapshot(tmp_path / "copy")


def test_verification_can_be_left_to_the_parent(tmp_path: Path) -> None:
    """A child that maps what its parent has just verified compares no byte."""
    directory = save(tmp_path, panel()).directory
    _damage(directory)
    load_snapshot(directory, verify=Verify.NEVER)


def test_damaged_note_is_no_verification(tmp_path: Path) -> None:
    """A note that cannot be read counts as none, and is replaced."""
    directory = save(tmp_path, panel()).directory
    (directory / "verified.json").write_text("[")
    load_snapshot(directory)
    assert json.loads((directory / "verified.json").read_text())["files"]


def test_two_years_of_five_symbols_are_saved_within_a_second(tmp_path: Path) -> None:
    """The daemon writes one before every training."""
    content = panel(bars=2 * 365 * 24, symbols=tuple("ABCDE"))
    start = time.process_time()
    save(tmp_path, content)
    assert time.process_time() - start < 1.0
