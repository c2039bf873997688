"""Which files can be imported, and which reader opens each. Nothing here reads a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from market.bar import interval_ms
from market.importers.binance_archive import open_archive
from market.importers.columns import TEXTS as COLUMN_TEXTS
from market.importers.columns import TIMES, open_candles, open_settlements
from market.importers.freqtrade import open_freqtrade
from market.importers.names import is_binance_name, is_freqtrade_name, named_interval
from market.importers.recording import ImportHints, ImportKind, ImportRejected, Recording
from market.importers.signal_files import TEXTS as SIGNAL_TEXTS
from market.importers.signal_files import is_signals, open_signals
from market.importers.stored import open_stored

_TABLES = (".parquet", ".csv", ".csv.gz")
_TEXTS = tuple({*COLUMN_TEXTS, *TIMES, *SIGNAL_TEXTS})
# What a name should have been, by how it ends.
_UNKNOWN_NAMES = {
    ".zip": "its name is not that of Binance's klines or funding rates, as "
    "BTCUSDT-1m-2023-07.zip and BTCUSDT-fundingRate-2023-07.zip are",
    ".feather": "its name is not that of freqtrade's candles or funding rates, as "
    "BTC_USDT_USDT-1h-futures.feather is",
}
_UNUSED_FOLDERS = {"indexPriceKlines", "premiumIndexKlines", "cm", "option"}


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundFiles:
    """Files to import, and those of the searched folders that are none, with the reason."""

    files: tuple[Path, ...]
    skipped: Mapping[Path, str]


def find_files(paths: Sequence[Path]) -> FoundFiles:
    """List the files that ``paths`` name: files themselves, folders with all that is below them.

    In a folder only files of a known kind are taken; hidden ones are ignored.

    Raises:
        ImportRejected: a path does not exist.
    """
    files: list[Path] = []
    skipped: dict[Path, str] = {}
    for path in paths:
        if not path.exists():
            raise ImportRejected(path, "no such file")
        if not path.is_dir():
            files.append(path)
            continue
        for item in sorted(path.rglob("*")):
            hidden = any(part.startswith(".") for part in item.relative_to(path).parts)
            if hidden or not item.is_file() or item.name.endswith(".CHECKSUM"):
                continue
            reason = _skip_reason(item)
            if reason is None:
                files.append(item)
            else:
                skipped[item] = reason
    return FoundFiles(files=tuple(dict.fromkeys(files)), skipped=skipped)


def open_file(path: Path, hints: ImportHints) -> Recording:
    """Open one file of any form with the reader that its name and columns call for.

    Raises:
        ImportRejected: no reader knows the form, or the reader refuses the file.
    """
    if path.name.endswith(".zip"):
        return open_archive(path, hints)
    if path.name.endswith((".feather", ".json", ".json.gz")):
        return open_freqtrade(path, hints)
    if not path.name.endswith(_TABLES):
        raise ImportRejected(
            path,
            "unknown kind of file; expected .parquet, .csv, .csv.gz, a .zip of Binance's public "
            "data, or freqtrade's .feather, .json or .json.gz",
        )
    stored = open_stored(path, texts=_TEXTS)
    if hints.kind is ImportKind.SIGNALS or is_signals(stored.names):
        return open_signals(stored)
    if hints.kind is ImportKind.SETTLEMENTS or "funding_time" in stored.names:
        return open_settlements(stored, hints)
    return open_candles(stored, hints)


def _skip_reason(path: Path) -> str | None:
    """Why a file in a searched folder is none of ours, told by its name alone."""
    name, folders = path.name, set(path.parts)
    if name.endswith(_TABLES):
        return None
    if not (is_binance_name(name) or is_freqtrade_name(name)):
        return _UNKNOWN_NAMES.get(path.suffix, "not a kind of file that can be imported")
    if is_binance_name(name) and (unused := folders & _UNUSED_FOLDERS):
        return f"a kind of Binance archive that is not used ({', '.join(sorted(unused))})"
    try:
        interval_ms(named_interval(name) or "1h")
    except ValueError as error:
        return str(error)
    return None
