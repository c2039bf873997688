"""How often the gates promote on a planted edge and refuse where there is none.

Runs the whole retraining (walk-forward, gates) on synthetic markets of several seeds, with the
edge and without it. Run as ``python -m benchmarks.promotion --seed 100 --markets 4``.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks.document import Check, document
from broker.costs import CostModel
from market.clock import monotonic_seconds
from market.sandbox.synthetic import synthetic_tape
from market.snapshot import save_snapshot
from training.config import preset
from training.pipeline import RetrainRequest, retrain
from training.registry import Registry

COSTS = CostModel(fee_rate=0.0005, half_spread_bps=1.0, impact_coefficient=0.1)


def main() -> None:
    """Judge every market and print the table, or the JSON document alone."""
    args = _arguments()
    rows = []
    work = [(seed, edge) for seed in range(args.seed, args.seed + args.markets) for edge in (1, 0)]
    for seed, edge in tqdm(work, unit="market"):
        rows.append(_judge(seed, float(edge), args.preset))
        if not args.json:
            print(rows[-1], file=sys.stderr)
    print(json.dumps(document("promotion", {"markets": rows}, _checks(rows)), indent=2))


def _judge(seed: int, edge: float, name: str) -> dict[str, Any]:
    """Retrain on one market in a folder of its own and return what came out."""
    tape = synthetic_tape(seed=seed, edge=edge, future_bars=0)
    started = monotonic_seconds()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        snapshot = save_snapshot(tape.panel, tape.instruments, venue=tape.venue.value, root=root)
        url = f"sqlite:///{root / 'registry.sqlite'}"
        request = RetrainRequest(
            run_id="benchmark",
            trigger="manual",
            snapshot_dir=snapshot.directory,
            registry_url=url,
            models_dir=root / "models",
            at=int(tape.panel.close_time[-1]),
            config=preset(name),
            costs=COSTS,
        )
        result = retrain(request, lambda _event: None)
        registry = Registry.open(url)
        figures = registry.model(result.model_id).lineage["policy"]["base"]
        registry.close()
    return {
        "seed": seed,
        "edge": edge,
        "promoted": result.verdict.passed,
        "failed": [check.name for check in result.verdict.checks if check.refuses],
        "net_sharpe": figures["net_sharpe"],
        "mean_exposure": figures["mean_exposure"],
        "wall_seconds": round(monotonic_seconds() - started, 1),
    }


def _checks(rows: list[dict[str, Any]]) -> list[Check]:
    with_edge = [row["promoted"] for row in rows if row["edge"] > 0]
    without = [not row["promoted"] for row in rows if row["edge"] == 0]
    promoted, refused = sum(with_edge) / len(with_edge), sum(without) / len(without)
    return [
        Check(name="promoted_with_edge", value=promoted, target=">= 0.5", holds=promoted >= 0.5),
        Check(name="refused_without_edge", value=refused, target=">= 0.95", holds=refused >= 0.95),
    ]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.promotion", description=__doc__)
    parser.add_argument("--seed", type=int, default=100, help="of the first market (100)")
    parser.add_argument("--markets", type=int, default=2, help="markets with and without (2)")
    parser.add_argument("--preset", default="bootstrap", help="training preset (bootstrap)")
    parser.add_argument("--json", action="store_true", help="no progress lines, the document only")
    return parser.parse_args()


if __name__ == "__main__":
    main()
