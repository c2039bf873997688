"""A symbol's trading rules as Binance USD-M words them in ``exchangeInfo``.

Tick, lot step, minimum quantity and notional and the largest market order are the tape's; what no
tape states (margin percentages, price bounds, order types) holds the venue's usual constants.
"""

from __future__ import annotations

from market.instrument import Instrument
from market.sandbox.dialect import Json, decimal_text
from market.sandbox.playback import decimal_places

_NEVER_DELIVERED = 4133404800000


def symbol_rules(instrument: Instrument, *, onboard_time: int) -> Json:
    """Trading rules as in exchangeInfo; margin figures are the venue's usual constants."""
    tick, step = instrument.tick_size, instrument.lot_step
    order_types: list[Json] = [
        "LIMIT", "MARKET", "STOP", "STOP_MARKET", "TAKE_PROFIT", "TAKE_PROFIT_MARKET",
        "TRAILING_STOP_MARKET",
    ]  # fmt: skip
    return {
        "symbol": instrument.venue_symbol,
        "pair": instrument.venue_symbol,
        "contractType": "PERPETUAL",
        "deliveryDate": _NEVER_DELIVERED,
        "onboardDate": onboard_time,
        "status": "TRADING",
        "maintMarginPercent": "2.5000",
        "requiredMarginPercent": "5.0000",
        "baseAsset": instrument.base,
        "quoteAsset": instrument.quote,
        "marginAsset": instrument.quote,
        "pricePrecision": decimal_places(tick),
        "quantityPrecision": decimal_places(step),
        "baseAssetPrecision": 8,
        "quotePrecision": 8,
        "underlyingType": "COIN",
        "underlyingSubType": [],
        "triggerProtect": "0.0500",
        "liquidationFee": "0.012500",
        "marketTakeBound": "0.05",
        "maxMoveOrderLimit": 10000,
        "filters": _filters(instrument),
        "orderTypes": order_types,
        "timeInForce": ["GTC", "IOC", "FOK", "GTX", "GTD"],
        "permissionSets": ["GRID", "COPY", "DCA", "PSB"],
    }


def _filters(instrument: Instrument) -> list[Json]:
    tick, step = decimal_text(instrument.tick_size), decimal_text(instrument.lot_step)
    least = decimal_text(instrument.min_quantity)
    # Limit orders may be larger than market orders; tapes state only the latter.
    most = instrument.max_quantity
    largest = decimal_text(most * 10 if most is not None else instrument.lot_step * 10**9)
    filters: list[Json] = [
        {
            "filterType": "PRICE_FILTER",
            "tickSize": tick,
            "maxPrice": decimal_text(instrument.tick_size * 10**8),
            "minPrice": tick,
        },
        {"minQty": least, "stepSize": step, "filterType": "LOT_SIZE", "maxQty": largest},
    ]
    if most is not None:
        market_most = decimal_text(most)
        filters.append({
            "stepSize": step, "minQty": least, "maxQty": market_most,
            "filterType": "MARKET_LOT_SIZE",
        })  # fmt: skip
    return [
        *filters,
        {"filterType": "MAX_NUM_ORDERS", "limit": 200},
        {"filterType": "MIN_NOTIONAL", "notional": decimal_text(instrument.min_notional)},
        {
            "filterType": "PERCENT_PRICE",
            "multiplierUp": "1.0500",
            "multiplierDecimal": "4",
            "multiplierDown": "0.9500",
        },
        {"filterType": "POSITION_RISK_CONTROL", "positionControlSide": "NONE"},
    ]
