"""What our code relies on at each venue: one named assumption each.

The list of a venue is what its market type has: spot knows neither mark prices nor funding.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

from daemon import doctor_trials as trials
from daemon.doctor import Assumption, Observation
from daemon.doctor_venue import VenueProbe
from daemon.doctor_wire import WIRES, has_funding
from market.bar import MINUTE_MS

VenueAssumption = Assumption[VenueProbe]
_CLOSING = ("closed flag", "streamed final")  # these wait for a bar to close
Trial = Callable[[VenueProbe], Awaitable[Observation]]


def assumptions_of(probe: VenueProbe, *, quick: bool) -> list[VenueAssumption]:
    """Return everything that is tried at the probe's venue, in order; its time comes first.

    Args:
        probe: whose venue and interval decide what there is to try.
        quick: leave out what needs a bar to close.
    """
    perp = has_funding(probe.venue)
    listed = [*_paths(probe), *_candle_rules(probe)]
    listed += _perp_rules(probe) if perp else []
    listed += [*_market_rules(probe), *_stream_rules(probe)]
    skipped = skipped_of(probe, quick=quick)
    listed.append(_closed_bars_stay(probe))
    return [one for one in listed if one.name not in skipped]


def skipped_of(probe: VenueProbe, *, quick: bool) -> dict[str, str]:
    """Return what is not tried and why, by name: an opened probe knows a sandbox that waits."""
    reason = ""
    if probe.stands_still:
        reason = "this sandbox plays no bar before the daemon commits a decision (lock-step)"
    if quick:
        reason = "--quick does not wait for a bar to close"
    return dict.fromkeys(_CLOSING, reason) if reason else {}


def _paths(probe: VenueProbe) -> list[VenueAssumption]:
    wire = WIRES[probe.venue]
    costs = {
        "time": "the venue's clock is unknown, so no bar can be called closed",
        "instruments": "no trading rules: the daemon does not start",
        "klines": "no history and no repair of missed bars",
        "mark klines": "settlements are valued at traded prices",
        "funding history": "funding is never booked",
        "funding info": "a changed funding interval goes unnoticed",
        "book ticker": "no quotes are recorded, so fills cannot be recomputed",
        "tickers": "no quotes are recorded, so fills cannot be recomputed",
        "premium index": "quotes lack mark, index and predicted funding",
        "depth": "no order books are recorded at decisions",
    }
    return [
        _one(
            f"{name} path",
            f"GET {wire.root}{path} answers",
            costs[name],
            partial(trials.answers, name=name),
        )
        for name, path in wire.names.items()
    ]


def _candle_rules(probe: VenueProbe) -> list[VenueAssumption]:
    wire = WIRES[probe.venue]
    order = "ascending" if wire.ascending else "descending"
    beyond = "refused" if wire.refuses_more else "cut"
    return [
        _one(
            "kline fields",
            f"{wire.row_fields} readable cells a row, sound and aligned",
            "bars are misread or quarantined",
            trials.kline_fields,
        ),
        _one(
            "kline order",
            f"rows come in {order} order of time",
            "a page of history begins at the wrong end",
            trials.kline_order,
        ),
        _one(
            "kline limit",
            f"{wire.most_rows} rows on request, and more is {beyond}",
            "history is fetched in more requests than planned, or with holes",
            trials.kline_limit,
        ),
        _one(
            "open bar",
            "the newest row is the bar that is still forming",
            "the newest closed bar is taken for a forming one and comes an interval late",
            trials.open_bar,
        ),
    ]


def _perp_rules(probe: VenueProbe) -> list[VenueAssumption]:
    mark = "markPrice readable" if not WIRES[probe.venue].is_enveloped else "no markPrice"
    return [
        _one(
            "mark kline fields",
            "time and four prices a row, for the bars that klines have",
            "the mark at a settlement is taken from a worse source",
            trials.mark_fields,
        ),
        _one(
            "funding fields",
            f"time, rate and {mark} in each settlement",
            "settlements are refused, or valued by another mark than expected",
            trials.funding_fields,
        ),
        _one(
            "funding interval",
            "stated, and the spacing of the newest settlements",
            "the daemon waits for settlements that do not come, or misses some",
            trials.funding_interval,
        ),
    ]


def _market_rules(probe: VenueProbe) -> list[VenueAssumption]:
    header = WIRES[probe.venue].usage_header
    return [
        _one(
            "trading rules",
            "tick, lot and minimum notional of every symbol are positive",
            "orders are rounded to steps that the venue does not have",
            trials.trading_rules,
        ),
        _one(
            "symbols trading",
            "every configured symbol trades",
            "a symbol without new bars holds its weight at no price",
            trials.symbols_trading,
        ),
        _one(
            "clock",
            f"the venue's time is right within {trials.SKEW_MS} ms",
            "bars look closed too early or too late",
            trials.clock,
        ),
        _one(
            "rate limit header",
            f"answers carry {header}",
            "other programs at this address are not seen, and a ban comes without warning",
            trials.rate_header,
        ),
        _one(
            "quotes",
            "bid below ask for every symbol"
            + (", with mark, index and next funding" if has_funding(probe.venue) else ""),
            "recorded quotes cannot explain a fill",
            trials.quotes,
        ),
        _one(
            "order book",
            f"{trials.BOOK_LEVELS} levels a side, best first, bid below ask",
            "recorded order books cannot explain a fill",
            trials.order_book,
        ),
    ]


def _stream_rules(probe: VenueProbe) -> list[VenueAssumption]:
    minutes = probe.short_interval_ms // MINUTE_MS
    closing = [
        _one(
            "closed flag",
            f"a bar of {minutes} min is marked closed when it closes",
            "every bar comes late, by REST",
            trials.closed_flag,
        ),
        _one(
            "streamed final",
            "equals the REST row in all fields",
            "live bars differ from those that were trained on",
            trials.streamed_final,
        ),
    ]
    return [
        _one(
            "stream subscription",
            "is confirmed and brings frames",
            "every bar comes late, by REST",
            trials.subscribes,
        ),
        *closing,
        _one(
            "stream reconnect",
            "a dropped connection is opened and heard again",
            "after the venue's daily disconnect every bar comes late",
            trials.reconnects,
        ),
    ]


def _closed_bars_stay(_probe: VenueProbe) -> VenueAssumption:
    return _one(
        "closed bars",
        "the same rows when asked for again",
        "stored history differs from the venue's",
        trials.stays,
    )


def _one(name: str, expected: str, consequence: str, try_it: Trial) -> VenueAssumption:
    sentence = f"{consequence[:1].upper()}{consequence[1:]}."
    return Assumption(name=name, expected=expected, consequence=sentence, try_it=try_it)
