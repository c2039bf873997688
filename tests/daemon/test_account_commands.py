"""``ballast account report`` and ``export`` from the outside: figures, files and exit codes."""

from __future__ import annotations

import json
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest

from broker.account import open_account
from broker.orders import Fill, Order, RejectReason, fill_id, order_id
from broker.records import DecisionRecord
from broker.store import Store
from daemon.cli import main
from daemon.targets import row_time
from market.bar import HOUR_MS
from tests.broker.diary import Diary
from tests.broker.factories import BTC, record

START = 1_700_000_000_000 - 1_700_000_000_000 % HOUR_MS
TABLES = ("entries", "postings", "fills", "orders", "rejections", "decisions")


def config(folder: Path) -> list[str]:
    """Options of an account whose ledger lies in ``folder``."""
    path = folder / "ballast.toml"
    path.write_text(f'state_dir = "{folder}"\n[log]\nlevel = "error"\n', encoding="utf-8")
    return ["--config", str(path)]


def bought_and_sold(folder: Path, *, equity_off_by: float = 0.0) -> list[str]:
    """Make a ledger: 1000 paid in, 2 bought at 101 (100), marked at 110, 1 sold at 119 (120)."""
    diary = Diary()
    diary.deposit("1000", time=START)
    idle = diary.decide(START + HOUR_MS, {BTC: "100"})
    diary.trade(BTC, "2", "100", "101", "0.2", time=START + HOUR_MS + 1)
    middle = diary.decide(START + 2 * HOUR_MS, {BTC: "110"})
    diary.trade(BTC, "-1", "120", "119", "0.2", time=START + 2 * HOUR_MS + 1)
    last = diary.decide(START + 3 * HOUR_MS, {BTC: "115"})
    last = replace(last, equity=last.equity + equity_off_by)
    options = config(folder)
    store = Store.open(f"sqlite:///{folder}/ledger.sqlite")
    store.create_account(diary.entries[0])
    store.post_entries(diary.entries[1:])
    before = 1000.0
    for decision in (idle, middle, last):
        store.commit_decision(figured(decision, before))
        before = decision.equity
    store.close()
    return options


def figured(decision: DecisionRecord, before: float) -> DecisionRecord:
    """Put the return on a decision, and an exposure of a fifth of what it holds."""
    return replace(
        decision, net_return=decision.equity / before - 1, turnover=0.5, weights={BTC: 0.2}
    )


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Run a command; exit code, stdout, stderr."""
    code = main(["account", *arguments])
    done = capsys.readouterr()
    return code, done.out, done.err


def test_the_report_in_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Equity 1000, 1017.8, 1031.6: 3.16 %, of which the market made 35 and trading took 3.4."""
    options = bought_and_sold(tmp_path)
    code, out, _ = answer(capsys, "report", "--json", *options)
    document = json.loads(out)
    assert code == 0
    metrics, found = document["metrics"], document["attribution"]
    assert document["since"] is None
    assert document["until"] == row_time(START + 3 * HOUR_MS)
    assert document["bar_ms"] == HOUR_MS
    assert metrics["bars"] == 3
    assert metrics["total_return"] == pytest.approx(0.0316)
    assert metrics["turnover_per_day"] == pytest.approx(12)
    assert metrics["gross_exposure"] == pytest.approx(0.2)
    assert metrics["sortino"] is None
    assert {name: Decimal(value) for name, value in found["symbols"][BTC].items()} == {
        "price": 35, "slippage": -3, "fee": Decimal("-0.4"), "funding": 0, "liquidation": 0,
        "insurance": 0, "total": Decimal("31.6"),
    }  # fmt: skip
    assert Decimal(found["closing_equity"]) == Decimal("1031.6")


def test_a_report_between_two_decisions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It begins at the last decision before --since, in the attribution and in the metrics."""
    options = bought_and_sold(tmp_path)
    since = str(START + 2 * HOUR_MS + 1)
    code, out, _ = answer(capsys, "report", "--since", since, "--json", *options)
    document = json.loads(out)
    assert code == 0
    assert document["since"] == row_time(START + 2 * HOUR_MS)
    assert document["metrics"]["total_return"] == pytest.approx(1031.6 / 1017.8 - 1)
    assert Decimal(document["attribution"]["total"]["total"]) == Decimal("13.8")
    until = str(START + 2 * HOUR_MS)
    _, out, _ = answer(capsys, "report", "--until", until, "--json", *options)
    assert Decimal(json.loads(out)["attribution"]["closing_equity"]) == Decimal("1017.8")


def test_the_report_as_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Cents, aligned, with a dash for what is not defined and a sum at the end."""
    code, out, _ = answer(capsys, "report", *bought_and_sold(tmp_path))
    lines = {line[:20].split("  ")[0]: line.split() for line in out.splitlines() if line}
    assert code == 0
    assert lines["total return"][-1] == "3.16%"
    assert lines["sortino"][-1] == "-"
    sums = ["35.00", "-3.00", "-0.40", "0.00", "0.00", "0.00", "31.60"]
    assert lines[BTC] == [BTC, *sums]
    assert lines["total"] == ["total", *sums]


def test_a_ledger_that_does_not_add_up_is_not_reported_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line that names the account and the decision, exit code 1, nothing on stdout."""
    code, out, error = answer(capsys, "report", *bought_and_sold(tmp_path, equity_off_by=0.01))
    assert (code, out) == (1, "")
    (line,) = error.splitlines()
    assert "account main" in line
    assert str(START + 3 * HOUR_MS) in line


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--until", str(START)], "no decision at or before"),
        (["--since", str(START + 9 * HOUR_MS)], "no decision between"),
        (["--since", "soon"], "--since"),
        (["--since", "2024-02-01", "--until", "2024-01-01"], "is not before"),
        (["--account", "other"], "known: main"),
    ],
)
def test_a_span_without_decisions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], word: str
) -> None:
    """It is bad input: one line, exit code 2."""
    code, out, error = answer(capsys, "report", *arguments, *bought_and_sold(tmp_path))
    assert (code, out) == (2, "")
    (line,) = error.splitlines()
    assert word in line


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_export_writes_a_file_for_each_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], suffix: str
) -> None:
    """The summary names files, rows and the end of the chain; a second time needs --force."""
    options = bought_and_sold(tmp_path)
    folder = tmp_path / "audit" / "2024"
    export = ["export", "--format", suffix, "--out", str(folder), "--json", *options]
    code, out, _ = answer(capsys, *export)
    document = json.loads(out)
    assert code == 0
    assert {one["table"]: one["rows"] for one in document["files"]} == {
        "entries": 3, "postings": 11, "fills": 0, "orders": 0, "rejections": 0, "decisions": 3,
    }  # fmt: skip
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        f"{table}.{suffix}" for table in TABLES
    )
    assert document["last_sequence"] == 3
    assert len(document["last_hash"]) == 64
    code, out, error = answer(capsys, *export)
    assert (code, out) == (2, "")
    assert "--force" in error
    assert answer(capsys, *export, "--force")[0] == 0


def test_export_to_a_place_that_cannot_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file in the way is named; exit code 2."""
    options = bought_and_sold(tmp_path)
    (tmp_path / "out").touch()
    for place in (tmp_path / "out", tmp_path / "out" / "deeper"):
        code, _, error = answer(capsys, "export", "--format", "csv", "--out", str(place), *options)
        assert code == 2
        assert str(place) in error


def test_fills_say_their_id_and_why_they_are_partial(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """``--json`` has what recompute asks for and the book that was walked, the table the reason."""
    options = config(tmp_path)
    store = Store.open(f"sqlite:///{tmp_path}/ledger.sqlite")
    _, opening = open_account("main", deposit=Decimal(9_000), quote="USDT", time=START)
    store.create_account(opening)
    order = Order(
        order_id=order_id("main", START, BTC), symbol=BTC, decision_time=START,
        quantity=Decimal(2), decision_price=Decimal(100),
    )  # fmt: skip
    fill = Fill(
        fill_id=fill_id(order), order_id=order.order_id, symbol=BTC, event_time=START + 500,
        quantity=Decimal(1), reference_price=Decimal(100), fill_price=Decimal(101),
        fee=Decimal("0.05"), slippage=Decimal(1), shortfall=RejectReason.BOOK_EXHAUSTED,
        book_id=f"{BTC}@{START}@{START + 400}",
    )  # fmt: skip
    store.commit_decision(record(START, equity=9_000.0), (), [order], [fill])
    store.close()
    code, out, _ = answer(capsys, "fills", "--json", *options)
    (row,) = json.loads(out)
    assert code == 0
    assert (row["fill_id"], row["book_id"]) == (fill.fill_id, fill.book_id)
    assert row["shortfall"] == "book_exhausted"
    _, table, _ = answer(capsys, "fills", *options)
    assert table.splitlines()[1].endswith("book_exhausted")


@pytest.mark.parametrize("verb", ["equity", "fills", "journal"])
def test_a_limit_is_a_number_of_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    """None and fewer are refused instead of meaning everything."""
    options = bought_and_sold(tmp_path)
    for limit in ("0", "-2"):
        code, out, error = answer(capsys, verb, "--limit", limit, *options)
        assert (code, out) == (2, "")
        assert f"--limit {limit}: must be at least 1" in error
    assert answer(capsys, verb, "--limit", "1", *options)[0] == 0
