"""The directory a trained policy is kept in: written once, whole, and checked at every load.

Layout: ``manifest.json`` (what it is, and the SHA-256 of every other file), ``normalizer.npz``,
``selfcheck.npz`` (observations with the actions and weights they must give), and per member
``member_NN/actor.npz`` (plain arrays for inference without torch) and ``member_NN/policy.zip``
(stable-baselines3). The directory appears under its name only when it is complete and fsynced.
This module must never import torch, stable-baselines3 or gymnasium.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import io
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from market.signals import SignalColumn
from training.config import TrainingConfig, config_from_json
from training.normalizer import Float32Array, Normalizer
from training.observation import ObservationSchema

FORMAT = 1
MANIFEST = "manifest.json"
Arrays = Mapping[str, npt.NDArray[Any]]


class ArtefactRejected(Exception):
    """An artefact must not be used; ``failed`` names each check that did not hold."""

    def __init__(self, directory: Path, failed: Sequence[str]) -> None:
        """Keep the checks apart, so that a report can list them."""
        super().__init__(f"artefact {directory} rejected: {'; '.join(failed)}")
        self.directory = directory
        self.failed = tuple(failed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One trained network.

    Attributes:
        seed: of its training.
        actor: its arrays by name.
        policy_zip: stable-baselines3's own archive.
    """

    seed: int
    actor: Arrays
    policy_zip: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfCheck:
    """Observations (n, width) with each member's actions (M, n, N) and the weights (n, N)."""

    observations: Float32Array
    actions: npt.NDArray[np.float64]
    weights: npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage:
    """Where a model comes from.

    Attributes:
        snapshot_id: content hash of the data; start, stop: the training window, UTC ms.
        code_version: version of this software.
    """

    snapshot_id: str
    start: int
    stop: int
    code_version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Artefact:
    """Everything in the directory, as values.

    Attributes:
        model_id: the manifest's content hash; two directories with one id are the same model.
        budget: leverage limit of the allocation; long_only: its sign constraint.
    """

    model_id: str
    schema: ObservationSchema
    normalizer: Normalizer
    config: TrainingConfig
    lineage: Lineage
    budget: float
    long_only: bool
    members: tuple[Member, ...]
    self_check: SelfCheck


def unfitted_columns(artefact: Artefact) -> list[str]:
    """Name the features and signals that training never saw vary: the policy ignores them."""
    schema = artefact.schema
    signals = (f"{each.source} {each.version} {each.name}" for each in schema.signals)
    names = (*schema.features, *signals)
    fitted = artefact.normalizer.fitted.tolist()
    return [name for name, is_fitted in zip(names, fitted, strict=True) if not is_fitted]


def code_version() -> str:
    """Version of the installed distribution, or ``unknown`` in a bare checkout."""
    try:
        return importlib.metadata.version("ballast")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def write_artefact(artefact: Artefact, directory: Path) -> str:
    """Write ``artefact`` (its ``model_id`` is ignored) and return the model id.

    The files go to a temporary sibling, are fsynced, and appear by one rename. An existing
    directory of that name is left alone when it holds the same model.

    Raises:
        FileExistsError: ``directory`` exists and holds something else.
    """
    files = _files(artefact)
    manifest = json.dumps(_manifest(artefact, files), sort_keys=True, indent=1).encode()
    model_id = _digest(manifest)[:16]
    if directory.exists():
        if (directory / MANIFEST).is_file() and (directory / MANIFEST).read_bytes() == manifest:
            return model_id
        raise FileExistsError(f"{directory} exists and holds another model")
    temporary = directory.with_name(f".{directory.name}.{os.getpid()}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    for name, content in {**files, MANIFEST: manifest}.items():
        _write_durably(temporary / name, content)
    for folder in {(temporary / name).parent for name in files} | {temporary}:
        _sync_directory(folder)
    temporary.rename(directory)
    _sync_directory(directory.parent)
    return model_id


def read_artefact(directory: Path) -> Artefact:
    """Read and verify the files; the self-check itself is run by ``training.inference``.

    Raises:
        ArtefactRejected: something is missing, altered, or of another format.
    """
    manifest_bytes, manifest = _read_manifest(directory)
    files = _verified_files(directory, manifest["files"])
    try:
        return _from_files(_digest(manifest_bytes)[:16], manifest, files)
    except (KeyError, TypeError, ValueError) as error:
        raise ArtefactRejected(directory, [f"content: {error!r}"]) from error


def combine(directories: Sequence[Path], out_dir: Path) -> Path:
    """Write the ensemble of several artefacts of the same recipe and return ``out_dir``.

    Raises:
        ArtefactRejected: a part does not load, or does not fit the first.
    """
    # Imported here because inference reads artefacts: the two modules need each other once.
    from training.inference import mean_weights

    parts = [read_artefact(directory) for directory in directories]
    first = parts[0]
    for directory, part in zip(directories, parts, strict=True):
        if differing := _differences(first, part):
            raise ArtefactRejected(directory, [f"ensemble: {name} differs" for name in differing])
    members = tuple(member for part in parts for member in part.members)
    seeds = tuple(member.seed for member in members)
    whole = dataclasses.replace(first, members=members, config=first.config.replace(seeds=seeds))
    actions, weights = mean_weights(whole, first.self_check.observations)
    check = dataclasses.replace(first.self_check, actions=actions, weights=weights)
    write_artefact(dataclasses.replace(whole, self_check=check), out_dir)
    return out_dir


def _differences(first: Artefact, other: Artefact) -> list[str]:
    same = {
        "schema": first.schema == other.schema,
        "normalizer": np.array_equal(first.normalizer.mean, other.normalizer.mean)
        and np.array_equal(first.normalizer.scale, other.normalizer.scale)
        and np.array_equal(first.normalizer.fitted, other.normalizer.fitted),
        "lineage": first.lineage == other.lineage,
        "allocation": (first.budget, first.long_only) == (other.budget, other.long_only),
        "config": first.config.replace(seeds=(0,)) == other.config.replace(seeds=(0,)),
    }
    return [name for name, holds in same.items() if not holds]


def _files(artefact: Artefact) -> dict[str, bytes]:
    normalizer, check = artefact.normalizer, artefact.self_check
    scale = {"mean": normalizer.mean, "scale": normalizer.scale}
    # Only where it says something: a model of an earlier program keeps its content and its id.
    unfitted = {} if normalizer.fitted.all() else {"fitted": normalizer.fitted}
    files = {
        "normalizer.npz": _npz(**scale, clip=np.float64(normalizer.clip), **unfitted),
        "selfcheck.npz": _npz(
            observations=check.observations, actions=check.actions, weights=check.weights
        ),
    }
    for number, member in enumerate(artefact.members):
        files[f"member_{number:02d}/actor.npz"] = _npz(**member.actor)
        files[f"member_{number:02d}/policy.zip"] = member.policy_zip
    return files


def _manifest(artefact: Artefact, files: Mapping[str, bytes]) -> dict[str, Any]:
    schema, lineage = artefact.schema, artefact.lineage
    return {
        "format": FORMAT,
        "schema": {
            "symbols": schema.symbols,
            "interval_ms": schema.interval_ms,
            "lookback_bars": schema.lookback_bars,
            "features": schema.features,
            "sigma_window_bars": schema.sigma_window_bars,
            "signals": [dataclasses.asdict(column) for column in schema.signals],
        },
        "schema_hash": schema.hash,
        **({"unfitted": unfitted} if (unfitted := unfitted_columns(artefact)) else {}),
        "config": artefact.config.to_json(),
        "snapshot_id": lineage.snapshot_id,
        "start": lineage.start,
        "stop": lineage.stop,
        "code_version": lineage.code_version,
        "budget": artefact.budget,
        "long_only": artefact.long_only,
        "seeds": [member.seed for member in artefact.members],
        "files": {name: _digest(content) for name, content in files.items()},
    }


def _read_manifest(directory: Path) -> tuple[bytes, dict[str, Any]]:
    try:
        content = (directory / MANIFEST).read_bytes()
        manifest = json.loads(content)
    except (OSError, ValueError) as error:
        raise ArtefactRejected(directory, [f"manifest: {error}"]) from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise ArtefactRejected(directory, [f"format: not version {FORMAT}"])
    if not isinstance(manifest.get("files"), dict):
        raise ArtefactRejected(directory, ["manifest: lists no files"])
    return content, manifest


def _verified_files(directory: Path, digests: Mapping[str, str]) -> dict[str, bytes]:
    files, failed = {}, []
    for name, digest in digests.items():
        try:
            files[name] = (directory / name).read_bytes()
        except OSError as error:
            failed.append(f"{name}: {error.strerror}")
            continue
        if _digest(files[name]) != digest:
            failed.append(f"{name}: content hash differs from the manifest")
    if failed:
        raise ArtefactRejected(directory, failed)
    return files


def _from_files(model_id: str, manifest: Mapping[str, Any], files: Mapping[str, bytes]) -> Artefact:
    described = manifest["schema"]
    schema = ObservationSchema(
        symbols=tuple(described["symbols"]),
        interval_ms=described["interval_ms"],
        lookback_bars=described["lookback_bars"],
        features=tuple(described["features"]),
        sigma_window_bars=described["sigma_window_bars"],
        signals=tuple(SignalColumn(**column) for column in described.get("signals", ())),
    )
    if schema.hash != manifest["schema_hash"]:
        raise ValueError("observation schema hash differs: written for another observation")
    scale, check = _arrays(files["normalizer.npz"]), _arrays(files["selfcheck.npz"])
    return Artefact(
        model_id=model_id,
        schema=schema,
        normalizer=Normalizer(
            mean=scale["mean"],
            scale=scale["scale"],
            fitted=scale.get("fitted", np.ones(scale["mean"].shape, dtype=np.bool_)),
            clip=float(scale["clip"]),
        ),
        config=config_from_json(manifest["config"]),
        lineage=Lineage(
            snapshot_id=manifest["snapshot_id"],
            start=manifest["start"],
            stop=manifest["stop"],
            code_version=manifest["code_version"],
        ),
        budget=manifest["budget"],
        long_only=manifest["long_only"],
        members=tuple(
            Member(
                seed=seed,
                actor=_arrays(files[f"member_{number:02d}/actor.npz"]),
                policy_zip=files[f"member_{number:02d}/policy.zip"],
            )
            for number, seed in enumerate(manifest["seeds"])
        ),
        self_check=SelfCheck(**check),
    )


def _npz(**arrays: npt.NDArray[Any] | np.float64) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def _arrays(content: bytes) -> dict[str, npt.NDArray[Any]]:
    with np.load(io.BytesIO(content), allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _write_durably(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
