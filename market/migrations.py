"""The warehouse's numbered migrations: reads ``market/schema``, says which are due, applies them.

Each file is a list of statements that may be run again (``IF NOT EXISTS``), because a crash can
fall between two of them. A file that was applied once must never change.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources

import structlog

from market.clock import WallClock
from market.connection import Connection
from market.store_fault import WarehouseError

log = structlog.get_logger()

CREATE_TABLE = (
    "CREATE TABLE IF NOT EXISTS schema_migrations "
    "(version UInt32, name String, sha256 String, applied_at Int64) "
    "ENGINE = ReplacingMergeTree(applied_at) ORDER BY version "
    "SETTINGS fsync_after_insert = 1, fsync_part_directory = 1"
)
SELECT_APPLIED = "SELECT version, sha256 FROM schema_migrations FINAL"

_FILE_NAME = re.compile(r"(\d{4})_[a-z0-9_]+\.sql")
_COMMENT = re.compile(r"^\s*--.*$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """One numbered file of statements."""

    version: int
    name: str
    sha256: str
    statements: tuple[str, ...]

    def columns(self, *, applied_at: int) -> dict[str, list[int | str]]:
        """The row of ``schema_migrations``, by column."""
        return {
            "version": [self.version],
            "name": [self.name],
            "sha256": [self.sha256],
            "applied_at": [applied_at],
        }


class MigrationError(Exception):
    """The store's schema is not one that this program can bring up to date."""


def migrate(connection: Connection) -> None:
    """Bring the schema of an open store up to date.

    Raises:
        WarehouseError: the store is newer than this program, an applied file has changed, or a
            statement failed.
    """
    connection.command(CREATE_TABLE)
    applied = {row[0]: row[1] for row in connection.rows(SELECT_APPLIED, {})}
    try:
        due = due_migrations(load_migrations(), applied)
    except MigrationError as conflict:
        raise WarehouseError(f"cannot open {connection.location}: {conflict}") from conflict
    for migration in due:
        for statement in migration.statements:
            connection.command(statement)
        columns = migration.columns(applied_at=WallClock().now())
        connection.insert("schema_migrations", columns)
        log.info("schema_migrated", store=connection.location, migration=migration.name)


def load_migrations() -> tuple[Migration, ...]:
    """Every migration of this program, in order."""
    files = resources.files("market.schema").iterdir()
    return tuple(
        _parse(file.name, file.read_text(encoding="utf-8"))
        for file in sorted(files, key=lambda file: file.name)
        if _FILE_NAME.fullmatch(file.name)
    )


def due_migrations(
    migrations: Sequence[Migration], applied: Mapping[int, str]
) -> tuple[Migration, ...]:
    """The migrations that the store still lacks.

    Args:
        migrations: all that this program knows.
        applied: sha256 of each applied version, as the store recorded it.

    Raises:
        MigrationError: the store is newer than this program, or an applied file has changed.
    """
    known = {migration.version: migration for migration in migrations}
    newer = sorted(set(applied) - set(known))
    if newer:
        raise MigrationError(
            f"its schema has version {newer[-1]:04d}, newer than this program's "
            f"{max(known):04d}: run the Ballast that wrote it, or a later one"
        )
    for version, sha256 in applied.items():
        if known[version].sha256 != sha256:
            raise MigrationError(
                f"migration {known[version].name} was applied with other content: "
                "restore the file, and put the change into a new migration"
            )
    return tuple(migration for migration in migrations if migration.version not in applied)


def _parse(name: str, text: str) -> Migration:
    statements = (part.strip() for part in _COMMENT.sub("", text).split(";\n"))
    return Migration(
        version=int(name[:4]),
        name=name,
        sha256=hashlib.sha256(text.encode()).hexdigest(),
        statements=tuple(statement for statement in statements if statement),
    )
