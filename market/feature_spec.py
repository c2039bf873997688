"""One line of the feature catalogue: a name, what it means, and how far back it looks.

Values only. It must never touch an array; the lines are in ``market.feature_table``.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from market.bar import DAY_MS


class FeatureGroup(enum.StrEnum):
    """Which inputs and which arithmetic a feature shares with its neighbours."""

    RETURN = "return"
    VOLATILITY = "volatility"
    VOLUME = "volume"
    SEASONAL = "seasonal"
    FLOW = "flow"
    LIQUIDITY = "liquidity"
    FUNDING = "funding"
    BASIS = "basis"
    CROSS_SECTION = "cross_section"
    CALENDAR = "calendar"

    @property
    def needs_bar(self) -> bool:
        """Whether a missing bar hides the feature: its windows would show a stale value."""
        return self not in (FeatureGroup.FUNDING, FeatureGroup.CALENDAR)


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureSpec:
    """One feature.

    Attributes:
        name: as written in configurations and artefacts; its meaning never changes.
        group: inputs and arithmetic it shares.
        formula: in the notation of ``market.feature_table``.
        bars, days: the warm-up is ``bars`` plus ``days`` of bars, the present bar included.
        bound: largest absolute value; what lies beyond is clipped.
        needs: panel arrays it reads; where too few of one are known the feature is unknown.
        source: whose formula or finding it is.
    """

    name: str
    group: FeatureGroup
    formula: str
    bars: int
    days: int = 0
    bound: float
    needs: tuple[str, ...]
    source: str

    def __post_init__(self) -> None:
        if self.bars < 1 or self.days < 0 or not self.bound > 0:
            raise ValueError(f"feature {self.name}: bars and bound must be positive, days not less")

    def warmup_bars(self, interval_ms: int) -> int:
        """Bars, the present one included, that a value depends on at most."""
        return self.bars + self.days * day_bars(interval_ms)


def day_bars(interval_ms: int) -> int:
    """Bars in a day, at least 1."""
    return max(1, DAY_MS // interval_ms)
