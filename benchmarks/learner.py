"""What the learner reaches of the known optimum, market by market and seed by seed.

Every market of ``learner_markets`` is a long tape that goes through the ordinary training
(``training_window``, ``learn``, the exported policy in numpy) and a fresh tape of another seed on
which the frozen policy is judged; the quadratic market has an environment of its own and the same
algorithm. Each seed of each market is a process of its own with one thread. Run as
``python -m benchmarks.learner --json``; ``--market`` and ``--preset`` narrow it, and
``--set NAME=VALUE`` changes a hyperparameter of the preset; ``--merge`` joins documents of parts.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing as mp
import resource
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from tqdm import tqdm

from benchmarks.document import document
from benchmarks.learner_judge import (
    EVALUATION_BARS,
    Rule,
    best_rule,
    equal_weight,
    judge,
    sign_rule,
)
from benchmarks.learner_markets import MARKETS, TRAINING_BARS, LearnerMarket, Tape, instruments
from benchmarks.learner_optima import interior_optimum
from benchmarks.learner_targets import QUADRATIC, checks
from market.clock import monotonic_seconds
from market.features import compute_features
from training.config import TrainingConfig, TrainingJob, config_from_json, preset
from training.inference import Policy
from training.observation import with_signals
from training.pool import default_workers

Figures = dict[str, Any]

_OTHER_TAPE = 1_000_000
_BP = 1e4


def main() -> None:
    """Train and judge every seed of every market, and print the document."""
    args = _arguments()
    changes = dict(change.split("=", 1) for change in args.set)
    recipe = Recipe(
        preset=args.preset, changes={name: json.loads(value) for name, value in changes.items()}
    )
    markets = args.market or (*MARKETS, QUADRATIC)
    work = [(name, args.seed + number) for name in markets for number in range(args.seeds)]
    if args.merge:
        runs = _merged(args.merge)
        markets = tuple(dict.fromkeys(one["market"] for one in runs))
    else:
        runs = _run_all(work, recipe, args)
    table = {name: _row([one for one in runs if one["market"] == name]) for name in markets}
    figures = {"preset": args.preset, "changes": args.set, "table": table, "runs": runs}
    print(json.dumps(document("learner", figures, list(checks(table))), indent=2))


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What is the same in every market: a preset and the changes asked for on the command line."""

    preset: str
    changes: Mapping[str, Any]

    def config(self, asked: Mapping[str, Any]) -> TrainingConfig:
        """Return the preset with what the market asks for; the command line has the last word."""
        there = preset(self.preset).replace(**asked)
        return config_from_json(there.to_json() | dict(self.changes))


def run(name: str, seed: int, recipe: Recipe) -> Figures:
    """Train one seed on one market and judge it on the fresh tape of the same number."""
    return _run_quadratic(seed, recipe) if name == QUADRATIC else _run_tape(name, seed, recipe)


def train_on(market: LearnerMarket, seed: int, config: TrainingConfig) -> Policy:
    """Train on a tape of the market's and return the exported policy, which runs without torch."""
    from training.learner import export, learn, training_window  # torch only where training is

    tape = market.tape(seed, TRAINING_BARS)
    job = TrainingJob(
        snapshot_dir=Path(market.name),
        start=int(tape.panel.open_time[0]),
        stop=int(tape.panel.close_time[-1]),
        seed=seed,
        config=config,
        costs=market.costs,
    )
    window = training_window(tape.panel, instruments(tape.panel), job, tape.signals)
    model = learn(window, job, lambda _done, _total: None)
    return Policy(export(model, window, job, market.name))


def policy_rule(policy: Policy, tape: Tape) -> Rule:
    """Return the frozen policy as a rule on ``tape``."""
    features = compute_features(tape.panel, policy.schema.features)
    prepared = policy.prepare(tape.panel, with_signals(features, tape.signals))
    offset = policy.schema.lookback_bars - 1
    return lambda bar, state: policy.weights_at(prepared, bar - offset, state)


def _run_tape(name: str, seed: int, recipe: Recipe) -> Figures:
    market = MARKETS[name]
    config = recipe.config(market.config_changes)
    started, used = monotonic_seconds(), _processor_seconds()
    policy = train_on(market, seed, config)
    spent = _spent(started, used)
    tape = market.tape(_OTHER_TAPE + seed, EVALUATION_BARS)
    earned = judge(market, tape, policy_rule(policy, tape))
    best = _optimum(market, tape)
    simple = sign_rule(tape) if name == "ar1" else equal_weight(market)
    return spent | {
        "market": name,
        "seed": seed,
        "steps": config.total_steps,
        "objective_bps": earned.objective * _BP,
        "realised_bps": earned.realised * _BP,
        "optimum_bps": best * _BP,
        "simple_rule_bps": judge(market, tape, simple).objective * _BP,
        "share": earned.objective / best if best > 0 else None,
        "turnover": earned.turnover,
        "weights": earned.weights.tolist(),
    }


def _optimum(market: LearnerMarket, tape: Tape) -> float:
    """What the best rule earns on this very tape; the interior optimum is a bound without costs."""
    if market.risk_aversion:
        return interior_optimum(market)[1]
    return judge(market, tape, best_rule(market, tape)).objective


def _run_quadratic(seed: int, recipe: Recipe) -> Figures:
    # Imported where it runs: it loads torch, which the parent process does not need.
    from benchmarks.learner_quadratic import (
        STEPS,
        best_tracker,
        judge_quadratic,
        predictor,
        train_quadratic,
    )

    config = recipe.config({"total_steps": STEPS})
    started, used = monotonic_seconds(), _processor_seconds()
    model = train_quadratic(seed, config)
    spent = _spent(started, used)
    fresh = _OTHER_TAPE + seed
    earned, best = judge_quadratic(predictor(model), fresh), judge_quadratic(best_tracker, fresh)
    return spent | {
        "market": QUADRATIC,
        "seed": seed,
        "steps": config.total_steps,
        "objective_bps": earned * _BP,
        "optimum_bps": best * _BP,
        "share": earned / best,
    }


def _run_all(
    work: Sequence[tuple[str, int]], recipe: Recipe, args: argparse.Namespace
) -> list[Figures]:
    """Run each item in a fresh process, ``--jobs`` at a time."""
    context = mp.get_context("spawn")  # a fork of a process that has loaded torch hangs
    with ProcessPoolExecutor(args.jobs, mp_context=context, max_tasks_per_child=1) as pool:
        waiting = [pool.submit(run, name, seed, recipe) for name, seed in work]
        return [one.result() for one in tqdm(waiting, unit="run", disable=args.json)]


def _merged(files: Sequence[Path]) -> list[Figures]:
    """The runs of earlier documents, each market and seed once."""
    documents = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    runs = {
        (one["market"], one["seed"]): one for doc in documents for one in doc["figures"]["runs"]
    }
    return list(runs.values())


def _row(runs: Sequence[Mapping[str, Any]]) -> Figures:
    """Summarise the seeds of one market."""
    objective = [one["objective_bps"] for one in runs]
    row: Figures = {
        "steps": runs[0]["steps"],
        "median_bps": median(objective),
        "worst_bps": min(objective),
        "median_loss_bps": -median(objective),
        "worst_loss_bps": -min(objective),
        "processor_seconds": median(one["processor_seconds"] for one in runs),
    }
    if runs[0].get("share") is not None:
        shares = [one["share"] for one in runs]
        row |= {"median_share": median(shares), "worst_share": min(shares)}
    if "turnover" in runs[0]:
        row |= {
            "median_turnover": median(one["turnover"] for one in runs),
            "largest_turnover": max(one["turnover"] for one in runs),
            "smallest_weight": min(min(one["weights"]) for one in runs),
            "worst_lead_on_rule_bps": min(
                one["objective_bps"] - one["simple_rule_bps"] for one in runs
            ),
        }
    return row


def _spent(started: float, used: float) -> Figures:
    return {
        "seconds": round(monotonic_seconds() - started, 2),
        "processor_seconds": round(_processor_seconds() - used, 2),
    }


def _processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.learner", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print the JSON document alone")
    parser.add_argument("--seed", type=int, default=1, help="the first seed (1)")
    parser.add_argument("--seeds", type=int, default=5, help="how many seeds (5)")
    parser.add_argument(
        "--market", action="append", choices=(*MARKETS, QUADRATIC), help="by default all of them"
    )
    parser.add_argument("--preset", default="default", help="of training.config.PRESETS (default)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE",
        help="change a hyperparameter; the value is JSON",
    )  # fmt: skip
    parser.add_argument(
        "--merge", type=Path, nargs="+", metavar="FILE",
        help="train nothing: one table out of the documents of runs in parts",
    )  # fmt: skip
    parser.add_argument("--jobs", type=int, default=default_workers(), help="processes at a time")
    return parser.parse_args()


if __name__ == "__main__":
    main()
