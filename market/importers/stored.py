"""Opens files of named columns (Parquet, CSV, Feather) as one stream of Arrow tables.

It knows formats and no markets: it yields the columns that are asked for, as the file has them,
and turns every fault of the format into ``ImportRejected``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pc_csv
import pyarrow.ipc
import pyarrow.parquet as pq

from market.importers import recording
from market.importers.recording import ImportRejected

# About what BATCH_ROWS bars take as text.
_CSV_BLOCK_BYTES = 8 << 20
_EMPTY = ("", "nan", "NaN", "NAN", "null", "NULL", "None", "NA")
# Microseconds and finer, which no time here has.
_FINER_THAN_MS = r"(:\d\d\.\d{3})\d+"
_CSV_COLUMN = re.compile(r"In CSV column #(\d+): (.*)", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """One open file.

    Attributes:
        path: the file.
        names: its columns, in order.
        types: their Arrow types; ``None`` for CSV, whose cells are text until they are read.
        read: yields the named columns that the file has; raises ``ImportRejected`` where it is
            damaged or a cell of a CSV file is no number.
    """

    path: Path
    names: tuple[str, ...]
    types: Mapping[str, pa.DataType] | None
    read: Callable[[Sequence[str]], Iterator[pa.Table]]


def open_stored(path: Path, *, texts: Sequence[str]) -> Stored:
    """Open a Parquet, Feather or CSV file (``.csv``, ``.csv.gz``) by its name's ending.

    Args:
        path: the file.
        texts: columns that a CSV file holds as text; the others are numbers.

    Raises:
        ImportRejected: the file is not readable, or names a column twice.
    """
    if path.name.endswith((".csv", ".csv.gz")):
        stored = _open_csv(path, texts)
    elif path.suffix == ".feather":
        stored = _open_feather(path)
    else:
        stored = _open_parquet(path)
    twice = sorted({name for name in stored.names if stored.names.count(name) > 1})
    if twice:
        raise ImportRejected(path, f"the column {', '.join(twice)} is there twice")
    return stored


@contextmanager
def faults_named(path: Path, what: str, names: Sequence[str] = ()) -> Iterator[None]:
    """Turn a fault of the format into ``ImportRejected`` that says ``what`` the file is.

    Args:
        path: the file.
        what: such as ``damaged``.
        names: columns of a CSV file, to name the one that a fault is in.
    """
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        fault = _CSV_COLUMN.match(str(error))
        if fault is not None and int(fault[1]) < len(names):
            cause = f"the column {names[int(fault[1])]}: {fault[2]}"
            raise ImportRejected(path, cause) from error
        raise ImportRejected(path, f"{what} ({error})") from error


def times_of(path: Path, name: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Read times as UTC milliseconds: integers, Arrow timestamps, or text (digits or ISO 8601).

    Text without a zone is UTC.

    Raises:
        ImportRejected: a cell is empty or no time.
    """
    if column.null_count:
        raise ImportRejected(path, f"the column {name} has empty cells")
    kind = column.type
    try:
        if pa.types.is_string(kind) or pa.types.is_large_string(kind):
            column = _parse_times(column)
        elif pa.types.is_timestamp(kind):
            column = column.cast(pa.timestamp("ms", kind.tz), safe=False)
        return column.cast(pa.int64())
    except pa.ArrowException as error:
        raise ImportRejected(
            path, f"the column {name}: {error}; expected UTC milliseconds or ISO 8601"
        ) from error


def _parse_times(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if not len(column):
        return column.cast(pa.int64())
    if re.fullmatch(r"-?\d+", column[0].as_py()):
        return column.cast(pa.int64())
    zoned = re.search(r"(Z|[+-]\d\d(:?\d\d)?)$", column[0].as_py()[10:]) is not None
    if pc.any(pc.match_substring(column, ".")).as_py():
        column = pc.replace_substring_regex(column, _FINER_THAN_MS, r"\1")
    return column.cast(pa.timestamp("ms", "UTC" if zoned else None))


def _open_parquet(path: Path) -> Stored:
    with faults_named(path, "not a readable Parquet file"):
        schema = pq.read_schema(path)

    def read(names: Sequence[str]) -> Iterator[pa.Table]:
        present = [name for name in names if name in schema.names]
        with faults_named(path, "damaged"), pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=recording.BATCH_ROWS, columns=present):
                yield pa.Table.from_batches([batch])

    return Stored(path=path, names=tuple(schema.names), types=_types(schema), read=read)


def _open_feather(path: Path) -> Stored:
    with (
        faults_named(path, "not a readable Feather file"),
        pa.memory_map(str(path)) as source,
        pa.ipc.open_file(source) as file,
    ):
        schema = file.schema

    def read(names: Sequence[str]) -> Iterator[pa.Table]:
        present = [name for name in names if name in schema.names]
        with (
            faults_named(path, "damaged"),
            pa.memory_map(str(path)) as source,
            pa.ipc.open_file(source) as file,
        ):
            for number in range(file.num_record_batches):
                rows = pa.Table.from_batches([file.get_batch(number)]).select(present)
                for start in range(0, len(rows), recording.BATCH_ROWS):
                    yield rows.slice(start, recording.BATCH_ROWS)

    return Stored(path=path, names=tuple(schema.names), types=_types(schema), read=read)


def _open_csv(path: Path, texts: Sequence[str]) -> Stored:
    with faults_named(path, "not a readable CSV file"), pa.input_stream(path) as stream:
        reader = pc_csv.open_csv(
            stream, read_options=pc_csv.ReadOptions(block_size=_CSV_BLOCK_BYTES)
        )
        names = tuple(reader.schema.names)

    def read(wanted: Sequence[str]) -> Iterator[pa.Table]:
        present = [name for name in wanted if name in names]
        convert = pc_csv.ConvertOptions(
            include_columns=present,
            column_types={name: pa.string() if name in texts else pa.float64() for name in present},
            null_values=list(_EMPTY),
            strings_can_be_null=True,
        )
        with faults_named(path, "damaged", names), pa.input_stream(path) as stream:
            options = pc_csv.ReadOptions(block_size=_CSV_BLOCK_BYTES)
            for batch in pc_csv.open_csv(stream, read_options=options, convert_options=convert):
                yield pa.Table.from_batches([batch])

    return Stored(path=path, names=names, types=None, read=read)


def _types(schema: pa.Schema) -> dict[str, pa.DataType]:
    return {field.name: field.type for field in schema}


def known(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """An optional number: empty, NaN and infinite cells all mean that the source gave none.

    Integers that float64 does not hold are rounded to it, as the digits of a CSV file are.
    """
    numbers = column.cast(pa.float64(), safe=False)
    return pc.if_else(pc.is_finite(numbers), numbers, pa.scalar(None, pa.float64()))
