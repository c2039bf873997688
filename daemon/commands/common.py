"""What commands share: the options that choose settings, and how facts are printed."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from daemon.log import LEVELS, configure_logging
from daemon.settings import Settings, load_settings
from market.instrument import Venue

Subparsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


class UsageError(Exception):
    """Bad input; the message is one line that says what is wrong and where."""


def add_settings_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which settings, and so which state, a command works on."""
    group = parser.add_argument_group("settings")
    group.add_argument("--config", type=Path, metavar="FILE", help="TOML file (default: none)")
    group.add_argument(
        "--state-dir", type=Path, metavar="DIR", help="where state lives (default: ./var/MARKET)"
    )
    group.add_argument(
        "--exchange",
        choices=[venue.value for venue in Venue],
        help="trade on this live venue's public data instead of a sandbox",
    )
    group.add_argument(
        "--base-url",
        metavar="URL",
        help="a sandbox that runs already, such as http://127.0.0.1:8711",
    )
    group.add_argument(
        "--synthetic", type=int, metavar="SEED", help="seed of the sandbox's synthetic market"
    )
    group.add_argument(
        "--edge", type=float, metavar="X", help="strength of its planted edge; 0 has none"
    )
    group.add_argument(
        "--data", type=Path, metavar="DIR", help="play recorded Parquet bars in the sandbox"
    )
    group.add_argument("--log-level", choices=sorted(LEVELS), help="default: info")


def add_json_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--json``."""
    parser.add_argument("--json", action="store_true", help="print one JSON document on stdout")


def settings_from(args: argparse.Namespace, **more: Mapping[str, Any]) -> Settings:
    """Load the settings that the options name, and configure logging by them."""
    embedded = args.config is None and args.exchange is None and args.base_url is None
    overrides: dict[str, dict[str, Any]] = {}
    _override(overrides, "", "state_dir", args.state_dir)
    _override(overrides, "exchange", "name", args.exchange)
    _override(overrides, "exchange", "base_url", args.base_url)
    _override(overrides, "sandbox", "synthetic_seed", args.synthetic)
    _override(overrides, "sandbox", "edge", args.edge)
    _override(overrides, "sandbox", "data", args.data)
    _override(overrides, "log", "level", args.log_level)
    for section, values in more.items():
        for key, value in values.items():
            _override(overrides, section, key, value)
    settings = load_settings(args.config, embedded=embedded, overrides=overrides)
    configure_logging(settings.log.level, json=settings.log.json_lines or None)
    return settings


def print_json(document: Any) -> None:
    """Print one JSON document on stdout."""
    json.dump(document, sys.stdout, indent=2, allow_nan=False)
    print()


def print_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print aligned columns; numbers to the right."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(line[i]) for line in [list(header), *cells]) for i in range(len(header))]
    print("  ".join(name.ljust(width) for name, width in zip(header, widths, strict=True)).rstrip())
    for row, line in zip(rows, cells, strict=True):
        print(
            "  ".join(
                text.rjust(width) if isinstance(cell, int | float) else text.ljust(width)
                for cell, text, width in zip(row, line, widths, strict=True)
            ).rstrip()
        )


def _override(overrides: dict[str, dict[str, Any]], section: str, key: str, value: Any) -> None:
    if value is not None:
        overrides.setdefault(section, {})[key] = value
