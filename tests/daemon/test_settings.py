"""Settings: strict, and every error names the key, the value and what was expected."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import get_args

import pytest

from daemon.settings import Settings, SettingsError, load_settings

ROOT = Path(__file__).parents[2]


def write(folder: Path, text: str) -> Path:
    path = folder / "ballast.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_example_file_states_the_defaults() -> None:
    """Every value in ballast.example.toml is the default, and every key is in it."""
    path = ROOT / "ballast.example.toml"
    assert load_settings(path) == load_settings(None, overrides={"": {"state_dir": "var"}})
    text = path.read_text(encoding="utf-8")
    raw = tomllib.loads(text)
    for name, field in Settings.model_fields.items():
        if name == "state_dir":
            continue
        section = field.annotation
        assert section is not None
        (item,) = get_args(section)[:1] or (section,)  # a list of sections has one kind of them
        for key in item.model_fields:
            assert key in raw.get(name, {}) or f"# {key} =" in text, (
                f"{name}.{key} is not explained"
            )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[exchange]\nsymbls = []", "exchange.symbls: unknown key; did you mean 'symbols'?"),
        ("[nothing]\nx = 1", "nothing: unknown key"),
        ('[exchange]\nname = "kraken"', "exchange.name = 'kraken'"),
        ('[exchange]\ninterval = "7h"', "exchange.interval = '7h': interval '7h' does not divide"),
        ("[account]\nleverage_limit = 0", "account.leverage_limit = 0"),
        ("[account]\nlatency_ms = 60000", "account.latency_ms = 60000"),
        ("[training]\nwindows = 3", "training.windows = 3"),
        ('[training]\nschedule = "often"', "training.schedule = 'often'"),
        ('[training]\nfeatures = ["basys"]', "unknown feature 'basys'; did you mean basis"),
        ("[monitor]\nport = 70000", "monitor.port = 70000"),
        ("not toml", "not valid TOML"),
    ],
)
def test_a_bad_file_is_refused_in_one_line(tmp_path: Path, text: str, expected: str) -> None:
    """An unknown key or a bad value names file, key and value on one line."""
    path = write(tmp_path, text)
    with pytest.raises(SettingsError) as caught:
        load_settings(path)
    assert expected in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    """A file that is named must be there: defaults are not a substitute."""
    with pytest.raises(SettingsError, match="no such file"):
        load_settings(tmp_path / "absent.toml")


def test_two_markets_never_share_the_default_state(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each market has a state directory of its own, so that no account changes its market."""
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    edge = load_settings(None, embedded=True)
    no_edge = load_settings(None, embedded=True, overrides={"sandbox": {"edge": 0.0}})
    live = load_settings(None, overrides={"exchange": {"name": "bybit"}})
    assert len({edge.state_dir, no_edge.state_dir, live.state_dir}) == 3


def test_systemd_names_the_state_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under systemd the state directory is the one that it made."""
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/ballast")
    assert load_settings(None).state_dir == Path("/var/lib/ballast")


def test_an_own_sandbox_excludes_another_venue(tmp_path: Path) -> None:
    """A sandbox of one's own and a base_url contradict each other."""
    path = write(tmp_path, '[sandbox]\nenabled = true\n[exchange]\nbase_url = "http://127.0.0.1:1"')
    with pytest.raises(SettingsError, match="remove exchange.base_url"):
        load_settings(path)


def test_the_settings_survive_the_way_to_a_child_process() -> None:
    """A retraining process gets exactly the settings of its daemon."""
    settings = load_settings(None, embedded=True)
    assert Settings.model_validate_json(settings.model_dump_json()) == settings
