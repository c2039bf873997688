"""The artefact directory: whole or absent, and refused when anything in it is wrong."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pytest

from tests.training.learner_models import trained
from training.artefact import ArtefactRejected, combine, read_artefact, write_artefact
from training.inference import load_policy


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A sound artefact on disk."""
    directory = tmp_path / "models" / "one"
    write_artefact(trained().artefact, directory)
    return directory


def test_what_is_written_is_read_back(written: Path) -> None:
    """Schema, configuration, lineage, normaliser and weights come back equal."""
    stored, original = read_artefact(written), trained().artefact
    assert (stored.schema, stored.config, stored.lineage) == (
        original.schema, original.config, original.lineage,
    )  # fmt: skip
    np.testing.assert_array_equal(stored.normalizer.mean, original.normalizer.mean)
    assert stored.members[0].policy_zip == original.members[0].policy_zip
    for name, array in original.members[0].actor.items():
        np.testing.assert_array_equal(stored.members[0].actor[name], array)


def test_columns_that_training_never_saw_vary_are_kept_and_named(tmp_path: Path) -> None:
    """They come back, the manifest names them, and a model without any is written as ever."""
    original = trained().artefact
    fitted = np.ones(original.normalizer.mean.shape, dtype=np.bool_)
    whole = dataclasses.replace(original.normalizer, fitted=fitted)
    write_artefact(dataclasses.replace(original, normalizer=whole), tmp_path / "whole")
    assert "unfitted" not in json.loads((tmp_path / "whole" / "manifest.json").read_text())
    assert np.load(tmp_path / "whole" / "normalizer.npz").files == ["mean", "scale", "clip"]
    assert read_artefact(tmp_path / "whole").normalizer.fitted.all()
    part = dataclasses.replace(whole, fitted=np.arange(len(fitted)) != 2)
    write_artefact(dataclasses.replace(original, normalizer=part), tmp_path / "part")
    manifest = json.loads((tmp_path / "part" / "manifest.json").read_text())
    assert manifest["unfitted"] == [original.schema.features[2]]
    stored = read_artefact(tmp_path / "part").normalizer
    np.testing.assert_array_equal(stored.fitted, part.fitted)


def test_writing_twice_is_writing_once(written: Path) -> None:
    """The id is a function of content; the same model again changes nothing, another is refused."""
    again = write_artefact(trained().artefact, written)
    assert again == read_artefact(written).model_id
    other = dataclasses.replace(trained().artefact, budget=2.0)
    with pytest.raises(FileExistsError, match="another model"):
        write_artefact(other, written)


def test_nothing_partial_stays_behind(written: Path) -> None:
    """Only the finished directory is in the parent."""
    assert [path.name for path in written.parent.iterdir()] == ["one"]


@pytest.mark.parametrize(
    "name", ["normalizer.npz", "selfcheck.npz", "member_00/actor.npz", "member_00/policy.zip"]
)
def test_a_damaged_file_is_named(written: Path, name: str) -> None:
    """One changed byte, or a missing file, refuses the artefact and says which."""
    path = written / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(ArtefactRejected, match=f"{name}: content hash differs"):
        load_policy(written)
    path.unlink()
    with pytest.raises(ArtefactRejected, match=f"{name}: No such file"):
        load_policy(written)


def test_a_missing_or_foreign_manifest_is_refused(written: Path) -> None:
    """No manifest, no JSON, or another format: not an artefact of ours."""
    manifest = written / "manifest.json"
    facts = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(facts | {"format": 99}))
    with pytest.raises(ArtefactRejected, match="format"):
        load_policy(written)
    manifest.write_text("{")
    with pytest.raises(ArtefactRejected, match="manifest"):
        load_policy(written)
    manifest.unlink()
    with pytest.raises(ArtefactRejected, match="manifest"):
        load_policy(written)


def test_another_observation_schema_is_refused(written: Path) -> None:
    """A model trained on other features is refused even where the shapes fit."""
    manifest = written / "manifest.json"
    facts = json.loads(manifest.read_text())
    facts["schema"]["features"] = facts["schema"]["features"][::-1]
    manifest.write_text(json.dumps(facts))
    with pytest.raises(ArtefactRejected, match="schema hash"):
        load_policy(written)


def test_a_network_that_computes_something_else_fails_its_self_check(tmp_path: Path) -> None:
    """Weights that were changed and hashed again are found by the stored actions."""
    artefact = trained().artefact
    actor = dict(artefact.members[0].actor)
    actor["bias_0"] = actor["bias_0"] + np.float32(0.5)
    member = dataclasses.replace(artefact.members[0], actor=actor)
    write_artefact(dataclasses.replace(artefact, members=(member,)), tmp_path / "forged")
    with pytest.raises(ArtefactRejected, match="self-check: actions differ"):
        load_policy(tmp_path / "forged")


def test_a_network_of_another_shape_is_refused(tmp_path: Path) -> None:
    """A layer that does not fit the schema is named before anything is computed."""
    artefact = trained().artefact
    actor = {
        name: array for name, array in artefact.members[0].actor.items() if "own_0" not in name
    }
    member = dataclasses.replace(artefact.members[0], actor=actor)
    write_artefact(dataclasses.replace(artefact, members=(member,)), tmp_path / "cut")
    with pytest.raises(ArtefactRejected, match="network: actor layers are incomplete"):
        load_policy(tmp_path / "cut")


def test_an_ensemble_is_the_mean_of_its_members_weights(tmp_path: Path) -> None:
    """Two seeds combined give the average of what each would hold."""
    parts = []
    for seed in (1, 2):
        parts.append(tmp_path / f"seed{seed}")
        write_artefact(trained(seed).artefact, parts[-1])
    whole = load_policy(combine(parts, tmp_path / "ensemble"))
    obs = trained().artefact.self_check.observations
    each = [load_policy(part).weights_from(obs) for part in parts]
    np.testing.assert_allclose(whole.weights_from(obs), (each[0] + each[1]) / 2, atol=1e-12)
    assert whole.artefact.config.seeds == (1, 2)
    assert not np.array_equal(each[0], each[1])


def test_only_models_of_one_recipe_combine(tmp_path: Path) -> None:
    """Members must share data, schema, normaliser and configuration but for the seed."""
    artefact = trained().artefact
    write_artefact(artefact, tmp_path / "one")
    other = dataclasses.replace(artefact, config=artefact.config.replace(gamma=0.5))
    write_artefact(other, tmp_path / "two")
    with pytest.raises(ArtefactRejected, match="ensemble: config differs"):
        combine([tmp_path / "one", tmp_path / "two"], tmp_path / "both")


def test_the_stored_archive_is_stable_baselines3s_own(written: Path) -> None:
    """``PPO.load`` opens the zip and predicts what the plain arrays predict."""
    from training.ppo import PortfolioPPO

    archive = read_artefact(written).members[0].policy_zip
    model = PortfolioPPO.load(io.BytesIO(archive), device="cpu")
    policy = load_policy(written)
    obs = policy.artefact.self_check.observations
    np.testing.assert_allclose(
        model.predict(obs, deterministic=True)[0], policy.actions(obs)[0], atol=1e-5
    )
