"""The registry: every model, every verdict, which model leads, and every retraining run.

It shares the database of the ledger and owns only its own tables. A promotion is one
transaction that appends to ``promotions`` and moves the one pointer in ``champion``; nothing is
ever deleted, so that a rollback is another promotion. It never loads a model and never imports
torch; whether a candidate *should* lead is decided by the gates, not here.
"""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any, Self, TypeAlias

import numpy as np
import sqlalchemy as sa

from broker.database import open_engine, read_transaction, write_transaction
from training.gates import Check, Relation, Verdict
from training.records import (
    Champion,
    ModelRecord,
    ModelSummary,
    NoChampion,
    OutOfSample,
    Promotion,
    PromotionKind,
    PromotionRefused,
    RetrainRun,
    RunStatus,
    UnknownModel,
)

__all__ = [
    "Champion",
    "ModelRecord",
    "ModelSummary",
    "NoChampion",
    "OutOfSample",
    "Promotion",
    "PromotionKind",
    "PromotionRefused",
    "Registry",
    "RetrainRun",
    "RunStatus",
    "UnknownModel",
]

# Quoted: SQLAlchemy 2.0 does not take an unpacked tuple when the program runs.
_Row: TypeAlias = "sa.Row[*tuple[Any, ...]]"
_Result: TypeAlias = "sa.CursorResult[*tuple[Any, ...]]"

_METADATA = sa.MetaData()
_MODELS = sa.Table(
    "models",
    _METADATA,
    sa.Column("model_id", sa.String(128), primary_key=True),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("snapshot_id", sa.String(128), nullable=False),
    sa.Column("artefact_path", sa.Text, nullable=False),
    sa.Column("config", sa.Text, nullable=False),
    sa.Column("lineage", sa.Text, nullable=False),
)
_VERDICTS = sa.Table(
    "verdicts",
    _METADATA,
    sa.Column("verdict_id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("model_id", sa.ForeignKey("models.model_id"), nullable=False),
    sa.Column("judged_at", sa.BigInteger, nullable=False),
    sa.Column("passed", sa.Boolean, nullable=False),
    sa.Column("out_of_sample", sa.LargeBinary, nullable=False),
)
_CHECKS = sa.Table(
    "checks",
    _METADATA,
    sa.Column("verdict_id", sa.ForeignKey("verdicts.verdict_id"), primary_key=True),
    sa.Column("ordinal", sa.Integer, primary_key=True),
    sa.Column("name", sa.String(64), nullable=False),
    sa.Column("value", sa.Double),
    sa.Column("threshold", sa.Double),
    sa.Column("relation", sa.String(2), nullable=False),
    sa.Column("hard", sa.Boolean, nullable=False),
    sa.Column("passed", sa.Boolean, nullable=False),
    sa.Column("explanation", sa.Text, nullable=False),
)
_PROMOTIONS = sa.Table(
    "promotions",
    _METADATA,
    sa.Column("promotion_id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("model_id", sa.ForeignKey("models.model_id")),
    sa.Column("rollback_to", sa.ForeignKey("promotions.promotion_id")),
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
)
_CHAMPION = sa.Table(
    "champion",
    _METADATA,
    sa.Column("slot", sa.String(16), primary_key=True),
    sa.Column("promotion_id", sa.ForeignKey("promotions.promotion_id"), nullable=False),
)
_RUNS = sa.Table(
    "retrain_runs",
    _METADATA,
    sa.Column("run_id", sa.String(128), primary_key=True),
    sa.Column("trigger", sa.String(64), nullable=False),
    sa.Column("started_at", sa.BigInteger, nullable=False),
    sa.Column("ended_at", sa.BigInteger),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("message", sa.Text, nullable=False),
    sa.Column("model_id", sa.String(128)),
)
_SLOT = "main"


class Registry:
    """Blocking access to the registry's tables; callers on an event loop use a worker thread."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    @classmethod
    def open(cls, url: str) -> Self:
        """Open the ledger's database and create the registry's tables where they are missing."""
        engine = open_engine(url)
        with write_transaction(engine) as connection:
            _METADATA.create_all(connection)
        return cls(engine)

    def close(self) -> None:
        """Release the database connections."""
        self._engine.dispose()

    def register(self, record: ModelRecord, *, judged_at: int) -> None:
        """Keep a model and its verdict; a model registered again gets one more verdict."""
        with write_transaction(self._engine) as connection:
            if _model_row(connection, record.model_id) is None:
                connection.execute(_MODELS.insert().values(_model_values(record)))
            inserted = connection.execute(
                _VERDICTS.insert().values(
                    model_id=record.model_id,
                    judged_at=judged_at,
                    passed=record.verdict.passed,
                    out_of_sample=_pack(record.out_of_sample),
                )
            )
            verdict_id = _new_id(inserted)
            for ordinal, check in enumerate(record.verdict.checks):
                connection.execute(
                    _CHECKS.insert().values(_check_values(verdict_id, ordinal, check))
                )

    def promote(self, model_id: str, *, reason: str, at: int, force: bool = False) -> Champion:
        """Let a model lead; promoting the champion again changes nothing.

        Raises:
            UnknownModel: it is not registered.
            PromotionRefused: its newest verdict is a refusal and ``force`` is not set, or
                ``force`` is set without a reason.
        """
        with write_transaction(self._engine) as connection:
            passed = _newest_verdict(connection, model_id).passed
            if not passed and not force:
                raise PromotionRefused(f"model {model_id} was refused by its gates")
            if not passed and not reason.strip():
                raise PromotionRefused(f"promoting refused model {model_id} needs a reason")
            leading = _leading_row(connection)
            if leading is None or leading.model_id != model_id:
                kind = PromotionKind.PROMOTED if passed else PromotionKind.FORCED
                back = None if leading is None else leading.promotion_id
                _move_pointer(connection, kind, model_id, back, at, reason)
                _note_promoted(connection, model_id)
        return self._require_champion()

    def rollback(self, *, reason: str, at: int) -> Champion | None:
        """Let the champion before this one lead again; ``None`` where there was none before it.

        Raises:
            NoChampion: nothing leads now.
        """
        with write_transaction(self._engine) as connection:
            leading = _leading_row(connection)
            if leading is None or leading.model_id is None:
                raise NoChampion("there is no champion to roll back from")
            target = _promotion_row(connection, leading.rollback_to)
            _move_pointer(
                connection,
                PromotionKind.ROLLED_BACK,
                None if target is None else target.model_id,
                None if target is None else target.rollback_to,
                at,
                reason,
            )
        return self.champion()

    def champion(self) -> Champion | None:
        """The model that leads, or ``None``."""
        with read_transaction(self._engine) as connection:
            leading = _leading_row(connection)
            if leading is None or leading.model_id is None:
                return None
            model = _require_model(connection, leading.model_id)
        return Champion(
            model_id=model.model_id,
            artefact_path=Path(model.artefact_path),
            snapshot_id=model.snapshot_id,
            created_at=model.created_at,
            promoted_at=leading.at,
            reason=leading.reason,
        )

    def promotions(self) -> tuple[Promotion, ...]:
        """Every move of the pointer, oldest first."""
        query = sa.select(_PROMOTIONS).order_by(_PROMOTIONS.c.promotion_id)
        with read_transaction(self._engine) as connection:
            return tuple(
                Promotion(
                    promotion_id=row.promotion_id,
                    kind=PromotionKind(row.kind),
                    model_id=row.model_id,
                    at=row.at,
                    reason=row.reason,
                )
                for row in connection.execute(query)
            )

    def list_models(self) -> tuple[ModelSummary, ...]:
        """Every model with its newest verdict, newest model first."""
        query = sa.select(_MODELS).order_by(_MODELS.c.created_at.desc(), _MODELS.c.model_id)
        with read_transaction(self._engine) as connection:
            leading = _leading_row(connection)
            leader = None if leading is None else leading.model_id
            rows = connection.execute(query).all()
            verdicts = [_newest_verdict(connection, row.model_id) for row in rows]
        return tuple(
            ModelSummary(
                model_id=row.model_id,
                created_at=row.created_at,
                snapshot_id=row.snapshot_id,
                artefact_path=Path(row.artefact_path),
                passed=verdict.passed,
                judged_at=verdict.judged_at,
                leads=row.model_id == leader,
            )
            for row, verdict in zip(rows, verdicts, strict=True)
        )

    def model(self, model_id: str) -> ModelRecord:
        """Everything about one model, with its newest verdict.

        Raises:
            UnknownModel: it is not registered.
        """
        with read_transaction(self._engine) as connection:
            row = _require_model(connection, model_id)
            verdict = _newest_verdict(connection, model_id)
            checks = _checks(connection, verdict.verdict_id)
            packed = connection.execute(
                sa.select(_VERDICTS.c.out_of_sample).where(
                    _VERDICTS.c.verdict_id == verdict.verdict_id
                )
            ).scalar_one()
        return ModelRecord(
            model_id=row.model_id,
            created_at=row.created_at,
            snapshot_id=row.snapshot_id,
            artefact_path=Path(row.artefact_path),
            config=json.loads(row.config),
            lineage=json.loads(row.lineage),
            verdict=_verdict_of(verdict.passed, checks),
            out_of_sample=_unpack(packed),
        )

    def verdict(self, model_id: str) -> Verdict:
        """The newest verdict on a model.

        Raises:
            UnknownModel: it is not registered.
        """
        with read_transaction(self._engine) as connection:
            newest = _newest_verdict(connection, model_id)
            return _verdict_of(newest.passed, _checks(connection, newest.verdict_id))

    def start_run(self, run_id: str, *, trigger: str, at: int) -> None:
        """Note that a retraining run has begun; noting it again changes nothing."""
        values = {
            "run_id": run_id,
            "trigger": trigger,
            "started_at": at,
            "status": RunStatus.RUNNING,
            "message": "",
        }
        with write_transaction(self._engine) as connection:
            known = sa.select(_RUNS.c.run_id).where(_RUNS.c.run_id == run_id)
            if connection.execute(known).first() is None:
                connection.execute(_RUNS.insert().values(values))

    def finish_run(
        self, run_id: str, *, status: RunStatus, at: int, message: str, model_id: str | None = None
    ) -> None:
        """Note how a run ended."""
        with write_transaction(self._engine) as connection:
            connection.execute(
                _RUNS.update()
                .where(_RUNS.c.run_id == run_id)
                .values(status=status, ended_at=at, message=message, model_id=model_id)
            )

    def mark_interrupted_runs(self, *, at: int) -> tuple[str, ...]:
        """Mark runs that a dead process left running as failed; return their ids."""
        running = _RUNS.c.status == RunStatus.RUNNING
        with write_transaction(self._engine) as connection:
            ids = tuple(connection.execute(sa.select(_RUNS.c.run_id).where(running)).scalars())
            connection.execute(
                _RUNS.update()
                .where(running)
                .values(status=RunStatus.FAILED, ended_at=at, message="interrupted")
            )
        return ids

    def runs(self, limit: int = 50) -> tuple[RetrainRun, ...]:
        """The newest runs, newest first."""
        query = sa.select(_RUNS).order_by(_RUNS.c.started_at.desc(), _RUNS.c.run_id).limit(limit)
        with read_transaction(self._engine) as connection:
            rows = connection.execute(query).mappings().all()
        return tuple(RetrainRun(**{**row, "status": RunStatus(row["status"])}) for row in rows)

    def _require_champion(self) -> Champion:
        champion = self.champion()
        if champion is None:
            raise NoChampion("the pointer was moved by another process")
        return champion


def _model_row(connection: sa.Connection, model_id: str) -> _Row | None:
    return connection.execute(sa.select(_MODELS).where(_MODELS.c.model_id == model_id)).first()


def _require_model(connection: sa.Connection, model_id: str) -> _Row:
    row = _model_row(connection, model_id)
    if row is None:
        raise UnknownModel(f"model {model_id!r} is not registered")
    return row


def _newest_verdict(connection: sa.Connection, model_id: str) -> _Row:
    columns = (_VERDICTS.c.verdict_id, _VERDICTS.c.judged_at, _VERDICTS.c.passed)
    query = sa.select(*columns).where(_VERDICTS.c.model_id == model_id)
    row = connection.execute(query.order_by(_VERDICTS.c.verdict_id.desc()).limit(1)).first()
    if row is None:
        raise UnknownModel(f"model {model_id!r} is not registered")
    return row


def _checks(connection: sa.Connection, verdict_id: int) -> tuple[Check, ...]:
    query = sa.select(_CHECKS).where(_CHECKS.c.verdict_id == verdict_id)
    rows = connection.execute(query.order_by(_CHECKS.c.ordinal))
    return tuple(
        Check(
            name=row.name,
            value=math.nan if row.value is None else row.value,
            threshold=math.nan if row.threshold is None else row.threshold,
            relation=Relation(row.relation),
            hard=row.hard,
            passed=row.passed,
            explanation=row.explanation,
        )
        for row in rows
    )


def _leading_row(connection: sa.Connection) -> _Row | None:
    query = sa.select(_PROMOTIONS).join(_CHAMPION).where(_CHAMPION.c.slot == _SLOT)
    return connection.execute(query).first()


def _promotion_row(connection: sa.Connection, promotion_id: int | None) -> _Row | None:
    query = sa.select(_PROMOTIONS).where(_PROMOTIONS.c.promotion_id == promotion_id)
    return None if promotion_id is None else connection.execute(query).one()


def _move_pointer(
    connection: sa.Connection,
    kind: PromotionKind,
    model_id: str | None,
    rollback_to: int | None,
    at: int,
    reason: str,
) -> None:
    inserted = connection.execute(
        _PROMOTIONS.insert().values(
            kind=kind, model_id=model_id, rollback_to=rollback_to, at=at, reason=reason
        )
    )
    promotion_id = _new_id(inserted)
    moved = connection.execute(
        _CHAMPION.update().where(_CHAMPION.c.slot == _SLOT).values(promotion_id=promotion_id)
    )
    if moved.rowcount == 0:
        connection.execute(_CHAMPION.insert().values(slot=_SLOT, promotion_id=promotion_id))


def _note_promoted(connection: sa.Connection, model_id: str) -> None:
    """The runs that made the model ended in a promotion after all."""
    connection.execute(
        _RUNS.update().where(_RUNS.c.model_id == model_id).values(status=RunStatus.PROMOTED)
    )


def _model_values(record: ModelRecord) -> dict[str, Any]:
    return {
        "model_id": record.model_id,
        "created_at": record.created_at,
        "snapshot_id": record.snapshot_id,
        "artefact_path": str(record.artefact_path),
        "config": json.dumps(record.config, sort_keys=True),
        "lineage": json.dumps(record.lineage, sort_keys=True),
    }


def _check_values(verdict_id: int, ordinal: int, check: Check) -> dict[str, Any]:
    return {
        "verdict_id": verdict_id,
        "ordinal": ordinal,
        "name": check.name,
        "value": _null_if_nan(check.value),
        "threshold": _null_if_nan(check.threshold),
        "relation": check.relation.value,
        "hard": check.hard,
        "passed": check.passed,
        "explanation": check.explanation,
    }


def _verdict_of(passed: bool, checks: tuple[Check, ...]) -> Verdict:
    reasons = tuple(check.explanation for check in checks if check.refuses)
    return Verdict(passed=passed, checks=checks, reasons=reasons)


def _new_id(inserted: _Result) -> int:
    key = inserted.inserted_primary_key
    if key is None:
        raise AssertionError("an insert of one row always has a key")
    return int(key[0])


def _null_if_nan(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _pack(record: OutOfSample) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        open_time=record.open_time,
        net_return=record.net_return,
        equal_weight=record.equal_weight,
    )
    return buffer.getvalue()


def _unpack(packed: bytes) -> OutOfSample:
    with np.load(io.BytesIO(packed), allow_pickle=False) as arrays:
        return OutOfSample(**{name: arrays[name] for name in arrays.files})
