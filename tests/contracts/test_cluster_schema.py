"""The cluster's schema is the schema of market/schema, replicated and distributed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from market import migrations
from market.tables import TABLE_NAMES

CLUSTER = Path(__file__).parents[2] / "deploy" / "clickhouse" / "cluster.sql"
_TABLE = re.compile(
    r"CREATE TABLE IF NOT EXISTS (?P<name>\w+)(?P<cluster> ON CLUSTER ballast)?\s*"
    r"\((?P<columns>.*?)\)\s*ENGINE = (?P<engine>\w+)(?:\((?P<arguments>.*?)\))?\s*"
    r"(?P<rest>(?:PARTITION|ORDER) BY .*)",
    re.DOTALL,
)

_CHANGE = re.compile(
    r"ALTER TABLE (?P<name>\w+)\s+ADD COLUMN IF NOT EXISTS (?P<column>.+?),\s+"
    r"MODIFY ORDER BY (?P<key>\(.*\))",
    re.DOTALL,
)
_SETTING = re.compile(r"ALTER TABLE (?P<name>\w+)\s+MODIFY SETTING (?P<settings>.+)", re.DOTALL)


def _tables(statements: list[str]) -> dict[str, tuple[str, str, str, str]]:
    """Columns, engine, version column, and keys with settings, of every MergeTree table."""
    found = {}
    for statement in statements:
        match = _TABLE.match(statement.strip())
        if match is not None:
            version = (match["arguments"] or "").split("'")[-1].strip(", ")
            words = [" ".join(match[part].split()) for part in ("columns", "engine", "rest")]
            found[match["name"]] = (words[0], words[1], version, words[2])
    return found


def _here() -> dict[str, tuple[str, str, str, str]]:
    statements = [text for each in migrations.load_migrations() for text in each.statements]
    tables = _tables([text.rstrip(";") for text in (migrations.CREATE_TABLE, *statements)])
    for match in filter(None, map(_CHANGE.match, statements)):
        columns, engine, version, rest = tables[match["name"]]
        key = " ".join(match["key"].split())
        settings = rest.partition(" SETTINGS")
        changed = f"{settings[0].split('ORDER BY ')[0]}ORDER BY {key}{settings[1]}{settings[2]}"
        tables[match["name"]] = (f"{columns}, {match['column']}", engine, version, changed)
    for match in filter(None, map(_SETTING.match, statements)):
        columns, engine, version, rest = tables[match["name"]]
        more = " ".join(match["settings"].split())
        tables[match["name"]] = (columns, engine, version, f"{rest}, {more}")
    return tables


def _cluster() -> list[str]:
    text = re.sub(r"^\s*--.*$", "", CLUSTER.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return [statement.strip().rstrip(";") for statement in text.split(";\n")]


def test_every_table_is_known_here() -> None:
    """The reader below finds each table of the warehouse, so the comparison leaves none out."""
    assert set(_here()) == {*TABLE_NAMES, "schema_migrations"}


def test_cluster_has_the_same_columns_keys_and_settings() -> None:
    """Only the engine differs: replicated, with the same column that decides which version wins."""
    expected = {
        f"{name}_local": (columns, f"Replicated{engine}", version, rest)
        for name, (columns, engine, version, rest) in _here().items()
    }
    assert _tables(_cluster()) == expected


@pytest.mark.parametrize("name", sorted(_here()))
def test_every_table_is_distributed_by_a_part_of_its_key(name: str) -> None:
    """Versions of one row must meet on one shard: the sharding key is made of key columns."""
    (statement,) = (
        text for text in _cluster() if text.startswith(f"CREATE TABLE IF NOT EXISTS {name} ON")
    )
    assert f"AS {name}_local" in statement
    sharding = statement.split(f"{name}_local, ")[1].removesuffix(")")
    names = re.findall(r"\b[a-z_]+\b", sharding)
    key = _here()[name][3].split("ORDER BY ")[1].split(" SETTINGS")[0]
    assert names
    assert set(names) <= set(re.findall(r"\w+", key))


def test_a_migration_that_a_distributed_table_refuses_is_noted_as_applied() -> None:
    """Ballast would try a key or a setting on the Distributed table, and could not open it."""
    refused = ("MODIFY ORDER BY", "MODIFY SETTING")
    changes = [
        each
        for each in migrations.load_migrations()
        if any(words in text for text in each.statements for words in refused)
    ]
    assert changes
    text = CLUSTER.read_text(encoding="utf-8")
    for each in changes:
        assert f"({each.version}, '{each.name}', '{each.sha256}', 0)" in text


def test_untested_variant_says_so() -> None:
    """Nobody may take it for something that was run."""
    assert "NEVER RUN" in CLUSTER.read_text(encoding="utf-8")
