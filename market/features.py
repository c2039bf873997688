"""What a policy sees of the market: causal features of every asset at the close of every bar.

Owns how features are computed: chosen by name, masked where unknown, clipped to their bounds.
What they are is ``market.feature_table``; their arithmetic ``market.feature_formulas``. Live and
training call the one function here. It does no IO and must never look ahead, never guess, and
never depend on anything further back than ``warmup_bars``: the row of the last bar computed from
that many bars is bit-equal to the same row computed from all history. That is also why a long
history is worked off in blocks of bars, in bounded memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from market.feature_formulas import FORMULAS
from market.feature_table import (
    DEFAULT_FEATURES,
    FEATURES,
    WARMUP_BARS,
    UnknownFeature,
    selected,
    warmup_bars,
)
from market.measures import Measures
from market.panel import ARRAY_FIELDS, BoolArray, Panel

__all__ = [
    "DEFAULT_FEATURES",
    "FEATURES",
    "WARMUP_BARS",
    "Features",
    "UnknownFeature",
    "compute_features",
    "selected",
    "warmup_bars",
]

Float32Array = npt.NDArray[np.float32]

# Bars × assets of a block: its intermediate arrays then stay within the processor's caches.
_BLOCK_CELLS = 1 << 16
# A block is at least this many times its lead, so that little is computed twice.
_LEADS_PER_BLOCK = 4


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Features:
    """Features of N assets over T bars.

    Attributes:
        values: (T, N, F) float32, finite, within their bounds; 0 where unknown.
        known: (T, N, F) whether the value was computed from enough observed data.
        names: F names, in the order of the last axis.
    """

    values: Float32Array
    known: BoolArray
    names: tuple[str, ...] = DEFAULT_FEATURES

    def __post_init__(self) -> None:
        if not self.values.shape == self.known.shape or self.values.shape[2:] != (len(self.names),):
            raise ValueError(
                f"features have shapes {self.values.shape} and {self.known.shape}, "
                f"not (T, N, {len(self.names)})"
            )


def compute_features(panel: Panel, names: Sequence[str] = DEFAULT_FEATURES) -> Features:
    """Compute the named features at the close of every bar of ``panel``, and no others.

    A row uses only bars up to its own and at most ``warmup_bars(names, panel.interval_ms)`` of
    them; earlier rows of the panel are marked unknown where their window is not covered.

    Args:
        panel: (T, N) market history; NaN where the venue gave nothing.
        names: distinct names of ``FEATURES``.

    Returns:
        (T, N, F) values and masks, in the order of ``names``.

    Raises:
        UnknownFeature: a name is not in the catalogue, or is given twice, or there is none.
    """
    chosen = selected(names)
    shape = (len(panel), len(panel.symbols), len(chosen))
    values, known = np.empty(shape, dtype=np.float32), np.empty(shape, dtype=np.bool_)
    for part in _by_window(chosen):
        places = [chosen.index(name) for name in part]
        for start, lead, stop in _blocks(panel, warmup_bars(part, panel.interval_ms)):
            measures = Measures(_contiguous(panel.window(start - lead, stop)))
            for place, name in zip(places, part, strict=True):
                cells = np.s_[start:stop, :, place]
                values[cells], known[cells] = _column(measures, name, lead)
    return Features(values=values, known=known, names=chosen)


def _column(measures: Measures, name: str, lead: int) -> tuple[Float32Array, BoolArray]:
    """(bars, N) one feature of a block without its lead, masked and clipped."""
    spec = FEATURES[name]
    observed = measures.panel.observed[lead:]
    raw = np.broadcast_to(FORMULAS[name](measures)[lead:], observed.shape)
    known = np.isfinite(raw)
    if spec.group.needs_bar:
        # A window that is covered without the present bar would show a stale value as today's.
        known &= observed
    values = np.clip(np.where(known, raw, 0.0), -spec.bound, spec.bound)
    return values.astype(np.float32), known


def _by_window(names: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Split off the features whose window is days long: their lead is too long for the others."""
    for long in (False, True):
        if part := tuple(name for name in names if (FEATURES[name].days > 0) == long):
            yield part


def _blocks(panel: Panel, warmup: int) -> Iterator[tuple[int, int, int]]:
    """Cut the bars into blocks of (first bar, bars of lead before it, end)."""
    size = max(_BLOCK_CELLS // max(1, len(panel.symbols)), _LEADS_PER_BLOCK * warmup)
    for start in range(0, len(panel), size):
        yield start, min(start, warmup - 1), min(start + size, len(panel))


def _contiguous(panel: Panel) -> Panel:
    """The same panel in row-major arrays: numpy's last bits may differ between memory layouts."""
    arrays = {name: np.ascontiguousarray(getattr(panel, name)) for name in ARRAY_FIELDS}
    return Panel(
        symbols=panel.symbols,
        interval_ms=panel.interval_ms,
        open_time=panel.open_time,
        **arrays,
    )
