"""Decides what becomes of an answer, a frame or a connection while a fault is on.

The server asks here at its two ways out (``Sandbox._respond`` and ``Hub.push``) and does what it
is told; the dialect knows of none of it. Nothing here does IO or reads a clock. Without faults
everything passes unchanged.

A frame takes two steps: ``closing`` and ``updating`` say what a topic sends, to everybody;
``deliver`` says what of it reaches one connection.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from market.sandbox import spoil
from market.sandbox.dialect import Reply
from market.sandbox.fault import REST_KINDS, Fault, FaultKind, Place
from market.sandbox.injection import Answer, Closing, ConnectionState, Injection, Turn
from market.sandbox.refusal import refusal

_K = FaultKind
_KLINE_PATH = re.compile(r".*/klines?")
_LISTING_PATH = re.compile(r".*/(exchangeInfo|instruments-info|fundingInfo)")
_TAKES_BARS = (_K.MISSING_BARS, _K.DELISTING, _K.RENAMING)
_RULES_KINDS = (_K.FUNDING_INTERVAL, _K.MIN_NOTIONAL, _K.DELISTING, _K.RENAMING)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Held:
    due: int
    topic: str
    open_time: int
    kind: FaultKind


FinalFrame = Callable[[str, int, int], str | None]
UpdateFrame = Callable[[str, int], str | None]


class Injector:
    """The script of one sandbox and how far it has come."""

    def __init__(
        self,
        faults: Sequence[Fault],
        *,
        interval_ms: int,
        symbols: Mapping[str, str],
        kline_topics: Mapping[str, str],
        final_frame: FinalFrame,
        update_frame: UpdateFrame,
    ) -> None:
        """Prepare a script.

        Args:
            faults: in any order.
            interval_ms: length of a bar.
            symbols: unified symbol by the venue's own.
            kline_topics: kline topic by unified symbol.
            final_frame: the true final frame of (topic, open_time, now).
            update_frame: what (topic, now) truly shows.
        """
        self.injections = [Injection(fault=one) for one in sorted(faults, key=lambda one: one.at)]
        self._interval_ms = interval_ms
        self._symbols = {name.lower(): symbol for name, symbol in symbols.items()}
        self._kline_topics = kline_topics
        self._klines = {topic: symbol for symbol, topic in kline_topics.items()}
        self._final_frame = final_frame
        self._update_frame = update_frame
        self._live: list[Injection] = []
        self._held: list[_Held] = []
        self._stuck: dict[str, tuple[Injection, int]] = {}

    # Time

    def turn(self, now: int) -> Turn:
        """Move on to ``now`` and return what began and what ended."""
        began = [one for one in self.injections if not one.began and one.fault.at <= now]
        for one in began:
            one.began = True
        self._live += began
        ended = [one for one in self._live if self._is_over(one, now)]
        for one in ended:
            one.over = True
            self._live.remove(one)
        self._stuck = {topic: stuck for topic, stuck in self._stuck.items() if not stuck[0].over}
        return Turn(began=tuple(began), ended=tuple(ended))

    def next_due(self) -> int | None:
        """Return when something has to be done next, venue time; ``None`` for never."""
        times = [one.due for one in self._held]
        times += [one.fault.at for one in self.injections if not one.began]
        times += [over for one in self._live if (over := self._over_at(one.fault)) is not None]
        return min(times, default=None)

    # Frames, as a topic sends them

    def closing(self, topic: str, open_time: int, *, now: int) -> Closing:
        """Return what ``topic`` sends when the interval that opened at ``open_time`` closes."""
        final = self._final_frame(topic, open_time, now)
        symbol = self._klines.get(topic)
        if final is None or symbol is None or not self.injections:
            return Closing(frames=(*_present(final), *self.updating(topic, now=now)),
                           has_final=final is not None)  # fmt: skip
        close_time = open_time + self._interval_ms
        if self._is_late(topic, symbol, open_time, close_time, now):
            return Closing(frames=(), has_final=False)
        if stays := self._on(_K.FORMING_STAYS, symbol, close_time):
            stays.touch(now, symbol)
            self._stuck.setdefault(topic, (stays, open_time))
            return Closing(frames=tuple(self.updating(topic, now=now)), has_final=False)
        finals = self._swapped(topic, symbol, open_time, final, now)
        finals = [text for one in finals for text in self._doubled(one, symbol, close_time, now)]
        changed = [self._changed(one, topic, symbol, now) for one in finals]
        frames = (*changed, *self.updating(topic, now=now))
        return Closing(frames=frames, has_final=bool(finals))

    def repeated(self, topic: str, open_time: int, *, now: int) -> list[str]:
        """Return the last final frame again, for who subscribes late, unless it is held back."""
        if topic in self._stuck or any(one.topic == topic for one in self._held):
            return []
        symbol = self.symbol_of(topic)
        final = _present(self._final_frame(topic, open_time, now))
        return [self._changed(frame, topic, symbol, now) for frame in final]

    def updating(self, topic: str, *, now: int) -> list[str]:
        """Return what ``topic`` shows between two closes."""
        if topic in self._stuck:
            injection, open_time = self._stuck[topic]
            injection.touch(now, self._klines[topic])
            before = open_time + self._interval_ms - 1
            return [
                spoil.skewed(frame, shift_ms=now - before, around=before)
                for frame in _present(self._update_frame(topic, before))
            ]
        if any(one.topic == topic and one.kind is _K.LATE_FINAL for one in self._held):
            return []
        frames = _present(self._update_frame(topic, now))
        symbol = self.symbol_of(topic)
        return [self._changed(frame, topic, symbol, now) for frame in frames]

    def released(self, now: int) -> list[tuple[str, list[str]]]:
        """Return the final frames that were held back until ``now``, by topic, in order."""
        due = sorted(
            (one for one in self._held if one.due <= now), key=lambda one: (one.due, one.open_time)
        )
        self._held = [one for one in self._held if one.due > now]
        return [(one.topic, self._final(one, now)) for one in due]

    def absent(self, symbol: str, open_time: int, *, now: int) -> None:
        """Take note that the venue has no bar of ``symbol`` for an interval that closed."""
        for one in self.injections:
            fault = one.fault
            since = fault.at - fault.at % self._interval_ms
            within = since <= open_time and (fault.until is None or open_time < fault.until)
            if fault.kind in _TAKES_BARS and fault.concerns(symbol) and within:
                one.touch(now, symbol)

    def symbol_of(self, topic: str) -> str | None:
        """Return the unified symbol that a topic names."""
        names = (self._symbols.get(part) for part in re.split(r"[@.]", topic.lower()))
        return next((name for name in names if name is not None), None)

    # Frames, as one connection gets them

    def deliver(
        self, state: ConnectionState, topic: str | None, text: str, *, now: int
    ) -> str | None:
        """Return what of ``text`` reaches a connection; ``topic`` is ``None`` for replies."""
        if state.frozen is not None:
            state.frozen.touch(now)
            return None
        if topic is None or not self.injections:
            return text
        symbol = self.symbol_of(topic)
        if topic in state.dead_topics:
            state.dead_topics[topic].touch(now, symbol)
            return None
        for one in self._live_of((_K.SILENCE,), symbol, now):
            if state.opened_at < one.fault.at:
                one.touch(now, symbol)
                return None
        for one in self._live_of((_K.MALFORMED_FRAME, _K.TRUNCATED_FRAME), symbol, now):
            kind = one.touch(now, symbol).kind
            return spoil.NO_JSON if kind is _K.MALFORMED_FRAME else spoil.cut_off(text)
        return text

    def subscribe(self, state: ConnectionState, topics: Iterable[str], *, now: int) -> None:
        """Take note of subscriptions, some of which may stay without data for ever."""
        for topic in topics:
            state.dead_topics.pop(topic, None)
            symbol = self.symbol_of(topic)
            for one in self._live_of((_K.SUBSCRIBED_NO_DATA,), symbol, now):
                one.touch(now, symbol)
                state.dead_topics[topic] = one

    def turns_away(self, *, now: int) -> Injection | None:
        """Return the fault that cuts connections which are opened at ``now``."""
        return next(iter(self._live_of((_K.RESET, _K.DISCONNECT), None, now)), None)

    # REST

    def reply(self, path: str, query: Mapping[str, str], reply: Reply, *, now: int) -> Answer:
        """Return what the client gets for a request instead of ``reply``."""
        if not self._live:
            return Answer(reply=reply)
        symbol = self._symbols.get(query.get("symbol", "").lower())
        is_klines = _KLINE_PATH.fullmatch(path) is not None
        for one in self._live_of(REST_KINDS, symbol, now):
            if one.fault.kind is _K.NULL_ROWS and not (is_klines and spoil.has_rows(reply.body)):
                continue
            fault = one.touch(now, symbol)
            refused = None if fault.kind is _K.STALL else refusal(fault, reply, now=now)
            return Answer(reply=refused, fault=fault.kind)
        if _LISTING_PATH.fullmatch(path):
            for one in self._live:
                if one.fault.kind in _RULES_KINDS:
                    one.touch(now)
        answer = Answer(reply=reply)
        if is_klines and reply.status == 200 and symbol is not None:
            answer = self._changed_rows(reply, symbol, now)
        return self._skewed_answer(answer, now)

    def _changed_rows(self, reply: Reply, symbol: str, now: int) -> Answer:
        kind = None
        late = self._late_close(symbol, now)
        if late is not None:
            injection, close_time = late
            kind = injection.touch(now, symbol).kind
            forming = self._update_frame(self._kline_topics[symbol], close_time - 1)
            body = spoil.before_close(reply.body, close_time=close_time, forming_frame=forming)
            reply = replace(reply, body=body)
        for one in self._live_of((_K.NAN_FIELDS,), symbol, now):
            if one.fault.place is not Place.FRAMES and spoil.has_rows(reply.body):
                kind = one.touch(now, symbol).kind
                reply = replace(reply, body=spoil.priceless_rows(reply.body, one.fault.text))
        return Answer(reply=reply, fault=kind)

    def _late_close(self, symbol: str, now: int) -> tuple[Injection, int] | None:
        """The first close that has passed and that the venue has not yet come to."""
        step = self._interval_ms
        found = []
        for one in self._live:
            fault = one.fault
            first = max(-(-fault.at // step), (now - fault.delay_ms) // step + 1) * step
            is_late = fault.kind is _K.LATE_FINAL and fault.concerns(symbol)
            if is_late and first <= now and fault.holds(first):
                found.append((one, first))
        return min(found, key=lambda late: late[1], default=None)

    def _skewed_answer(self, answer: Answer, now: int) -> Answer:
        for one in self._live_of((_K.CLOCK_SKEW,), None, now):
            fault, reply = one.touch(now), answer.reply
            assert reply is not None
            body = spoil.skewed(reply.body, shift_ms=fault.shift_ms, around=now)
            headers = dict(reply.headers)
            if "Timenow" in headers:
                headers["Timenow"] = str(now + fault.shift_ms)
            answer = Answer(reply=replace(reply, body=body, headers=headers), fault=fault.kind)
        return answer

    # What holds now

    def _over_at(self, fault: Fault) -> int | None:
        """When a fault can touch nothing more: what it held back or took away may come later."""
        if fault.until is None:
            return None
        takes_bars = fault.kind in _TAKES_BARS
        return fault.until + fault.delay_ms + (2 * self._interval_ms if takes_bars else 0)

    def _is_over(self, injection: Injection, now: int) -> bool:
        over_at = self._over_at(injection.fault)
        return over_at is not None and over_at <= now

    def _live_of(self, kinds: Sequence[FaultKind], symbol: str | None, now: int) -> list[Injection]:
        return [
            one
            for one in self._live
            if one.fault.kind in kinds and one.fault.holds(now) and one.fault.concerns(symbol)
        ]

    def _on(self, kind: FaultKind, symbol: str, now: int) -> Injection | None:
        return next(iter(self._live_of((kind,), symbol, now)), None)

    # Final frames

    def _is_late(self, topic: str, symbol: str, open_time: int, close_time: int, now: int) -> bool:
        """Hold a final frame back when the venue is late, or still late with the one before."""
        queue = [one.due for one in self._held if one.topic == topic and one.kind is _K.LATE_FINAL]
        late = self._on(_K.LATE_FINAL, symbol, close_time)
        if late is not None:
            queue.append(close_time + late.touch(now, symbol).delay_ms)
        if not queue:
            return False
        held = _Held(due=max(queue), topic=topic, open_time=open_time, kind=_K.LATE_FINAL)
        self._held.append(held)
        return True

    def _swapped(self, topic: str, symbol: str, open_time: int, final: str, now: int) -> list[str]:
        """The final frames to send now: every second one waits for the next."""
        waiting = [one for one in self._held if one.topic == topic and one.kind is _K.OUT_OF_ORDER]
        if waiting:
            self._held = [one for one in self._held if one not in waiting]
            earlier = [self._final_frame(topic, one.open_time, now) for one in waiting]
            return [final, *_present(*earlier)]
        disorder = self._on(_K.OUT_OF_ORDER, symbol, open_time + self._interval_ms)
        if disorder is None or disorder.fault.until is None:
            return [final]
        disorder.touch(now, symbol)
        self._held.append(
            _Held(
                due=disorder.fault.until,
                topic=topic,
                open_time=open_time,
                kind=_K.OUT_OF_ORDER,
            )
        )
        return []

    def _doubled(self, final: str, symbol: str, close_time: int, now: int) -> list[str]:
        double = self._on(_K.DUPLICATE_FINAL, symbol, close_time)
        if double is None:
            return [final]
        wrong = spoil.wrong_values(final)
        return [wrong, final] if double.touch(now, symbol).wrong_first else [final, wrong]

    def _changed(self, frame: str, topic: str, symbol: str | None, now: int) -> str:
        """Spoil times and prices of one frame."""
        if topic in self._klines:
            for one in self._live_of((_K.SHIFTED_TIMES,), symbol, now):
                frame = spoil.shifted(frame, one.touch(now, symbol).shift_ms)
            for one in self._live_of((_K.NAN_FIELDS,), symbol, now):
                if one.fault.place is not Place.ROWS:
                    frame = spoil.priceless(frame, one.touch(now, symbol).text)
        for one in self._live_of((_K.CLOCK_SKEW,), None, now):
            frame = spoil.skewed(frame, shift_ms=one.touch(now).shift_ms, around=now)
        return frame

    def _final(self, held: _Held, now: int) -> list[str]:
        final = _present(self._final_frame(held.topic, held.open_time, now))
        symbol = self._klines[held.topic]
        return [self._changed(frame, held.topic, symbol, now) for frame in final]


def _present(*frames: str | None) -> list[str]:
    return [frame for frame in frames if frame is not None]
