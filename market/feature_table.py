"""The catalogue of features: what each is called, how it is computed, and from how many bars.

Owns names, formulas in words, warm-up, bounds and sources, and the rules for choosing among them;
the arithmetic is in ``market.feature_formulas``. It must never touch an array, and a name never
changes its meaning: artefacts name the features that they were trained on. ``docs/features.md``
holds this table with its notation and sources; a test keeps the two equal.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from market.feature_spec import FeatureGroup, FeatureSpec


class UnknownFeature(ValueError):
    """A choice of features that is empty, doubled, or names one that is not in the catalogue."""


def selected(names: Iterable[str]) -> tuple[str, ...]:
    """Return ``names`` as a tuple of distinct features of the catalogue.

    Raises:
        UnknownFeature: none, one twice, or one that does not exist (the nearest are named).
    """
    if isinstance(names, str) or not isinstance(names, Iterable):
        raise UnknownFeature(f"features must be a list of names, got {names!r}")
    chosen = tuple(names)
    if not chosen:
        raise UnknownFeature("no feature is selected")
    for name in chosen:
        if name not in FEATURES:
            raise UnknownFeature(_unknown(str(name)))
        if chosen.count(name) > 1:
            raise UnknownFeature(f"feature {name!r} is selected twice")
    return chosen


def warmup_bars(names: Iterable[str], interval_ms: int) -> int:
    """Bars, the present one included, that the longest of the named features needs.

    Raises:
        UnknownFeature: as ``selected``.
    """
    return max(FEATURES[name].warmup_bars(interval_ms) for name in selected(names))


def markdown_table() -> str:
    """Return the catalogue as the table of ``docs/features.md``; a star marks the default set."""
    lines = [
        "| feature | group | formula | warm-up bars | bound | needs | source |",
        "|---|---|---|---|---|---|---|",
    ]
    for spec in FEATURES.values():
        star = " *" if spec.name in DEFAULT_FEATURES else ""
        days = f" + {spec.days} days" if spec.days else ""
        lines.append(
            f"| `{spec.name}`{star} | {spec.group.value} | {spec.formula} | {spec.bars}{days} "
            f"| ±{spec.bound:g} | {', '.join(spec.needs) or 'nothing'} | {spec.source} |"
        )
    return "\n".join(lines)


def _unknown(name: str) -> str:
    near = difflib.get_close_matches(name, FEATURES, n=3, cutoff=0.5)
    hint = f"did you mean {', '.join(near)}?" if near else f"there are {', '.join(FEATURES)}"
    return f"unknown feature {name!r}; {hint}"


def _specs(group: FeatureGroup, *rows: tuple[str, str, int, float, str, str]) -> list[FeatureSpec]:
    """Read rows of (name, formula, bars, bound, needs, source); ``needs`` holds letters."""
    return [
        FeatureSpec(
            name=name,
            group=group,
            formula=formula,
            bars=bars,
            days=_DAYS.get(name, 0),
            bound=bound,
            needs=tuple(_ARRAYS[letter] for letter in needs),
            source=source,
        )
        for name, formula, bars, bound, needs, source in rows
    ]


_ARRAYS = {
    "o": "open",
    "h": "high",
    "l": "low",
    "c": "close",
    "v": "volume",
    "q": "quote_volume",
    "n": "trades",
    "b": "taker_buy_volume",
    "m": "mark_close",
    "f": "funding_rate",
}
_DAYS = {
    "volume_seasonal": 7,
    "trades_seasonal": 7,
    "trade_size_seasonal": 7,
    "funding_countdown": 2,
    "funding_carry": 2,
}
"""Features whose window is stated in days, whatever the interval."""

_RETURNS = _specs(
    FeatureGroup.RETURN,
    ("return_1", "ln(c_t/c_{t-1}) / σ", 169, 8.0, "c", "[Lim]"),
    ("return_3", "ln(c_t/c_{t-3}) / (σ·sqrt 3)", 169, 8.0, "c", "[Lim]"),
    ("return_6", "ln(c_t/c_{t-6}) / (σ·sqrt 6)", 169, 6.0, "c", "[Lim]"),
    ("return_12", "ln(c_t/c_{t-12}) / (σ·sqrt 12)", 169, 6.0, "c", "[Lim]"),
    ("return_24", "ln(c_t/c_{t-24}) / (σ·sqrt 24)", 169, 6.0, "c", "[Lim]"),
    ("return_72", "ln(c_t/c_{t-72}) / (σ·sqrt 72)", 169, 6.0, "c", "[Lim]"),
    ("return_168", "ln(c_t/c_{t-168}) / (σ·sqrt 168)", 169, 6.0, "c", "[Lim]"),
    ("return_336", "ln(c_t/c_{t-336}) / (σ·sqrt 336)", 337, 6.0, "c", "[Lim]"),
)

_VOLATILITIES = _specs(
    FeatureGroup.VOLATILITY,
    ("realised_volatility", "ln(σ_24·sqrt(bars per year))", 25, 6.0, "c", "[Engle]"),
    ("parkinson_volatility", "ln(P_24·sqrt(bars per year))", 24, 6.0, "hl", "[Parkinson]"),
    ("garman_klass_volatility", "ln(G_24·sqrt(bars per year))", 24, 6.0, "ohlc", "[Garman]"),
    ("volatility_ratio", "ln(σ_24/σ)", 169, 2.0, "c", "[Engle]"),
    ("volatility_ratio_6", "ln(σ_6/σ_24)", 25, 2.0, "c", "[Engle]"),
    ("parkinson_ratio", "ln(P_24/P_168)", 168, 2.0, "hl", "[Parkinson]"),
    ("garman_klass_ratio", "ln(G_24/G_168)", 168, 2.0, "ohlc", "[Garman]"),
    ("range_ratio", "ln(P_24/σ_24)", 25, 2.0, "hlc", "[Parkinson]"),
    ("garman_klass_excess", "ln(G_24/σ_24)", 25, 2.0, "ohlc", "[Garman]"),
)

_VOLUMES = _specs(
    FeatureGroup.VOLUME,
    ("volume_surprise", "mean of u(v) over 6 bars", 246, 4.0, "v", "[Gervais]"),
    ("volume_relative", "volume_surprise less its x̄", 246, 4.0, "v", "[Gervais]"),
    ("volume_shock", "u(v) − volume_surprise", 246, 4.0, "v", "[Gervais]"),
    ("trades_surprise", "mean of u(n) over 6 bars", 246, 4.0, "n", "[Gervais]"),
    ("trades_relative", "trades_surprise less its x̄", 246, 4.0, "n", "[Gervais]"),
)

_SEASONALS = _specs(
    FeatureGroup.SEASONAL,
    ("volume_seasonal", "mean of s(v) over 6 bars", 6, 4.0, "v", "[Andersen]"),
    ("trades_seasonal", "mean of s(n) over 6 bars", 6, 4.0, "n", "[Andersen]"),
    ("trade_size_seasonal", "mean of s(q/n) over 6 bars", 6, 4.0, "qn", "[Andersen]"),
)

_FLOWS = _specs(
    FeatureGroup.FLOW,
    ("taker_imbalance", "2b/v − 1", 1, 1.0, "vb", "[Chordia]"),
    ("taker_imbalance_24", "2Σb/Σv − 1 over 24 bars", 24, 1.0, "vb", "[Chordia]"),
    ("taker_relative", "taker_imbalance_24 less its x̄", 24, 1.0, "vb", "[Chordia]"),
)

_LIQUIDITIES = _specs(
    FeatureGroup.LIQUIDITY,
    ("amihud", "ln A_24, A_B = mean of abs r/q, bp per million quote", 25, 15.0, "cq", "[Amihud]"),
    ("amihud_ratio", "ln(A_24/A_168)", 169, 3.0, "cq", "[Amihud]"),
    ("amihud_relative", "ln A_168 less its x̄", 169, 12.0, "cq", "[Amihud]"),
    ("edge_spread", "EDGE estimate over 168 bars, bp", 168, 200.0, "ohlc", "[Ardia]"),
)

_FUNDINGS = _specs(
    FeatureGroup.FUNDING,
    ("funding_last", "rate of the last settlement within 168 bars, bp", 168, 20.0, "f", "[Venue]"),
    ("funding_mean", "mean rate of the settlements within 168 bars, bp", 168, 20.0, "f", "[Venue]"),
    ("funding_countdown", "hours until the bar of the next settlement", 3, 24.0, "f", "[Venue]"),
    ("funding_carry", "last rate × settlements per day, bp per day", 3, 60.0, "f", "[Venue]"),
)

_BASES = _specs(
    FeatureGroup.BASIS,
    ("basis", "mark close/c − 1, bp", 1, 50.0, "mc", "[Venue]"),
    ("basis_mean", "mean of basis over 24 bars", 24, 50.0, "mc", "[Venue]"),
    ("basis_change", "basis − basis_mean", 24, 50.0, "mc", "[Venue]"),
)

_CROSS_SECTIONS = _specs(
    FeatureGroup.CROSS_SECTION,
    ("return_rank", "rank of ln(c_t/c_{t-24}), −½ to ½", 25, 0.5, "c", "[Jegadeesh]"),
    ("return_rank_6", "rank of ln(c_t/c_{t-6}), −½ to ½", 7, 0.5, "c", "[Jegadeesh]"),
    ("return_rank_168", "rank of ln(c_t/c_{t-168}), −½ to ½", 169, 0.5, "c", "[Jegadeesh]"),
    ("volatility_rank", "rank of σ, −½ to ½", 169, 0.5, "c", "[Ang]"),
    ("market_return", "x̄ of return_24", 169, 6.0, "c", "[Moskowitz]"),
    ("dispersion", "standard deviation of return_24 over the assets", 169, 6.0, "c", "[Stivers]"),
    ("beta", "β = Σ r·r_BTC / Σ r_BTC² over 168 bars", 169, 5.0, "c", "[Blitz]"),
    ("btc_correlation", "Σ r·r_BTC / sqrt(Σ r²·Σ r_BTC²) over 168 bars", 169, 1.0, "c", "[Blitz]"),
    (
        "residual_return",
        "(R − β·R_BTC) / (σ·sqrt 24), R = ln(c_t/c_{t-24})",
        169,
        6.0,
        "c",
        "[Blitz]",
    ),
)

_CALENDARS = _specs(
    FeatureGroup.CALENDAR,
    ("hour_sin", "sin(2π·time of day of the close / 1 day)", 1, 1.0, "", "[Andersen]"),
    ("hour_cos", "cos(2π·time of day of the close / 1 day)", 1, 1.0, "", "[Andersen]"),
    ("weekday_sin", "sin(2π·weekday of the close / 7), Monday 0", 1, 1.0, "", "[Andersen]"),
    ("weekday_cos", "cos(2π·weekday of the close / 7), Monday 0", 1, 1.0, "", "[Andersen]"),
)

FEATURES: Mapping[str, FeatureSpec] = MappingProxyType(
    {
        spec.name: spec
        for specs in (
            _RETURNS, _VOLATILITIES, _VOLUMES, _SEASONALS, _FLOWS, _LIQUIDITIES, _FUNDINGS,
            _BASES, _CROSS_SECTIONS, _CALENDARS,
        )
        for spec in specs
    }
)  # fmt: skip
"""Every feature by its name."""

DEFAULT_FEATURES: tuple[str, ...] = (
    "return_1", "return_6", "return_24", "return_72", "volatility_ratio", "range_ratio",
    "volume_surprise", "volume_relative", "volume_shock", "funding_last", "funding_mean", "basis",
    "return_rank",
)  # fmt: skip
"""What the shipped training presets look at, in their order; their learner was tuned on these."""

WARMUP_BARS = 246
"""Warm-up of ``DEFAULT_FEATURES``, whatever the interval."""
