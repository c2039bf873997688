from __future__ import annotations

import asyncio
import json
import os
import re
import stat
import subprocess
import sys
from configparser import RawConfigParser
from pathlib import Path

import pytest

from daemon.alerts import AlertName
from daemon.monitor.metrics import build_registry, render_metrics
from daemon.settings import load_settings
from market.migrations import load_migrations
from tests.daemon import scenes
from tests.daemon.serving import serving
from tests.requirements import require

DEPLOY = Path(__file__).parents[2] / "deploy"


def _unit() -> dict[str, list[str]]:
    """Every key of the unit with its values, in order."""
    values: dict[str, list[str]] = {}
    for line in (DEPLOY / "ballast.service").read_text().splitlines():
        key, separator, value = line.partition("=")
        if separator and not line.startswith("#"):
            values.setdefault(key, []).append(value)
    return values


def _exposed() -> set[str]:
    """Names of every sample that the daemon exposes."""
    body, _ = render_metrics(build_registry(scenes.trading()), "text/plain")
    return {line.split("{")[0].split(" ")[0] for line in body.decode().splitlines()}


def _metric_names(text: str) -> set[str]:
    return set(re.findall(r"\b(?:ballast|process)_[a-z_]+\b", text)) - {"ballast_token"}


def test_unit_is_well_formed() -> None:
    """The unit has its three sections and no line that is neither key, comment nor section."""
    text = (DEPLOY / "ballast.service").read_text()
    parser = RawConfigParser(strict=False, delimiters=("=",), comment_prefixes=("#",))
    parser.read_string(text)
    assert parser.sections() == ["Unit", "Service", "Install"]


def test_unit_keeps_the_daemon_running_and_confined() -> None:
    """What the design asks of the unit: readiness, watchdog, state, limits, confinement."""
    unit = _unit()
    expected = {
        "Type": "notify",
        "ExecStart": "/opt/ballast/.venv/bin/ballast run --config /etc/ballast/ballast.toml",
        "StateDirectory": "ballast",
        "Restart": "on-failure",
        "RestartPreventExitStatus": "2",
        "OOMPolicy": "continue",
        "ProtectSystem": "strict",
        "DynamicUser": "yes",
        "NoNewPrivileges": "yes",
        "CapabilityBoundingSet": "",
    }
    assert {key: unit[key][-1] for key in expected} == expected
    assert {
        "WatchdogSec",
        "MemoryMax",
        "Nice",
        "ExecReload",
        "StartLimitIntervalSec",
    } <= unit.keys()
    # ClickHouse compiles queries while it runs.
    assert "MemoryDenyWriteExecute" not in unit


def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    """The real systemd finds no unknown key or value, and calls the exposure 1.5 or better."""
    program = require("systemd-analyze")
    # The real program is not installed here; any that exists lets the rest be checked.
    text = (DEPLOY / "ballast.service").read_text()
    path = tmp_path / "ballast.service"
    path.write_text(
        text.replace("/opt/ballast/.venv/bin/ballast", os.path.realpath(sys.executable))
    )
    verified = subprocess.run(
        [program, "verify", path], capture_output=True, text=True, check=False
    )
    complaints = [
        line for line in (verified.stdout + verified.stderr).splitlines() if "ballast" in line
    ]
    assert complaints == []
    judged = subprocess.run(
        [program, "security", "--offline=true", "--threshold=15", path],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert judged.returncode == 0, judged.stdout[-400:]


def test_container_settings_are_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    """The container's settings pass the strict reader; state goes to the volume."""
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/ballast")
    settings = load_settings(DEPLOY / "compose.toml")
    assert settings.warehouse_url == "http://ballast@clickhouse:8123/ballast"
    assert settings.ledger_url == "sqlite:////var/lib/ballast/ledger.sqlite"
    assert settings.monitor.host == "0.0.0.0"


def test_images_are_pinned_and_only_loopback_is_published() -> None:
    """No image floats, and no port is open to other machines."""
    compose = (DEPLOY / "compose.yaml").read_text()
    assert re.search(r"image: clickhouse/clickhouse-server:\d+\.\d+\.\d+\.\d+\n", compose)
    ports = re.findall(r'^ +- "([\d.:]+:\d+)"$', compose, flags=re.MULTILINE)
    assert ports == ["127.0.0.1:8710:8710"]
    bases = re.findall(r"^FROM (\S+)", (DEPLOY / "Dockerfile").read_text(), flags=re.MULTILINE)
    assert bases
    assert all(re.fullmatch(r"python:\d+\.\d+-slim-\w+", base) for base in bases)


def test_image_gets_every_file_it_copies() -> None:
    """What the Dockerfile copies is there and is not left out of the build's context."""
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", (DEPLOY / "Dockerfile").read_text(), re.M)
    names = [name for line in copied for name in line.split()]
    allowed = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    root = DEPLOY.parent
    assert [name for name in names if f"!{name}" not in allowed] == []
    assert [name for name in names if not (root / name).exists()] == []


@pytest.mark.parametrize("name", ["prometheus/rules.yaml", "grafana/ballast.json"])
def test_rules_and_dashboard_name_real_metrics(name: str) -> None:
    """Every metric in a rule or a panel is one that the daemon exposes."""
    named = _metric_names((DEPLOY / name).read_text())
    assert len(named) >= 8
    assert named - _exposed() == set()


def test_rules_name_real_alerts() -> None:
    """Every alert that a rule selects by name exists."""
    selectors = re.findall(
        r'alert[=!]~"([a-z_|]+)"', (DEPLOY / "prometheus/rules.yaml").read_text()
    )
    named = {name for selector in selectors for name in selector.split("|")}
    assert named
    assert named <= {name.value for name in AlertName}


def test_dashboard_has_panels_that_do_not_overlap() -> None:
    """The dashboard is JSON with queries in every panel, each on its own place."""
    dashboard = json.loads((DEPLOY / "grafana/ballast.json").read_text())
    places: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        assert panel["targets"]
        at = panel["gridPos"]
        cells = {(at["x"] + i, at["y"] + j) for i in range(at["w"]) for j in range(at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not cells & places
        places |= cells


async def test_health_check_of_the_container(tmp_path: Path) -> None:
    """The check exits 0 with the daemon's words, and 1 where nothing answers."""
    token = "correct-horse-battery-staple"
    script = tmp_path / "healthcheck.py"
    text = (DEPLOY / "healthcheck.py").read_text()
    assert "127.0.0.1:8710/healthz" in text

    async def check(offered: str) -> tuple[int | None, str]:
        process = await asyncio.create_subprocess_exec(
            sys.executable, script, stdout=asyncio.subprocess.PIPE,
            env={"BALLAST_TOKEN": offered, "no_proxy": "*"},
        )  # fmt: skip
        output, _ = await process.communicate()
        return process.returncode, output.decode()

    async with serving(scenes.trading(), host="0.0.0.0", token=token) as (monitor, _):
        script.write_text(text.replace(":8710/", f":{monitor.port}/"))
        assert await check(token) == (0, "the newest commit is 12 s old\n")
        assert (await check("wrong"))[0] == 1
    assert (await check(token))[0] == 1


def test_no_file_here_is_secret_or_executable() -> None:
    """Nothing in this folder carries a token or a right to run."""
    for path in DEPLOY.rglob("*"):
        if path.is_file():
            assert not path.stat().st_mode & (stat.S_IXUSR | stat.S_IXOTH)
            found = set(re.findall(r"\b[0-9a-f]{32,}\b", path.read_text()))
            assert found <= {migration.sha256 for migration in load_migrations()}
