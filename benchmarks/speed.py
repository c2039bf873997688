"""How quick training is, against the textbook's way, with the same market and the same samples.

``textbook`` is ``benchmarks.textbook``: eight scalar environments (in subprocesses, and in one
process) and stable-baselines3's PPO unchanged. Ours runs with the textbook's hyperparameters (with
its network, and with ours) and with the presets named by ``--preset``. Everything has one thread;
the textbook is tried with two for a round, to see that one is better.

Every variant is a process of its own. They take turns, a cycle of update and rollout each, round
after round, so that what else the machine does falls on all alike, and a ratio is taken between
turns of the same round; the document has the medians and every round. Counted are transitions per
processor second, environments' processes included, and per second. Rollouts are shorter than the
textbook's 2048 steps, which changes how long a cycle takes and not what a transition costs.

The textbook's scalar environment has our kernel's arithmetic, at a price per step that is stated
(``environment_processor_seconds_per_transition``), so that it can be told from the learner's.
``share_of_limit`` is the arithmetic of the networks' layers at that speed over what the processor
reaches on a product of square matrices. ``memory`` trains with 64 environments on three years of
hourly bars. Run as ``python -m benchmarks.speed --json``; ``--size`` chooses the market.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.vec_env import VecEnv
from tqdm import tqdm

from benchmarks import textbook
from benchmarks.document import Check, document
from benchmarks.training_market import FEATURES, SHAPES, Size, instruments_of, job_on, made_up_panel
from market.clock import monotonic_seconds
from training.config import PRESETS, PolicyKind, TrainingConfig, preset
from training.learner import Progress, learn, training_window
from training.observation import GLOBALS
from training.precision import has_bfloat16, reduced_precision

BARS = 10_000
MEMORY_BARS = 3 * 365 * 24
MEMORY_ENVIRONMENTS = 64
TEXTBOOK_ROLLOUT_STEPS = 256
MATRIX_SIDE = 1024
ENVIRONMENT_STEPS = 100
ONE_THREAD = ("textbook_subprocess_1", "textbook_serial_1")
TWO_THREADS = "textbook_serial_2"
BASELINES = (*ONE_THREAD, TWO_THREADS)
PROBE_ROUNDS = 1
OURS_TEXTBOOK = "ours_textbook"
OURS_TEXTBOOK_SHARED = "ours_textbook_shared"
MEMORY = "memory"
ENVIRONMENT_SECONDS = "environment_processor_seconds_per_transition"
UNITS = ("per_processor_second", "per_second")

Figures = dict[str, Any]


def main() -> None:
    """Run every part and print the document."""
    args = _arguments()
    if args.part:
        _PARTS.get(args.part, _ours)(args)
        return
    figures: Figures = {"seed": args.seed, "rounds": args.rounds}
    sizes = [args.size] if args.size else list(Size)
    for size in sizes:
        figures[size.value] = _measure(size, args)
    print(json.dumps(document("speed", figures, list(_checks(figures, sizes))), indent=2))


def _measure(size: Size, args: argparse.Namespace) -> Figures:
    """Let the variants take turns, a cycle each, and compare what was close in time."""
    ours = [OURS_TEXTBOOK, OURS_TEXTBOOK_SHARED, *(f"ours_{name}" for name in args.preset)]
    with ExitStack() as stack:
        workers = {
            name: stack.enter_context(_worker(name, size, args))
            for name in ("limit", *BASELINES, *ours)
        }
        turns: dict[str, list[Figures]] = {name: [] for name in workers}
        for number in tqdm(range(args.rounds + 1), unit="round", desc=size, disable=args.json):
            for name, worker in workers.items():
                if name == TWO_THREADS and number > PROBE_ROUNDS:
                    continue
                turn = _turn(worker)
                if number:  # the first is a warm-up
                    turns[name].append(turn)
    limits = [turn["gigaflops"] for turn in turns.pop("limit")]
    found = {name: _summary(each, statistics.median(limits)) for name, each in turns.items()}
    with _worker(MEMORY, size, args) as worker:
        memory = _turn(worker)
    return {
        "matrix_gigaflops": [round(limit, 1) for limit in limits],
        "variants": found,
        "against_textbook": {name: _against(turns, name) for name in ours},
        "memory": memory,
    }


def _summary(turns: Sequence[Figures], limit: float) -> Figures:
    rates = {unit: round(statistics.median(turn[unit] for turn in turns), 1) for unit in UNITS}
    per_transition = turns[0]["megaflop_per_transition"]
    reached = rates["per_processor_second"] * per_transition / 1e3
    return rates | {
        "turns": [round(turn["per_processor_second"], 1) for turn in turns],
        "megaflop_per_transition": round(per_transition, 2),
        "share_of_limit": round(reached / limit, 3),
        "peak_rss_mb": turns[-1]["peak_rss_mb"],
        ENVIRONMENT_SECONDS: turns[-1][ENVIRONMENT_SECONDS],
    }


def _against(turns: Mapping[str, Sequence[Figures]], name: str) -> Figures:
    """Times as fast as the better of the baselines in the same round: median, and every round."""
    figures: Figures = {}
    for unit in UNITS:
        times = [
            turn[unit] / max(turns[base][number][unit] for base in ONE_THREAD)
            for number, turn in enumerate(turns[name])
        ]
        figures[unit] = round(statistics.median(times), 2)
        figures[f"{unit}_rounds"] = [round(each, 2) for each in times]
    return figures


@contextmanager
def _worker(part: str, size: Size, args: argparse.Namespace) -> Iterator[subprocess.Popen[str]]:
    """A process that runs one variant, a cycle whenever it is asked."""
    command = [sys.executable, "-m", "benchmarks.speed", "--part", part, "--size", size]
    command += ["--seed", str(args.seed), "--preset", *args.preset]
    environment = os.environ | {"OMP_NUM_THREADS": "2" if part == TWO_THREADS else "1"}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()  # it is ready
        yield process
        assert process.stdin is not None
        process.stdin.close()


def _turn(worker: subprocess.Popen[str]) -> Figures:
    assert worker.stdin is not None
    assert worker.stdout is not None
    worker.stdin.write("go\n")
    worker.stdin.flush()
    figures: Figures = json.loads(worker.stdout.readline())
    return figures


class Finished(Exception):
    """Nobody asks for another turn."""


class Turns:
    """Waits to be asked after each rollout, and says what the cycle until the next one took."""

    def __init__(self, config: TrainingConfig, size: Size, children: Sequence[int] = ()) -> None:
        """``children`` are processes whose time counts too."""
        assets = SHAPES[size].assets
        self._megaflop = megaflop_per_transition(config, assets=assets)
        self._children = children
        self._asked: tuple[int, float, float] | None = None
        self.environment_seconds: float | None = None

    def after_rollout(self, transitions: int) -> None:
        """Report the cycle that ends here, and wait.

        Raises:
            Finished: the other side is gone.
        """
        now = self._now(transitions)
        if self._asked is None:
            print("ready", flush=True)
        else:
            done, used, seconds = (now[i] - self._asked[i] for i in range(3))
            figures = {
                "per_processor_second": done / used,
                "per_second": done / seconds,
                "megaflop_per_transition": self._megaflop,
                "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
                ENVIRONMENT_SECONDS: self.environment_seconds,
            }
            print(json.dumps(figures), flush=True)
        if not sys.stdin.readline():
            raise Finished
        self._asked = self._now(transitions)

    def _now(self, transitions: int) -> tuple[int, float, float]:
        used = _processor_seconds() + sum(map(_processor_seconds_of_process, self._children))
        return transitions, used, monotonic_seconds()


def _textbook(args: argparse.Namespace) -> None:
    _, kind, threads = args.part.split("_")
    config = _config_of(OURS_TEXTBOOK, args.size)
    assets = SHAPES[args.size].assets
    env = textbook.environments(kind, config, seed=args.seed, bars=BARS, assets=assets)
    children = [process.pid for process in getattr(env, "processes", [])]
    turns = Turns(config, args.size, children)
    if not children:
        turns.environment_seconds = _environment_seconds(env)
    with suppress(Finished):
        textbook.learn(env, config, threads=int(threads), after_rollout=turns.after_rollout)
    env.close()


def _environment_seconds(env: VecEnv) -> float:
    """Processor seconds per transition of serial scalar environments, without any learning."""
    actions = np.zeros((env.num_envs, *(env.action_space.shape or ())), dtype=np.float32)
    env.reset()
    before = _processor_seconds()
    for _ in range(ENVIRONMENT_STEPS):
        env.step(actions)
    return (_processor_seconds() - before) / ENVIRONMENT_STEPS / env.num_envs


def _ours(args: argparse.Namespace) -> None:
    config = _config_of(args.part, args.size)
    turns = Turns(config, args.size)
    _learn(config, BARS, args, lambda done, _total: turns.after_rollout(done))


def _memory(args: argparse.Namespace) -> None:
    """Two rollouts and an update with 64 environments; whatever the preset has."""
    config = _config_of(f"ours_{args.preset[0]}", args.size)
    steps = max(config.rollout_steps, config.batch_size // MEMORY_ENVIRONMENTS)
    config = config.replace(env_count=MEMORY_ENVIRONMENTS, rollout_steps=steps)
    turns = Turns(config, args.size)
    _learn(config, MEMORY_BARS, args, lambda done, _total: turns.after_rollout(done))


def _learn(config: TrainingConfig, bars: int, args: argparse.Namespace, progress: Progress) -> None:
    panel = made_up_panel(args.seed, bars=bars, assets=SHAPES[args.size].assets)
    job = job_on(panel, config, args.seed)
    window = training_window(panel, instruments_of(panel), job)
    with suppress(Finished):
        learn(window, job, progress)


def _limit(_args: argparse.Namespace) -> None:
    """Gigaflops of a product of square matrices on one thread, rounded as updates round."""
    torch.set_num_threads(1)
    left, right = torch.rand(2, MATRIX_SIDE, MATRIX_SIDE)
    device = torch.device("cpu")
    print("ready", flush=True)
    with reduced_precision(device):
        while sys.stdin.readline():
            taken = min(_processor_seconds_of_product(left, right) for _ in range(8))
            figures = {"gigaflops": 2 * MATRIX_SIDE**3 / taken / 1e9}
            print(json.dumps(figures | {"bfloat16": has_bfloat16(device)}), flush=True)


def _processor_seconds_of_product(left: torch.Tensor, right: torch.Tensor) -> float:
    before = _processor_seconds()
    for _ in range(5):
        torch.mm(left, right)
    return (_processor_seconds() - before) / 5


def _config_of(part: str, size: Size) -> TrainingConfig:
    """What a variant trains with: the textbook's hyperparameters, or a preset as it is."""
    seen: dict[str, Any] = {"features": FEATURES, "lookback_bars": SHAPES[size].lookback_bars}
    if part in (OURS_TEXTBOOK, OURS_TEXTBOOK_SHARED):
        config = preset("textbook").replace(rollout_steps=TEXTBOOK_ROLLOUT_STEPS, **seen)
        if part == OURS_TEXTBOOK_SHARED:
            ours = preset("fast")
            config = config.replace(
                policy=PolicyKind.SHARED,
                actor_sizes=ours.actor_sizes,
                critic_sizes=ours.critic_sizes,
            )
        return config
    return preset(part.removeprefix("ours_")).replace(**seen)


def megaflop_per_transition(config: TrainingConfig, *, assets: int) -> float:
    """Arithmetic of the layers' products for one transition, once collected and then learned.

    A product costs two operations per weight and row; a gradient for the weights the same again,
    and one for the inputs too except in the first layer.
    """
    window = config.lookback_bars * (len(config.features) + 1)
    first, later = 0, 0
    for sizes, outputs in ((config.actor_sizes, assets), (config.critic_sizes, 1)):
        if config.policy is PolicyKind.MLP:
            widths = (assets * window + assets + len(GLOBALS), *sizes, outputs)
            products = [widths[i] * widths[i + 1] for i in range(len(widths) - 1)]
        else:
            widths = (window + 1, *sizes, 1)
            products = [(assets + 1) * widths[i] * widths[i + 1] for i in range(len(widths) - 1)]
        first, later = first + products[0], later + sum(products[1:])
    forward = first + later
    return 2 * (forward + config.epochs * (2 * forward + later)) / 1e6


def _processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _processor_seconds_of_process(number: int) -> float:
    """What a living child has used; ``/proc`` knows it before it has ended."""
    fields = Path(f"/proc/{number}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


_LEAST = {
    Size.SMALL: {OURS_TEXTBOOK: 2.5, "ours_fast": 7.0},
    Size.LARGE: {OURS_TEXTBOOK: 2.5, "ours_fast": 10.0},
}
_MEMORY_MB = {Size.SMALL: 350, Size.LARGE: 700}


def _checks(figures: Mapping[str, Any], sizes: Sequence[Size]) -> Iterator[Check]:
    for size in sizes:
        found = figures[size.value]
        for name, least in _LEAST[size].items():
            for unit in UNITS if name in found["against_textbook"] else ():
                times = found["against_textbook"][name][unit]
                yield Check(
                    name=f"{size}_{name}_times_textbook_{unit}",
                    value=times,
                    target=f">= {least:g}",
                    holds=times >= least,
                )
        used = found["memory"]["peak_rss_mb"]
        yield Check(
            name=f"{size}_trainer_peak_rss_mb",
            value=used,
            target=f"<= {_MEMORY_MB[size]}",
            holds=used <= _MEMORY_MB[size],
        )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.speed", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="of the made-up market (1)")
    parser.add_argument("--size", type=Size, choices=list(Size), help="one market (both)")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each variant (5)")
    parser.add_argument(
        "--preset", nargs="+", choices=sorted(PRESETS), default=["fast"],
        help="ours beside the textbook's hyperparameters (fast)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print the JSON document alone")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    return parser.parse_args()


_PARTS: Mapping[str, Callable[[argparse.Namespace], None]] = {
    "limit": _limit,
    MEMORY: _memory,
    **dict.fromkeys(BASELINES, _textbook),
}


if __name__ == "__main__":
    main()
