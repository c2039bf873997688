"""How fast the features are, by group and in all, and how much memory the work takes.

One thread. ``bar_assets_per_second`` counts bars × assets, ``values_per_second`` also × features,
both in millions per processor second; ``working_mb`` is the most memory that was held at once
beyond the panel and the result. Run as ``python -m benchmarks.features --json``.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tracemalloc
from collections.abc import Mapping
from typing import Any

import numpy as np
from tqdm import tqdm

from benchmarks.document import Check, document
from market.bar import HOUR_MS
from market.feature_spec import FeatureGroup
from market.features import DEFAULT_FEATURES, FEATURES, compute_features
from market.panel import Panel

SECONDS_LIMIT = 10.0
WORKING_MB_LIMIT = 256.0
VALUES_BEFORE = 5.9
"""Million values per second of the thirteen features before there was a catalogue."""
_MILLION = 1e6


def main() -> None:
    """Time every group, the default set and the whole catalogue; print the JSON document."""
    args = _arguments()
    panel = random_panel(args.seed, bars=args.bars, assets=args.assets)
    choices = {
        group.value: tuple(name for name, spec in FEATURES.items() if spec.group is group)
        for group in FeatureGroup
    } | {"default": DEFAULT_FEATURES, "all": tuple(FEATURES)}
    figures: dict[str, Any] = {"bars": args.bars, "assets": args.assets}
    for name, names in tqdm(choices.items(), unit="group", disable=args.json):
        figures[name] = measure(panel, names)
        if not args.json:
            print(name, figures[name], file=sys.stderr)
    print(json.dumps(document("features", figures, _checks(figures)), indent=2))


def measure(panel: Panel, names: tuple[str, ...]) -> dict[str, float]:
    """Compute ``names`` twice: for the time, and for the memory, since tracing it takes time."""
    before = _processor_seconds()
    compute_features(panel, names)
    seconds = _processor_seconds() - before
    cells = len(panel) * len(panel.symbols)
    return {
        "features": len(names),
        "processor_seconds": round(seconds, 3),
        "bar_assets_per_second": round(cells / seconds / _MILLION, 2),
        "values_per_second": round(cells * len(names) / seconds / _MILLION, 2),
        "working_mb": round(_working_bytes(panel, names) / _MILLION, 1),
    }


def _working_bytes(panel: Panel, names: tuple[str, ...]) -> int:
    tracemalloc.start()
    result = compute_features(panel, names)
    _now, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak - result.values.nbytes - result.known.nbytes


def _processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _checks(figures: Mapping[str, Any]) -> list[Check]:
    whole, default = figures["all"], figures["default"]
    scale = 2_000_000 / (figures["bars"] * figures["assets"])
    seconds = whole["processor_seconds"] * scale
    return [
        Check(
            name="whole_catalogue_seconds_per_2m_bar_assets",
            value=round(seconds, 3),
            target=f"<= {SECONDS_LIMIT:g}",
            holds=seconds <= SECONDS_LIMIT,
        ),
        Check(
            name="whole_catalogue_working_mb",
            value=whole["working_mb"],
            target=f"<= {WORKING_MB_LIMIT:g}",
            holds=whole["working_mb"] <= WORKING_MB_LIMIT,
        ),
        *(
            Check(
                name=f"{name}_million_values_per_second",
                value=figure["values_per_second"],
                target=f">= {VALUES_BEFORE:g}",
                holds=figure["values_per_second"] >= VALUES_BEFORE,
            )
            for name, figure in (("default", default), ("whole_catalogue", whole))
        ),
    ]


def random_panel(seed: int, *, bars: int, assets: int) -> Panel:
    """Return hourly random walks with every input given; the first asset is Bitcoin."""
    rng = np.random.default_rng(seed)
    shape = (bars, assets)
    close = 100.0 * np.exp(np.cumsum(rng.normal(0, 0.003, shape), axis=0))
    high = close * (1.0 + 0.005 * rng.random(shape))
    low = close * (1.0 - 0.005 * rng.random(shape))
    volume = np.exp(rng.normal(5, 1, shape))
    rate = np.full(shape, np.nan)
    rate[::8] = rng.normal(0, 0.0002, rate[::8].shape)
    zero = np.zeros(shape)
    return Panel(
        symbols=("BTC/USDT:USDT", *(f"A{number}/USDT:USDT" for number in range(1, assets))),
        interval_ms=HOUR_MS,
        open_time=HOUR_MS * np.arange(bars, dtype=np.int64),
        open=(high + low) / 2.0,
        high=high,
        low=low,
        close=close,
        volume=volume,
        quote_volume=volume * close,
        trades=np.floor(volume) + 1.0,
        taker_buy_volume=volume * rng.random(shape),
        mark_open=close,
        mark_high=high,
        mark_low=low,
        mark_close=close * (1.0 + rng.normal(0, 0.0003, shape)),
        funding_rate=rate,
        funding_at_open=zero,
        funding_in_bar=zero,
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--bars", type=int, default=100_000)
    parser.add_argument("--assets", type=int, default=20)
    parser.add_argument("--json", action="store_true", help="print the document alone")
    return parser.parse_args()


if __name__ == "__main__":
    main()
