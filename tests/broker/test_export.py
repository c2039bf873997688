"""An account as files: nothing lost, nothing rounded, and the chain can be checked without us."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import pyarrow.parquet as pq
import pytest

from broker.export import TABLES, ExportFormat, ExportRefused, export_account, schema_of
from broker.store import Store
from tests.broker.journeys import journey

DOCS = Path(__file__).parents[2] / "docs" / "account.md"
BOTH = pytest.mark.parametrize("file_format", ExportFormat)
Rows: TypeAlias = list[Mapping[str, object]]


def filled(store: Store, *account_ids: str) -> Store:
    """Put the same short life into each account."""
    for account_id in account_ids:
        opening, commits, _ = journey(account_id=account_id)
        store.create_account(opening)
        store.commit_decisions(commits)
    return store


def read(folder: Path, table: str, file_format: ExportFormat) -> Rows:
    """Rows of an exported file, by other means than those that wrote it."""
    path = folder / f"{table}.{file_format}"
    if file_format is ExportFormat.PARQUET:
        return list(pq.read_table(path).to_pylist())
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def chain_ends_at(entries: Rows, postings: Rows) -> str:
    """Compute the hash chain of exported entries as docs/account.md says, and return its end."""
    legs: dict[str, list[Sequence[object]]] = {}
    for row in postings:
        leg = [row["ledger_account"], row["currency"], row["amount"]]
        legs.setdefault(str(row["sequence"]), []).append(leg)
    previous = "0" * 64
    for row in entries:
        content = json.dumps(
            [
                *(row["entry_id"], row["account_id"], row["kind"], row["symbol"] or None),
                *(int(str(row["event_time"])), int(str(row["posted_at"]))),
                legs[str(row["sequence"])],
                sorted(json.loads(str(row["facts"])).items()),
            ],
            separators=(",", ":"),
            ensure_ascii=False,
        )
        content_hash = hashlib.sha256(content.encode()).hexdigest()
        assert row["content_hash"] == content_hash
        previous = hashlib.sha256(f"{previous}{content_hash}".encode()).hexdigest()
        assert row["hash"] == previous
    return previous


@BOTH
def test_the_files_alone_prove_the_chain(
    store: Store, tmp_path: Path, file_format: ExportFormat
) -> None:
    """Every entry and posting is there, to the letter: the hashes can be computed again."""
    filled(store, "main")
    done = export_account(store.engine, "main", tmp_path, file_format=file_format)
    entries = read(tmp_path, "entries", file_format)
    assert len(entries) == done.last_sequence == len(store.entries("main"))
    assert chain_ends_at(entries, read(tmp_path, "postings", file_format)) == done.last_hash


@BOTH
def test_every_row_comes_out_as_it_is_stored(
    store: Store, tmp_path: Path, file_format: ExportFormat
) -> None:
    """Amounts are the same text, and what the account never had is left open."""
    filled(store, "main", "other")
    done = export_account(store.engine, "main", tmp_path, file_format=file_format)
    rows = {name: read(tmp_path, name, file_format) for name in (one.name for one in TABLES)}
    assert {one.table: one.rows for one in done.files} == {
        name: len(found) for name, found in rows.items()
    }
    assert {row["account_id"] for found in rows.values() for row in found} == {"main"}
    fills, orders = store.fills("main"), store.orders("main")
    assert [(row["fill_id"], row["fill_price"], row["fee"]) for row in rows["fills"]] == [
        (one.fill_id, format(one.fill_price, "f"), format(one.fee, "f")) for one in fills
    ]
    assert [(row["order_id"], row["quantity"]) for row in rows["orders"]] == [
        (one.order_id, format(one.quantity, "f")) for one in orders
    ]
    assert [row["wanted_quantity"] for row in rows["rejections"]] == [
        format(one.wanted_quantity, "f") for one in store.rejections("main")
    ]
    last, decision = rows["decisions"][-1], store.decisions("main")[-1]
    assert float(str(last["equity"])) == decision.equity
    assert json.loads(str(last["weights"])) == decision.weights
    assert len(fills) > 10
    assert rows["rejections"]


def test_files_that_exist_are_not_replaced_unasked(store: Store, tmp_path: Path) -> None:
    """One of six is enough to refuse; nothing is written, and the other format is no obstacle."""
    filled(store, "main")
    folder = tmp_path / "out"
    folder.mkdir()
    kept = folder / "fills.csv"
    kept.write_text("mine", encoding="utf-8")
    with pytest.raises(ExportRefused, match=r"has fills\.csv already; --force"):
        export_account(store.engine, "main", folder, file_format=ExportFormat.CSV)
    assert [path.name for path in folder.iterdir()] == ["fills.csv"]
    export_account(store.engine, "main", folder, file_format=ExportFormat.PARQUET)
    assert kept.read_text(encoding="utf-8") == "mine"
    export_account(store.engine, "main", folder, file_format=ExportFormat.CSV, force=True)
    assert kept.read_text(encoding="utf-8").startswith('"fill_id"')


def test_an_export_that_fails_leaves_nothing(store: Store, tmp_path: Path) -> None:
    """Interrupted at the fills: no file has a name yet, and none is left half."""
    filled(store, "main")
    folder = tmp_path / "out"

    def interrupt(table: str, done: int, total: int) -> None:
        if table == "fills":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_account(
            store.engine, "main", folder, file_format=ExportFormat.CSV, progress=interrupt
        )
    assert list(folder.iterdir()) == []


@BOTH
def test_all_files_are_of_one_moment(
    store: Store, tmp_path: Path, file_format: ExportFormat
) -> None:
    """What is committed while the files are written is in all of them or in none."""
    opening, commits, _ = journey()
    store.create_account(opening)
    store.commit_decisions(commits[:20])

    def go_on(table: str, done: int, total: int) -> None:
        if table == "entries":
            store.commit_decisions(commits[20:])

    done = export_account(store.engine, "main", tmp_path, file_format=file_format, progress=go_on)
    assert len(store.entries("main")) > done.last_sequence
    assert len(read(tmp_path, "decisions", file_format)) == 20
    postings = read(tmp_path, "postings", file_format)
    assert chain_ends_at(read(tmp_path, "entries", file_format), postings) == done.last_hash
    assert {int(str(row["sequence"])) for row in postings} == set(range(1, done.last_sequence + 1))


def test_a_folder_that_is_a_file_is_refused(store: Store, tmp_path: Path) -> None:
    """The message names it."""
    path = tmp_path / "out"
    path.touch()
    with pytest.raises(ExportRefused, match="out is not a folder"):
        export_account(store.engine, "main", path, file_format=ExportFormat.CSV)


def test_every_column_is_documented() -> None:
    """A column that the ledger gains is explained to those who read the files."""
    text = DOCS.read_text(encoding="utf-8")
    sections = text.split("### `")[1:]
    told = {section.split("`")[0]: section for section in sections}
    for table in TABLES:
        missing = [name for name in schema_of(table).names if f"`{name}`" not in told[table.name]]
        assert not missing, f"{table.name}: {missing}"
