"""What PPO earns on recorded bars that it never saw, beside equal weight, buy and hold, and cash.

One training per preset on the bars before ``--split``, judged again and again while it learns: on
the last year that it was trained on, and on everything after the split. The recordings are not
part of the project: ``--data`` names their folder (``market.sandbox.recorded`` says which files).
Run as ``python -m benchmarks.recorded --data FOLDER --json``.
"""

from __future__ import annotations

import argparse
import json
import resource
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from tqdm import tqdm

from benchmarks.curves import Curve, draw
from benchmarks.document import Check, document
from broker.costs import CostModel, TradingRules
from broker.metrics import max_drawdown, mean_exposure, sharpe, total_return, turnover_per_day
from daemon.targets import parse_time
from market.bar import DAY_MS, bars_per_year
from market.features import compute_features, warmup_bars
from market.instrument import Venue
from market.sandbox.recorded import recorded_tape
from market.sandbox.tape import Tape
from training.baselines import BASELINES
from training.config import PRESETS, TrainingJob, preset
from training.evaluate import (
    BASE,
    AccountTerms,
    Backtest,
    Scenario,
    prepare_window,
    run_baselines,
    run_policies,
)
from training.folds import Window
from training.inference import Policy
from training.learner import export, learn, training_window
from training.observation import required_bars
from training.ppo import PortfolioPPO
from training.simulation import Market, prepare_market

SYMBOLS = tuple(f"{base}/USDT:USDT" for base in ("BTC", "ETH", "SOL", "XRP", "ADA"))
COSTS = CostModel(fee_rate=0.0005, half_spread_bps=1.0, impact_coefficient=0.1)
RULES = TradingRules(participation_cap=0.1)
PURGE_MS = 14 * DAY_MS
"""Between the last bar that is trained on and the first that judges: past any lookback."""
JUDGED_BEFORE_MS = 365 * DAY_MS
JUDGEMENTS = 10

Figures = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trial:
    """One recorded history, cut into what is learned from and what judges.

    Attributes:
        learned: the last year of the training window; unseen: everything after the split.
    """

    tape: Tape
    market: Market
    learned: Window
    unseen: Window

    @classmethod
    def of(cls, tape: Tape, split: int) -> Trial:
        """Cut ``tape`` at ``split``, UTC milliseconds."""
        close_time = tape.panel.close_time
        stop = int(np.searchsorted(close_time, split - PURGE_MS, side="right"))
        first_unseen = int(np.searchsorted(close_time, split, side="right"))
        year = JUDGED_BEFORE_MS // tape.panel.interval_ms
        return cls(
            tape=tape,
            market=prepare_market(tape.panel, tape.instruments),
            learned=Window(
                number=0, train_start=0, train_stop=1, test_start=stop - year, test_stop=stop
            ),
            unseen=Window(
                number=0,
                train_start=0,
                train_stop=stop,
                test_start=first_unseen,
                test_stop=len(close_time),
            ),
        )

    @property
    def train_stop(self) -> int:
        """UTC milliseconds; nothing at or after it is trained on."""
        return int(self.tape.panel.close_time[self.unseen.train_stop - 1])


def main() -> None:
    """Train every preset and print the document."""
    args = _arguments()
    split = parse_time(args.split, "--split")
    tape = recorded_tape(
        args.data,
        venue=Venue.BINANCEUSDM,
        symbols=SYMBOLS,
        since=parse_time(args.since, "--since"),
    )
    trial = Trial.of(tape, split)
    figures: Figures = {
        "seed": args.seed,
        "steps": args.steps,
        "bars": len(tape.panel),
        "split": args.split,
        "baselines": _baselines(trial),
        "presets": {name: _train(trial, name, args) for name in args.preset},
    }
    if args.picture is not None:
        args.picture.write_text(_picture(figures), encoding="utf-8")
    print(json.dumps(document("recorded", figures, list(_checks(figures))), indent=2))


def _baselines(trial: Trial) -> Figures:
    plans = {name: BASELINES[name](trial.tape.panel) for name in BASELINES}
    terms = AccountTerms(costs=COSTS, rules=RULES)
    return {
        name: _figures(tests[0], trial.tape.panel.interval_ms)
        for name, tests in run_baselines(trial.market, plans, [trial.unseen], terms).items()
    }


def _train(trial: Trial, name: str, args: argparse.Namespace) -> Figures:
    panel = trial.tape.panel
    config = preset(name).replace(total_steps=args.steps)
    job = TrainingJob(
        snapshot_dir=Path("recorded"),
        start=int(panel.open_time[0]),
        stop=trial.train_stop,
        seed=args.seed,
        config=config,
        costs=COSTS,
        rules=RULES,
    )
    window = training_window(panel, trial.tape.instruments, job)
    features = compute_features(panel, config.features)
    interval = panel.interval_ms
    lead = required_bars(window.market.schema, warmup_bars(config.features, interval))
    assert trial.learned.test_start > lead, "the recording is too short for a year that is judged"

    def judge(model: PortfolioPPO) -> dict[str, Figures]:
        policy = Policy(export(model, window, job, "recorded"))
        terms = AccountTerms(costs=COSTS, rules=RULES, sigma_window_bars=config.sigma_window_bars)
        case = Scenario(name=BASE, costs=COSTS)
        found = {}
        for which, cut in (("learned", trial.learned), ("unseen", trial.unseen)):
            prepared = prepare_window(policy, cut, panel=panel, features=features)
            tests = run_policies(trial.market, [prepared], [case], terms)
            found[which] = _figures(tests[BASE][0], interval)
        return found

    with tqdm(total=args.steps, unit="step", desc=name, disable=args.json) as bar:
        judgement = _Judgement(judge, every=max(1, args.steps // JUDGEMENTS))
        used = _processor_seconds()
        model = learn(
            window, job, lambda done, _total: bar.update(done - bar.n), callbacks=[judgement]
        )
        used = _processor_seconds() - used - judgement.processor_seconds
    judgement.take(model)
    last = judgement.points[-1]
    return {
        "processor_seconds": round(used, 1),
        "steps_per_processor_second": round(args.steps / used),
        "curve": judgement.points,
        "learned": last["learned"],
        "unseen": last["unseen"],
    }


class _Judgement(BaseCallback):
    """Judges the model, deterministically, every ``every`` transitions."""

    def __init__(self, judge: Callable[[PortfolioPPO], dict[str, Figures]], *, every: int) -> None:
        super().__init__()
        self._judge, self._every, self._due = judge, every, 0
        self.points: list[Figures] = []
        self.processor_seconds = 0.0

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        if self.num_timesteps >= self._due:
            assert isinstance(self.model, PortfolioPPO)
            self.take(self.model)

    def take(self, model: PortfolioPPO) -> None:
        """Add a point at the model's present transition count."""
        before = _processor_seconds()
        self.points.append({"steps": model.num_timesteps, **self._judge(model)})
        self._due = model.num_timesteps + self._every
        self.processor_seconds += _processor_seconds() - before


def _figures(test: Backtest, interval_ms: int) -> Figures:
    per_year = bars_per_year(interval_ms)
    return {
        "net_return": round(total_return(test.net_return), 5),
        "gross_return": round(total_return(test.gross_return), 5),
        "sharpe": _finite(sharpe(test.net_return, bars_per_year=per_year)),
        "max_drawdown": round(max_drawdown(test.net_return), 4),
        "turnover_per_day": round(turnover_per_day(test.turnover, bars_per_year=per_year), 4),
        "mean_exposure": round(mean_exposure(np.abs(test.weights).sum(axis=1)), 4),
        "cost": round(float(test.cost.sum()), 5),
        "funding": round(float(test.funding.sum()), 5),
    }


def _finite(value: float) -> float | None:
    """The figure, or ``None`` where there is none: JSON has no NaN."""
    return round(value, 3) if np.isfinite(value) else None


def _picture(figures: Figures) -> str:
    """Net return of the last year learned from and of the bars never seen, over the steps."""
    curves = []
    for name, one in figures["presets"].items():
        steps = [point["steps"] for point in one["curve"]]
        for which in ("learned", "unseen"):
            values = [point[which]["net_return"] for point in one["curve"]]
            curves.append(Curve(f"{name}, {which}", steps, values, dashed=which == "learned"))
    for name in ("equal_weight", "buy_and_hold", "cash"):
        value = figures["baselines"][name]["net_return"]
        curves.append(Curve(f"{name}, unseen", [0, figures["steps"]], [value, value]))
    return draw(curves, across="transitions", up="net return")


def _checks(figures: Figures) -> Sequence[Check]:
    """The honest line: out of sample, against what anybody could have done."""
    yardsticks = {
        name: figures["baselines"][name]["net_return"]
        for name in ("equal_weight", "buy_and_hold", "cash")
    }
    return [
        Check(
            name=f"{name}_unseen_net_return_above_{yardstick}",
            value=one["unseen"]["net_return"],
            target=f"> {value:g}",
            holds=one["unseen"]["net_return"] > value,
        )
        for name, one in figures["presets"].items()
        for yardstick, value in yardsticks.items()
    ]


def _processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.recorded", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the recordings")
    parser.add_argument("--since", default="2020-11-01", help="first bar (2020-11-01)")
    parser.add_argument("--split", default="2023-07-01", help="first decision judged (2023-07-01)")
    parser.add_argument(
        "--preset", nargs="+", choices=sorted(PRESETS), default=["default", "textbook"],
        help="training presets (default textbook)",
    )  # fmt: skip
    parser.add_argument("--steps", type=int, default=1_000_000, help="transitions (1,000,000)")
    parser.add_argument("--seed", type=int, default=1, help="of each training (1)")
    parser.add_argument("--picture", type=Path, help="write the learning curves there, as SVG")
    parser.add_argument("--json", action="store_true", help="no progress bar, the document only")
    return parser.parse_args()


if __name__ == "__main__":
    main()
