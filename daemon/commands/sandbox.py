"""``ballast sandbox``: a simulated venue on loopback."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import textwrap
import threading
from pathlib import Path

from daemon.commands.common import Subparsers, UsageError, add_json_option
from daemon.log import configure_logging
from daemon.targets import parse_time
from daemon.venue import TAPE_ENDED
from market.bar import DAY_MS, MINUTE_MS
from market.instrument import Venue
from market.sandbox.edits import edit_tape
from market.sandbox.fault_edits import edits_of
from market.sandbox.faults import Fault, FaultFileError, FaultKind, load_faults
from market.sandbox.tape import Tape

LAST_BAR_SECONDS = 3.0
HISTORY_DAYS = {"1h": 730, "1m": 2}
FUTURE_MINUTE_DAYS = 14

FAULTS_HELP = f"""\
scripted faults (--faults FILE), times on the venue's clock:

  [[fault]]
  kind = "silence"                  # what goes wrong
  after = "90m"                     # counted from the start; or: at = 2024-07-01T09:30:00Z
  for = "5m"                        # how long (ms, s, m, h, d)
  symbols = ["BTC/USDT:USDT"]       # all symbols without this line

  kinds: {textwrap.fill(", ".join(FaultKind), width=70, subsequent_indent=" " * 9)}

  deploy/faults.example.toml has one of each with its parameters, docs/faults.md what each looks
  like, what stays true and what a good client does. Rehearse faults at --speed 60 or less, with
  --interval 1m. With faults the venue also closes websockets after 24 hours of its time.
  GET /sandbox/faults shows what was injected, GET /sandbox/truth every true bar.
"""


def add(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "sandbox",
        help="run a simulated venue on loopback",
        description="Serve Binance USD-M, Binance spot, Bybit linear or Bybit spot over REST and "
        "websocket on 127.0.0.1, from recorded Parquet bars or a seeded synthetic market. Not "
        "real data.",
        epilog=FAULTS_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--exchange",
        choices=[venue.value for venue in Venue],
        default=Venue.BINANCEUSDM.value,
        help="whose protocol to speak (default: binanceusdm)",
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--data", type=Path, metavar="DIR", help="folder of recorded Parquet bars")
    source.add_argument(
        "--synthetic", type=int, metavar="SEED", default=7, help="seed of a synthetic market (7)"
    )
    parser.add_argument("--edge", type=float, default=1.0, metavar="X", help="planted edge (1)")
    parser.add_argument("--symbols", metavar="A,B", help="comma-separated (default: five majors)")
    parser.add_argument(
        "--interval",
        choices=["1h", "1m"],
        default="1h",
        help="of a synthetic market's bars (1h); one-minute bars have no planted edge",
    )
    parser.add_argument(
        "--history-days",
        type=int,
        metavar="N",
        help="history before the start (730; of one-minute bars 2)",
    )
    parser.add_argument("--start", metavar="TIME", help="venue time at the start")
    parser.add_argument(
        "--speed",
        type=float,
        default=3600.0,
        metavar="X",
        help="venue seconds per real second (3600); 0 with --lock-step: as commits come",
    )
    parser.add_argument(
        "--lock-step", action="store_true", help="wait for the daemon's commit before each bar"
    )
    parser.add_argument(
        "--faults", type=Path, metavar="FILE", help="what goes wrong and when (TOML, see below)"
    )
    parser.add_argument(
        "--enforce-limits", action="store_true", help="refuse requests over the venue's limit"
    )
    parser.add_argument(
        "--log", type=Path, metavar="FILE", help="append every entry of the venue's log to a file"
    )
    parser.add_argument("--port", type=int, default=8711, metavar="P", help="0: any free (8711)")
    parser.add_argument("--until-parent-ends", action="store_true", help=argparse.SUPPRESS)
    add_json_option(parser)
    parser.set_defaults(execute=execute)


def execute(args: argparse.Namespace) -> int:
    """Build the tape and serve it until stopped."""
    configure_logging("warning" if args.json else "info")
    if args.speed < 0 or (args.speed == 0 and not args.lock_step):
        raise UsageError(f"--speed {args.speed:g}: must be positive (0 only with --lock-step)")
    if args.history_days is None:
        args.history_days = HISTORY_DAYS[args.interval]
    if args.interval == "1m" and args.data is not None:
        raise UsageError("--interval 1m: only for a synthetic market, not with --data")
    if args.until_parent_ends:
        threading.Thread(target=_end_with_parent, daemon=True).start()
    tape = _tape(args)
    start = _start(args, tape)
    faults = _faults(args, tape, start)
    return asyncio.run(_serve(args, tape, start, faults))


def _tape(args: argparse.Namespace) -> Tape:
    from market.sandbox.synthetic import default_symbols

    venue = Venue(args.exchange)
    symbols = tuple(args.symbols.split(",")) if args.symbols else default_symbols(venue)
    try:
        if args.data is not None:
            from market.sandbox.recorded import recorded_tape

            return recorded_tape(args.data, venue=venue, symbols=symbols)
        if args.interval == "1m":
            return _minute_tape(args, venue, symbols)
        from market.sandbox.synthetic import synthetic_tape

        return synthetic_tape(
            seed=args.synthetic,
            venue=venue,
            symbols=symbols,
            history_bars=args.history_days * 24,
            edge=args.edge,
        )
    except ValueError as error:
        raise UsageError(str(error)) from None


def _minute_tape(args: argparse.Namespace, venue: Venue, symbols: tuple[str, ...]) -> Tape:
    from market.sandbox.minutes import minute_tape
    from market.sandbox.synthetic import DEFAULT_START

    return minute_tape(
        seed=args.synthetic,
        venue=venue,
        symbols=symbols,
        start=DEFAULT_START - args.history_days * DAY_MS,
        bars=(args.history_days + FUTURE_MINUTE_DAYS) * DAY_MS // MINUTE_MS,
    )


def _start(args: argparse.Namespace, tape: Tape) -> int:
    first, last = int(tape.panel.open_time[0]), int(tape.panel.close_time[-1])
    if args.start is None:
        history: int = args.history_days * DAY_MS
        return min(first + history, last)
    start = parse_time(args.start, "--start")
    if not first <= start <= last:
        raise UsageError(f"--start {args.start}: the tape covers {first} to {last} (UTC ms)")
    return start - start % tape.panel.interval_ms


def _faults(args: argparse.Namespace, tape: Tape, start: int) -> tuple[Fault, ...]:
    if args.faults is None:
        return ()
    try:
        faults = load_faults(args.faults, start=start, symbols=tape.panel.symbols)
        edit_tape(tape, edits_of(faults, interval_ms=tape.panel.interval_ms))
    except FaultFileError as error:
        raise UsageError(str(error)) from None
    except ValueError as error:
        raise UsageError(f"{args.faults}: {error}") from None
    return faults


async def _serve(
    args: argparse.Namespace, tape: Tape, start: int, faults: tuple[Fault, ...]
) -> int:
    """Serve until a signal; a child of the daemon also ends with its tape."""
    from market.sandbox.server import SandboxOptions, serve

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    options = SandboxOptions(
        tape=tape,
        start=start,
        speed=args.speed,
        lock_step=args.lock_step,
        port=args.port,
        faults=faults,
        enforce_limits=args.enforce_limits,
        connection_life_ms=DAY_MS if faults else None,
        log_path=args.log,
    )
    async with serve(options) as sandbox:
        facts = {"url": sandbox.url, "start": start, "description": tape.description}
        if args.json:
            print(json.dumps(facts), flush=True)
        else:
            print(f"{tape.description}\nlistening on {sandbox.url}", flush=True)
        ended = asyncio.create_task(sandbox.wait_ended())
        stopped = asyncio.create_task(stop.wait())
        waiting = {stopped, ended} if args.until_parent_ends else {stopped}
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        over = not stop.is_set()
        if over:
            await asyncio.sleep(LAST_BAR_SECONDS)  # the last close is still being decided
        ended.cancel()
        stopped.cancel()
    return TAPE_ENDED if over else 0


def _end_with_parent() -> None:
    """End this process when the pipe from its parent closes, however the parent died."""
    while os.read(0, 4096):  # unbuffered: nothing to hold at interpreter shutdown
        pass
    os.kill(os.getpid(), signal.SIGTERM)
