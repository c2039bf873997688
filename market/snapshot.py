"""Snapshots: a panel and its instruments, frozen on disk under the hash of their content.

A snapshot is a directory ``<root>/<id>/`` with one ``.npy`` file per panel array and ``meta.json``.
The id is the sha256 of the meta data, which holds the sha256 of every array; so the same content
has the same id on every machine, and a changed byte is found when the snapshot is loaded. Training
reads snapshots only.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from market.instrument import Instrument
from market.panel import ARRAY_FIELDS, Panel

FORMAT_VERSION = 1
_META = "meta.json"
_ARRAYS = ("open_time", *ARRAY_FIELDS)
_DECIMALS = ("tick_size", "lot_step", "min_quantity", "max_quantity", "min_notional")

AnyArray = npt.NDArray[Any]
Meta = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Snapshot:
    """A frozen market history; the arrays of ``panel`` are memory-mapped and read-only."""

    id: str
    venue: str
    panel: Panel
    instruments: tuple[Instrument, ...]
    directory: Path


class SnapshotCorrupt(Exception):
    """The directory does not hold the snapshot that it claims to hold."""


def save_snapshot(
    panel: Panel, instruments: Sequence[Instrument], *, venue: str, root: Path
) -> Snapshot:
    """Write a snapshot under ``root/<id>/`` and return it as ``load_snapshot`` does.

    It is written to a temporary name, flushed to disk and renamed, so a directory with an id is
    complete. A snapshot that is already there is kept if it is sound, and replaced if it is not.

    Args:
        panel: T bars of N symbols.
        instruments: the rules of each of the panel's symbols, in any order.
        venue: where the data are from.
        root: directory of all snapshots; made if absent.

    Raises:
        ValueError: the instruments are not those of the panel's symbols.
        OSError: the disk failed.
    """
    rules = _in_panel_order(panel, instruments)
    arrays = {name: _canonical(getattr(panel, name)) for name in _ARRAYS}
    meta = _describe(panel, rules, venue=venue, arrays=arrays)
    snapshot_id = _content_id(meta)
    directory = root / snapshot_id
    root.mkdir(parents=True, exist_ok=True)
    if directory.exists():
        try:
            return load_snapshot(directory)
        except SnapshotCorrupt:
            shutil.rmtree(directory)
    _write(root, directory, arrays, meta | {"id": snapshot_id})
    return load_snapshot(directory)


def load_snapshot(directory: Path) -> Snapshot:
    """Open a snapshot, memory-mapped, after comparing every byte with its hash.

    Raises:
        SnapshotCorrupt: a file is missing, unreadable, or differs from the recorded hash.
    """
    meta = _read_meta(directory)
    try:
        panel = Panel(
            symbols=tuple(meta["symbols"]),
            interval_ms=meta["interval_ms"],
            **{name: _read_array(directory, name, meta["arrays"][name]) for name in _ARRAYS},
        )
        instruments = tuple(_instrument(facts) for facts in meta["instruments"])
        return Snapshot(
            id=meta["id"],
            venue=meta["venue"],
            panel=panel,
            instruments=instruments,
            directory=directory,
        )
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise SnapshotCorrupt(f"{directory}: {_META} makes no sense ({error!r})") from error


def _in_panel_order(panel: Panel, instruments: Sequence[Instrument]) -> tuple[Instrument, ...]:
    by_symbol = {instrument.symbol: instrument for instrument in instruments}
    if set(by_symbol) != set(panel.symbols) or len(instruments) != len(panel.symbols):
        raise ValueError(
            f"instruments are of {sorted(i.symbol for i in instruments)}, "
            f"the panel of {sorted(panel.symbols)}"
        )
    return tuple(by_symbol[symbol] for symbol in panel.symbols)


def _canonical(array: AnyArray) -> AnyArray:
    """The same values with one byte pattern each: little-endian, in C order, one NaN, one zero."""
    kind = "<i8" if array.dtype.kind in "iu" else "<f8"
    copy = np.array(array, dtype=kind, order="C")
    if kind == "<f8":
        copy[np.isnan(copy)] = np.nan
        copy += 0.0  # −0.0 + 0.0 is 0.0
    return copy


def _describe(
    panel: Panel,
    instruments: Sequence[Instrument],
    *,
    venue: str,
    arrays: Mapping[str, AnyArray],
) -> Meta:
    """Everything that the id covers; ``until`` is the close of the last bar."""
    bars = len(panel)
    return {
        "format": FORMAT_VERSION,
        "venue": venue,
        "symbols": list(panel.symbols),
        "interval_ms": panel.interval_ms,
        "since": int(panel.open_time[0]) if bars else None,
        "until": int(panel.close_time[-1]) if bars else None,
        "bars": bars,
        "observed_bars": dict(zip(panel.symbols, panel.observed.sum(axis=0).tolist(), strict=True)),
        "instruments": [_instrument_facts(instrument) for instrument in instruments],
        "arrays": {name: _facts(array) for name, array in arrays.items()},
    }


def _facts(array: AnyArray) -> Meta:
    digest = hashlib.sha256(array.data if array.size else b"").hexdigest()
    return {"dtype": array.dtype.str, "shape": list(array.shape), "sha256": digest}


def _content_id(meta: Meta) -> str:
    text = json.dumps(meta, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _instrument_facts(instrument: Instrument) -> Meta:
    facts = asdict(instrument)
    for name in _DECIMALS:
        value = facts[name]
        # Normalised: 0.10 and 0.1 are one step, and must give one id.
        facts[name] = None if value is None else format(value.normalize(), "f")
    return facts


def _instrument(facts: Mapping[str, Any]) -> Instrument:
    numbers = {name: None if facts[name] is None else Decimal(facts[name]) for name in _DECIMALS}
    return Instrument(**(dict(facts) | numbers))


def _write(root: Path, directory: Path, arrays: Mapping[str, AnyArray], meta: Meta) -> None:
    partial = Path(tempfile.mkdtemp(dir=root, prefix=".partial-"))
    try:
        for name, array in arrays.items():
            with (partial / f"{name}.npy").open("wb") as file:
                np.save(file, array, allow_pickle=False)
                file.flush()
                os.fsync(file.fileno())
        with (partial / _META).open("w", encoding="utf-8") as text:
            json.dump(meta, text, indent=1, sort_keys=True)
            text.flush()
            os.fsync(text.fileno())
        partial.chmod(0o755)  # mkdtemp makes it private
        _sync_directory(partial)
        _publish(partial, directory)
        _sync_directory(root)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _publish(partial: Path, directory: Path) -> None:
    """Give the finished directory its name; another process may have been first."""
    try:
        partial.rename(directory)
    except OSError:
        if not directory.exists():
            raise


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read_meta(directory: Path) -> Meta:
    path = directory / _META
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SnapshotCorrupt(f"{path} cannot be read ({error})") from error
    if not isinstance(meta, dict) or meta.get("format") != FORMAT_VERSION:
        raise SnapshotCorrupt(f"{path} is not a snapshot of format {FORMAT_VERSION}")
    covered = {name: value for name, value in meta.items() if name != "id"}
    if meta.get("id") != _content_id(covered):
        raise SnapshotCorrupt(f"{path} does not match its own id {meta.get('id')}")
    return meta


def _read_array(directory: Path, name: str, facts: Meta) -> AnyArray:
    path = directory / f"{name}.npy"
    mapped = all(facts["shape"])  # numpy cannot map an array without values
    try:
        array: AnyArray = np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise SnapshotCorrupt(f"{path} cannot be read ({error})") from error
    if _facts(array) != facts:
        raise SnapshotCorrupt(f"{path} differs from what was saved: make the snapshot again")
    return array
