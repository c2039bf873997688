"""Snapshots: a panel, its signals and its instruments, frozen under the hash of their content.

A snapshot is a directory ``<root>/<id>/`` with one ``.npy`` file per array and ``meta.json``. The
id is the sha256 of the meta data, which holds the sha256 of every array; so the same content has
the same id on every machine, and a changed byte is found. Training reads snapshots only, and maps
them: all processes of a machine share one copy in the page cache.

**Every byte is compared once per machine.** What was found sound is noted in ``verified.json`` with
the identity of each file (device, inode, size, times); while those stay, later loads map the files
without reading them. A copied, restored or changed file has another identity and is compared again.
"""

from __future__ import annotations

import enum
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from market.instrument import Instrument, instrument_facts, read_instrument
from market.panel import ARRAY_FIELDS, Float32Array, Panel
from market.signals import Signal

FORMAT_VERSION = 2
TENSOR_COLUMNS = ("open", "high", "low", "close", "volume")
_META = "meta.json"
_STAMP = "verified.json"
_PANEL = ("open_time", *ARRAY_FIELDS)
_TENSOR = "tensor"
_SIGNAL_NUMBERS = (
    "event_time", "published_at", "ingested_at", "value", "is_backfilled", "lag_ms",
)  # fmt: skip
_SIGNAL_ARRAYS = tuple(f"signal_{name}" for name in ("stream", *_SIGNAL_NUMBERS))
_ARRAYS = (*_PANEL, _TENSOR, *_SIGNAL_ARRAYS)
# A file can change twice within one tick of the file system's clock, and look unchanged.
_TICK_NS = 100_000_000

AnyArray = npt.NDArray[Any]
Meta = dict[str, Any]


class Verify(enum.Enum):
    """When the bytes of a snapshot are compared with their hashes."""

    ONCE = "once"  # unless this machine has found these very files sound before
    ALWAYS = "always"
    NEVER = "never"  # somebody else has just done it


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Snapshot:
    """A frozen market history; its arrays are memory-mapped and read-only.

    Attributes:
        tensor: (T, N, C) float32, the panel's ``TENSOR_COLUMNS`` for training.
        signals: every signal, by stream, symbol and time.
    """

    id: str
    venue: str
    panel: Panel
    tensor: Float32Array
    signals: tuple[Signal, ...]
    instruments: tuple[Instrument, ...]
    directory: Path


class SnapshotCorrupt(Exception):
    """The directory does not hold the snapshot that it claims to hold."""


def save_snapshot(
    panel: Panel,
    instruments: Sequence[Instrument],
    *,
    venue: str,
    root: Path,
    signals: Sequence[Signal] = (),
) -> Snapshot:
    """Write a snapshot under ``root/<id>/`` and return it as ``load_snapshot`` does.

    It is written to a temporary name, flushed to disk and renamed, so a directory with an id is
    complete. A snapshot that is already there is kept if it is sound, and replaced if it is not.

    Args:
        panel: T bars of N symbols.
        instruments: the rules of each of the panel's symbols, in any order.
        venue: where the data are from.
        root: directory of all snapshots; made if absent.
        signals: in any order, each once.

    Raises:
        ValueError: the instruments are not those of the panel's symbols.
        OSError: the disk failed.
    """
    rules = _in_panel_order(panel, instruments)
    streams = sorted({_stream(signal) for signal in signals})
    # Made one by one and twice, to be hashed and to be written: never all in memory at once.
    makers = _array_makers(panel, sorted(signals, key=_signal_order), streams)
    facts = {name: _facts(make()) for name, make in makers.items()}
    meta = _describe(panel, rules, venue=venue, arrays=facts) | {"signal_streams": streams}
    snapshot_id = _content_id(meta)
    directory = root / snapshot_id
    root.mkdir(parents=True, exist_ok=True)
    if directory.exists():
        try:
            return load_snapshot(directory)
        except SnapshotCorrupt:
            shutil.rmtree(directory)
    _write(root, directory, makers, meta | {"id": snapshot_id})
    return load_snapshot(directory)


def load_snapshot(directory: Path, *, verify: Verify = Verify.ONCE) -> Snapshot:
    """Open a snapshot, memory-mapped.

    Raises:
        SnapshotCorrupt: a file is missing, unreadable, or differs from the recorded hash, or an
            older Ballast wrote the snapshot.
    """
    meta = _read_meta(directory)
    before = _identities(directory)
    compare = verify is Verify.ALWAYS or (verify is Verify.ONCE and not _is_stamped(directory))
    try:
        arrays = {
            name: _read_array(directory, name, meta["arrays"][name], compare=compare)
            for name in _ARRAYS
        }
        snapshot = Snapshot(
            id=meta["id"],
            venue=meta["venue"],
            panel=Panel(
                symbols=tuple(meta["symbols"]),
                interval_ms=meta["interval_ms"],
                **{name: arrays[name] for name in _PANEL},
            ),
            tensor=arrays[_TENSOR],
            signals=tuple(_signals(arrays, meta["signal_streams"])),
            instruments=tuple(read_instrument(facts) for facts in meta["instruments"]),
            directory=directory,
        )
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise SnapshotCorrupt(f"{directory}: {_META} makes no sense ({error!r})") from error
    if compare:
        _stamp(directory, before)
    return snapshot


def _array_makers(
    panel: Panel, signals: Sequence[Signal], streams: Sequence[tuple[str, ...]]
) -> dict[str, Callable[[], AnyArray]]:
    """How to make each array of the snapshot, in its canonical bytes."""
    code = {stream: idx for idx, stream in enumerate(streams)}
    columns: dict[str, list[float]] = {
        name: [getattr(signal, name) for signal in signals] for name in _SIGNAL_NUMBERS
    }
    numbers = {
        f"signal_{name}": np.array(values, dtype="<f8" if name == "value" else "<i8")
        for name, values in columns.items()
    }
    numbers["signal_stream"] = np.array([code[_stream(one)] for one in signals], dtype="<i8")
    plain = {name: getattr(panel, name) for name in _PANEL} | numbers
    makers: dict[str, Callable[[], AnyArray]] = {
        name: partial(_canonical, array) for name, array in plain.items()
    }
    makers[_TENSOR] = partial(_tensor, panel)
    return {name: makers[name] for name in _ARRAYS}


def _tensor(panel: Panel) -> AnyArray:
    """(T, N, C) little-endian float32."""
    shape = (len(panel), len(panel.symbols), len(TENSOR_COLUMNS))
    tensor = np.empty(shape, dtype="<f4")
    for idx, name in enumerate(TENSOR_COLUMNS):
        tensor[:, :, idx] = getattr(panel, name)
    tensor[np.isnan(tensor)] = np.nan
    tensor += np.float32(0.0)  # −0.0 + 0.0 is 0.0
    return tensor


def _stream(signal: Signal) -> tuple[str, ...]:
    return (signal.source, signal.version, signal.name, signal.symbol)


def _signal_order(signal: Signal) -> tuple[object, ...]:
    return (*_stream(signal), *(getattr(signal, name) for name in _SIGNAL_NUMBERS))


def _signals(arrays: Mapping[str, AnyArray], streams: Sequence[Sequence[str]]) -> Iterator[Signal]:
    columns = [arrays[name].tolist() for name in _SIGNAL_ARRAYS]
    for code, event_time, published_at, ingested_at, value, backfilled, lag_ms in zip(
        *columns, strict=True
    ):
        source, version, name, symbol = streams[code]
        yield Signal(
            source=source,
            version=version,
            name=name,
            symbol=symbol,
            event_time=event_time,
            published_at=published_at,
            ingested_at=ingested_at,
            value=value,
            is_backfilled=bool(backfilled),
            lag_ms=lag_ms,
        )


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
    arrays: Mapping[str, Meta],
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
        "instruments": [instrument_facts(instrument) for instrument in instruments],
        "arrays": dict(arrays),
    }


def _facts(array: AnyArray) -> Meta:
    digest = hashlib.sha256(array.data if array.size else b"").hexdigest()
    return {"dtype": array.dtype.str, "shape": list(array.shape), "sha256": digest}


def _content_id(meta: Meta) -> str:
    text = json.dumps(meta, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _write(
    root: Path, directory: Path, makers: Mapping[str, Callable[[], AnyArray]], meta: Meta
) -> None:
    unfinished = Path(tempfile.mkdtemp(dir=root, prefix=".partial-"))
    try:
        for name, make in makers.items():
            with (unfinished / f"{name}.npy").open("wb") as file:
                np.save(file, make(), allow_pickle=False)
                file.flush()
                os.fsync(file.fileno())
        with (unfinished / _META).open("w", encoding="utf-8") as text:
            json.dump(meta, text, indent=1, sort_keys=True)
            text.flush()
            os.fsync(text.fileno())
        unfinished.chmod(0o755)  # mkdtemp makes it private
        _sync_directory(unfinished)
        _publish(unfinished, directory)
        _sync_directory(root)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _publish(unfinished: Path, directory: Path) -> None:
    """Give the finished directory its name; another process may have been first."""
    try:
        unfinished.rename(directory)
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
        found = meta.get("format") if isinstance(meta, dict) else None
        raise SnapshotCorrupt(
            f"{path} is of format {found}, and this Ballast reads format {FORMAT_VERSION}: "
            "make the snapshot again with ballast snapshot"
        )
    covered = {name: value for name, value in meta.items() if name != "id"}
    if meta.get("id") != _content_id(covered):
        raise SnapshotCorrupt(f"{path} does not match its own id {meta.get('id')}")
    return meta


def _read_array(directory: Path, name: str, facts: Meta, *, compare: bool) -> AnyArray:
    path = directory / f"{name}.npy"
    mapped = all(facts["shape"])  # numpy cannot map an array without values
    try:
        array: AnyArray = np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise SnapshotCorrupt(f"{path} cannot be read ({error})") from error
    found = _facts(array) if compare else {"dtype": array.dtype.str, "shape": list(array.shape)}
    if found | {"sha256": found.get("sha256", facts["sha256"])} != facts:
        raise SnapshotCorrupt(f"{path} differs from what was saved: make the snapshot again")
    return array


def _identities(directory: Path) -> dict[str, list[int]]:
    """What the file system says about each array's file; a missing file has none."""
    found = {}
    for name in _ARRAYS:
        try:
            status = (directory / f"{name}.npy").stat()
        except OSError:
            continue
        found[name] = [
            *(status.st_dev, status.st_ino, status.st_size),
            *(status.st_mtime_ns, status.st_ctime_ns),
        ]
    return found


def _is_stamped(directory: Path) -> bool:
    """Whether these very files were found sound, long enough after they last changed."""
    path = directory / _STAMP
    try:
        stamped_at = path.stat().st_mtime_ns
        files = json.loads(path.read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    found = _identities(directory)
    newest = max((times[-1] for times in found.values()), default=0)
    return bool(files == found and stamped_at - newest >= _TICK_NS)


def _stamp(directory: Path, found: Mapping[str, list[int]]) -> None:
    """Note that the files were sound as they were before they were read; a read-only place stays.

    Renamed into place: another process may be reading the note.
    """
    try:
        with tempfile.NamedTemporaryFile(
            "w", dir=directory, prefix=".stamp-", delete=False, encoding="utf-8"
        ) as file:
            json.dump({"files": found}, file)
        Path(file.name).replace(directory / _STAMP)
    except OSError:
        return
