"""Using a calibration: which account it may count for, the floor below it, and how it is kept.

It must never make trading cheaper than the taker fee and half a tick, and never let the books of a
sandbox count for a live account.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pydantic import TypeAdapter, ValidationError

from broker.calibration import Calibration, Estimate, NotCalibrated, Origin
from broker.costs import AssetCosts, CostModel

META_KEY = "calibrated_costs"
"""Under which ``Store.meta`` holds the calibration that the next training uses."""
_JSON = TypeAdapter(Calibration)


class CalibrationRefused(ValueError):
    """A calibration that cannot be read, or must not be used for this account."""


def calibrated(
    costs: CostModel, saved: Calibration, symbols: Sequence[str], *, account: Origin
) -> AssetCosts:
    """Return ``costs`` with the calibrated half spread and κ of each of ``symbols``, in sequence.

    A symbol without a calibrated number counts with that of ``costs``. The fee stays; in total no
    symbol is cheaper than the taker fee and half a tick.

    Raises:
        CalibrationRefused: the calibration is not this account's; see ``check_origin``.
        ValueError: no symbol is named.
    """
    if not symbols:
        raise ValueError("calibrated costs need at least one symbol")
    each = [symbol_costs(costs, saved, symbol, account=account) for symbol in symbols]
    return AssetCosts(
        fee_rate=costs.fee_rate,
        half_spread_bps=tuple(one.half_spread_bps for one in each),
        impact_coefficient=tuple(one.impact_coefficient for one in each),
        funding_multiplier=costs.funding_multiplier,
    )


def symbol_costs(
    costs: CostModel, saved: Calibration, symbol: str, *, account: Origin
) -> CostModel:
    """Return ``costs`` with the calibrated numbers of one symbol; see ``calibrated``."""
    check_origin(saved, account)
    found = saved.symbols.get(symbol)
    if found is None:
        return costs
    # Fee and half spread together: a fee that was lowered since does not undercut the floor.
    floor_bps = (saved.fee_rate - costs.fee_rate) * 1e4 + found.half_tick_bps
    spread_bps = _value(found.half_spread_bps, costs.half_spread_bps)
    return replace(
        costs,
        half_spread_bps=max(spread_bps, found.half_tick_bps, floor_bps),
        impact_coefficient=_value(found.impact_coefficient, costs.impact_coefficient),
    )


def check_origin(saved: Calibration, account: Origin) -> None:
    """Refuse books of another venue, and a sandbox's for a live account.

    Raises:
        CalibrationRefused: naming both.
    """
    if saved.origin.venue != account.venue:
        raise CalibrationRefused(
            f"costs calibrated on books of {saved.origin.venue} are not those of {account.venue}; "
            "run ballast account costs --save on this market"
        )
    if saved.origin.is_sandbox and not account.is_sandbox:
        raise CalibrationRefused(
            f"costs calibrated on books of a sandbox never count on the live {account.venue}; run "
            "ballast account costs --save on the live venue's own books"
        )


def write_calibration(calibration: Calibration) -> str:
    """Return the calibration as JSON, sources included."""
    return _JSON.dump_json(calibration).decode()


def read_calibration(text: str) -> Calibration:
    """Read what ``write_calibration`` wrote.

    Raises:
        CalibrationRefused: it is something else.
    """
    try:
        return _JSON.validate_json(text)
    except ValidationError as error:
        raise CalibrationRefused(
            f"{META_KEY}: not a calibration ({error.error_count()} problems, the first: "
            f"{error.errors()[0]['msg']}); run ballast account costs --save again"
        ) from None


def _value(estimate: Estimate | NotCalibrated, otherwise: float) -> float:
    return estimate.value if isinstance(estimate, Estimate) else otherwise
