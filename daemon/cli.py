"""The command line: one parser, one way to report errors, one table of exit codes.

0 done · 1 a fault of ours or of something we need · 2 bad input, nothing written · 3 the venue or
the warehouse cannot be reached · 130 interrupted. ``--json`` prints one JSON document on stdout;
logs and progress go to stderr.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import version

from daemon.commands.common import UsageError
from daemon.settings import SettingsError

EXIT_DONE = 0
EXIT_FAULT = 1
EXIT_BAD_INPUT = 2
EXIT_UNREACHABLE = 3
EXIT_INTERRUPTED = 130

# Each module offers ``add(subparsers)``; what a command needs is imported when it runs.
COMMANDS = (
    "run",
    "sandbox",
    "importing",
    "data",
    "backfill",
    "snapshot",
    "signals",
    "retrain",
    "models",
    "replay",
    "account",
    "status",
    "doctor",
)

DESCRIPTION = """\
Ballast: a paper-trading daemon that learns its own portfolio weights.
It reads public market data, needs no API key and can never place a real order."""

EPILOG = """\
examples:
  ballast run                               sandbox venue, everything embedded, page on :8710
  ballast run --exchange binanceusdm        live public data of Binance USD-M
  ballast run --until-bars 100 --json       stop after 100 decisions and print a summary
  ballast models show                       why the last candidate was promoted or refused
  ballast account check                     verify the ledger
  ballast doctor --exchange bybit           does everything hold that we rely on there?
  ballast data check                        coverage, gaps, quarantine, staleness
"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser with every command."""
    parser = argparse.ArgumentParser(
        prog="ballast",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"ballast {version('ballast')}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name in COMMANDS:
        import_module(f"daemon.commands.{name}").add(subparsers)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    args = build_parser().parse_args(argv)
    try:
        return int(args.execute(args))
    except (UsageError, SettingsError) as error:
        return _report(error, EXIT_BAD_INPUT)
    except KeyboardInterrupt:
        print("ballast: interrupted; what was stored stays", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()
        return EXIT_DONE
    except Exception as error:
        return _report_known(error)


def _report_known(error: Exception) -> int:
    """Report a fault that has a sentence for a person; anything else is a bug and raises."""
    from broker.database import DatabaseUnavailable, SchemaMismatch
    from broker.store import LedgerConflict
    from daemon.monitor.security import MonitorError
    from daemon.targets import WeightsFileError
    from daemon.venue import SandboxFailed, SandboxRefused
    from market.importing import ImportRejected
    from market.retry import NotOffered, VenueError
    from market.sandbox.server import PortInUse
    from market.warehouse import WarehouseError
    from training.signal_inputs import SignalMissing

    match error:
        case SandboxRefused():
            return EXIT_BAD_INPUT  # the child has printed the line already
        case NotOffered():
            return _report(error, EXIT_BAD_INPUT)
        case VenueError() | WarehouseError():
            return _report(error, EXIT_UNREACHABLE)
        case WeightsFileError() | ImportRejected() | PortInUse() | MonitorError() | SignalMissing():
            return _report(error, EXIT_BAD_INPUT)
        case DatabaseUnavailable() | SchemaMismatch() | LedgerConflict() | SandboxFailed():
            return _report(error, EXIT_FAULT)
    raise error


def _report(error: Exception, code: int) -> int:
    print(f"ballast: error: {error}", file=sys.stderr)
    for hint in getattr(error, "__notes__", ()):
        print(f"ballast: hint: {hint}", file=sys.stderr)
    return code
