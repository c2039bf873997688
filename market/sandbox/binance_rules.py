"""A symbol's trading rules as Binance USD-M and Binance spot word them in ``exchangeInfo``.

Tick, lot step, minimum quantity and notional and the largest market order are the tape's; what no
tape states (margin percentages, price bounds, order types) holds the venue's usual constants.
"""

from __future__ import annotations

from decimal import Decimal

from market.instrument import Instrument
from market.sandbox.dialect import Json, decimal_text
from market.sandbox.playback import decimal_places

_NEVER_DELIVERED = 4133404800000


def usdm_rules(instrument: Instrument, *, onboard_time: int) -> Json:
    """Trading rules as in ``/fapi/v1/exchangeInfo``; margin figures are the usual constants."""
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
        "status": "TRADING" if instrument.is_trading else "SETTLING",
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
        "filters": _usdm_filters(instrument),
        "orderTypes": order_types,
        "timeInForce": ["GTC", "IOC", "FOK", "GTX", "GTD"],
        "permissionSets": ["GRID", "COPY", "DCA", "PSB"],
    }


def _usdm_filters(instrument: Instrument) -> list[Json]:
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


def spot_rules(instrument: Instrument) -> Json:
    """Trading rules as in ``/api/v3/exchangeInfo``."""
    order_types: list[Json] = [
        "LIMIT", "LIMIT_MAKER", "MARKET", "STOP_LOSS", "STOP_LOSS_LIMIT", "TAKE_PROFIT",
        "TAKE_PROFIT_LIMIT",
    ]  # fmt: skip
    return {
        "symbol": instrument.venue_symbol,
        "status": "TRADING" if instrument.is_trading else "BREAK",
        "baseAsset": instrument.base,
        "baseAssetPrecision": 8,
        "quoteAsset": instrument.quote,
        "quotePrecision": 8,
        "quoteAssetPrecision": 8,
        "baseCommissionPrecision": 8,
        "quoteCommissionPrecision": 8,
        "orderTypes": order_types,
        "icebergAllowed": True,
        "ocoAllowed": True,
        "otoAllowed": True,
        "opoAllowed": True,
        "quoteOrderQtyMarketAllowed": True,
        "allowTrailingStop": True,
        "cancelReplaceAllowed": True,
        "amendAllowed": True,
        "pegInstructionsAllowed": True,
        "isSpotTradingAllowed": True,
        "isMarginTradingAllowed": True,
        "filters": _spot_filters(instrument),
        "permissions": [],
        "permissionSets": [["SPOT", "MARGIN"]],
        "defaultSelfTradePreventionMode": "EXPIRE_MAKER",
        "allowedSelfTradePreventionModes": ["EXPIRE_TAKER", "EXPIRE_MAKER", "EXPIRE_BOTH"],
    }


def _spot_filters(instrument: Instrument) -> list[Json]:
    """Spot pads to eight decimals, and its market lots state no step and no minimum."""
    tick, step = instrument.tick_size, instrument.lot_step
    most = instrument.max_quantity
    largest = most * 10 if most is not None else step * 10**9
    filters: list[Json] = [
        {
            "filterType": "PRICE_FILTER",
            "minPrice": _padded(tick),
            "maxPrice": _padded(tick * 10**8),
            "tickSize": _padded(tick),
        },
        {
            "filterType": "LOT_SIZE",
            "minQty": _padded(instrument.min_quantity),
            "maxQty": _padded(largest),
            "stepSize": _padded(step),
        },
        {"filterType": "ICEBERG_PARTS", "limit": 10},
    ]
    if most is not None:
        filters.append({
            "filterType": "MARKET_LOT_SIZE", "minQty": "0.00000000", "maxQty": _padded(most),
            "stepSize": "0.00000000",
        })  # fmt: skip
    return [
        *filters,
        {
            "filterType": "PERCENT_PRICE_BY_SIDE",
            "bidMultiplierUp": "5",
            "bidMultiplierDown": "0.2",
            "askMultiplierUp": "5",
            "askMultiplierDown": "0.2",
            "avgPriceMins": 5,
        },
        {
            "filterType": "NOTIONAL",
            "minNotional": _padded(instrument.min_notional),
            "applyMinToMarket": True,
            "maxNotional": "9000000.00000000",
            "applyMaxToMarket": False,
            "avgPriceMins": 5,
        },
        {"filterType": "MAX_NUM_ORDERS", "maxNumOrders": 200},
        {"filterType": "MAX_NUM_ALGO_ORDERS", "maxNumAlgoOrders": 5},
    ]


def _padded(value: Decimal) -> str:
    return f"{value:.8f}"
