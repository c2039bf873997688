"""An independent book-keeper (beancount) checks the journal of a simulated year."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from broker.ledger import Entry, EntryKind
from broker.store import Store
from tests.simulation.histories import ACCOUNT, carry_on, make_history, make_job, make_schedule

loader = pytest.importorskip("beancount.loader", reason="beancount is not installed")
realization = pytest.importorskip("beancount.core.realization")
validation = pytest.importorskip("beancount.ops.validation")

SEED = 9
DAY_BARS = 24
HEAD = 'option "title" "simulated"\noption "operating_currency" "USDT"\n'


@dataclass(frozen=True)
class Journal:
    """The stored entries, the sums of their postings by (ledger account, currency), and a text."""

    entries: list[Entry]
    sums: dict[tuple[str, str], Decimal]
    text: str


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(14, id="two weeks"),
        pytest.param(365, id="year", marks=[pytest.mark.simulation, pytest.mark.timeout(1_800)]),
    ],
)
def journal(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Journal:
    """Rebalance daily, long and short, with funding; read the ledger; write beancount's format."""
    world = make_history(SEED, decisions=request.param * DAY_BARS)
    store = Store.open(f"sqlite:///{tmp_path_factory.mktemp('journal')}/ledger.db")
    carry_on(make_job(world, make_schedule(world, SEED, every=DAY_BARS)), world, store)
    entries = store.entries(ACCOUNT)
    assert store.check(ACCOUNT) == []
    store.close()
    sums: dict[tuple[str, str], Decimal] = {}
    for entry in entries:
        for leg in entry.postings:
            key = (leg.ledger_account, leg.currency)
            sums[key] = sums.get(key, Decimal(0)) + leg.amount
    return Journal(entries, sums, "\n".join(written(entries, sums)))


def written(entries: list[Entry], sums: dict[tuple[str, str], Decimal]) -> Iterator[str]:
    """Beancount's format: accounts opened, one transaction per entry, balances asserted.

    Every amount has eight decimals, so that beancount's tolerance is below the quantum.
    """
    yield HEAD
    days = sorted(day(entry) for entry in entries)
    for name, currency in sums:
        yield f"{days[0]} open {account(name)} {commodity(currency)}"
    for entry in entries:
        yield f'\n{day(entry)} * "{entry.kind.value}" "{entry.entry_id}"'
        for leg in entry.postings:
            amount = f"{leg.amount:.8f}"
            assert Decimal(amount) == leg.amount
            yield f"  {account(leg.ledger_account)}  {amount} {commodity(leg.currency)}"
    yield ""
    after = days[-1] + timedelta(days=1)
    for (name, currency), total in sums.items():
        yield f"{after} balance {account(name)}  {total:.8f} ~ 0 {commodity(currency)}"


def day(entry: Entry) -> date:
    """The date of an entry, by when it happened."""
    return datetime.fromtimestamp(entry.event_time / 1_000, UTC).date()


def account(name: str) -> str:
    """``assets:position:BTC/USDT:USDT`` as ``Assets:Position:BTC-USDT-USDT``."""
    side, kind, *symbol = name.split(":", maxsplit=2)
    return ":".join([side.title(), kind.title(), *map(commodity, symbol)])


def commodity(currency: str) -> str:
    """A symbol as beancount writes commodities."""
    return currency.replace("/", "-").replace(":", "-")


def checked(text: str, folder: Path) -> tuple[list[object], list[object]]:
    """What ``bean-check`` does: load the file with every validation; entries and errors."""
    path = folder / "journal.beancount"
    path.write_text(text, encoding="utf-8")
    entries, errors, _ = loader.load_file(
        str(path), extra_validations=validation.HARDCORE_VALIDATIONS
    )
    return entries, errors


def test_beancount_accepts_the_journal(journal: Journal, tmp_path: Path) -> None:
    """No error; and its balance of every account is the store's sum, to the last quantum."""
    entries, errors = checked(journal.text, tmp_path)
    assert errors == []
    tree = realization.realize(entries)
    for (name, currency), total in journal.sums.items():
        balance = realization.get(tree, account(name)).balance
        assert balance.get_currency_units(commodity(currency)).number == total, name
    kinds = [entry.kind for entry in journal.entries]
    print(f"\n{len(kinds)} entries, {len(journal.sums)} accounts, 0 errors")


def test_the_journal_has_what_an_account_can_have(journal: Journal) -> None:
    """Fills, funding, and both longs and shorts: otherwise the check would prove little."""
    kinds = {entry.kind for entry in journal.entries}
    assert kinds >= {EntryKind.DEPOSIT, EntryKind.FILL, EntryKind.FUNDING}
    held = [Decimal(entry.facts["position"]) for entry in journal.entries if fills(entry)]
    assert min(held) < 0 < max(held)
    assert len({entry.symbol for entry in journal.entries}) > 3


def fills(entry: Entry) -> bool:
    """Whether an entry is a fill."""
    return entry.kind is EntryKind.FILL


def without_a_posting(lines: list[str]) -> Iterable[str]:
    """Drop the wallet's leg of one fill in the middle."""
    legs = [at for at, line in enumerate(lines) if line.startswith("  Assets:Wallet")]
    gone = legs[len(legs) // 2]
    return [*lines[:gone], *lines[gone + 1 :]]


def with_another_quantum(lines: list[str]) -> Iterable[str]:
    """Change one fee by 1e-8."""
    at = next(at for at, line in enumerate(lines) if line.startswith("  Expenses:Fees"))
    name, amount, currency = lines[at].split()
    return [
        *lines[:at],
        f"  {name}  {Decimal(amount) + Decimal('1e-8')} {currency}",
        *lines[at + 1 :],
    ]


def without_an_entry(lines: list[str]) -> Iterable[str]:
    """Leave a whole transaction out: it balances, and the sums do not."""
    starts = [at for at, line in enumerate(lines) if ' * "funding"' in line]
    at = starts[len(starts) // 2]
    return [*lines[:at], *lines[at + 3 :]]


@pytest.mark.parametrize("damage", [without_a_posting, with_another_quantum, without_an_entry])
def test_beancount_would_notice(
    damage: Callable[[list[str]], Iterable[str]], journal: Journal, tmp_path: Path
) -> None:
    """A posting less, a quantum more, an entry less: each is an error."""
    _, errors = checked("\n".join(damage(journal.text.splitlines())), tmp_path)
    assert errors
