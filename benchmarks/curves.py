"""Curves as an SVG picture: axes, ticks, a legend, nothing that a document's diff cannot show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

import numpy as np

WIDTH, HEIGHT = 860, 420
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 220, 20, 50
_COLOURS = ("#1b6ca8", "#d1495b", "#2e8b57", "#e09f3e", "#6a4c93", "#444444", "#999999")
_TICKS = 5


@dataclass(frozen=True, slots=True)
class Curve:
    """One line: ``across`` and ``up`` are (n,) coordinates."""

    name: str
    across: Sequence[float]
    up: Sequence[float]
    dashed: bool = False


def draw(curves: Sequence[Curve], *, across: str, up: str) -> str:
    """Return the picture; ``across`` and ``up`` name the axes.

    Raises:
        ValueError: there is no curve, or a curve without a point.
    """
    if not curves or not all(len(curve.across) for curve in curves):
        raise ValueError("a picture needs curves with at least one point each")
    frame = _Frame.around(curves)
    middle = f"{(_LEFT + WIDTH - _RIGHT) / 2:.0f}"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}"'
    parts = [
        f'{head} font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        *frame.grid(),
        f'<text x="{middle}" y="{HEIGHT - 10}" text-anchor="middle">{escape(across)}</text>',
        f'<text transform="translate(16 {HEIGHT / 2:.0f}) rotate(-90)">{escape(up)}</text>',
    ]
    for number, curve in enumerate(curves):
        stroke = f'stroke="{_COLOURS[number % len(_COLOURS)]}" stroke-width="2"'
        stroke += ' stroke-dasharray="5 4"' if curve.dashed else ""
        points = " ".join(
            f"{frame.x(a):.1f},{frame.y(b):.1f}"
            for a, b in zip(curve.across, curve.up, strict=True)
        )
        parts.append(f'<polyline points="{points}" fill="none" {stroke}/>')
        line = _TOP + 16 * number + 8
        begin = WIDTH - _RIGHT + 12
        parts.append(f'<line x1="{begin}" y1="{line}" x2="{begin + 24}" y2="{line}" {stroke}/>')
        parts.append(f'<text x="{begin + 30}" y="{line + 4}">{escape(curve.name)}</text>')
    return "\n".join([*parts, "</svg>", ""])


@dataclass(frozen=True, slots=True)
class _Frame:
    """The ranges that the axes show."""

    left: float
    right: float
    low: float
    high: float

    @classmethod
    def around(cls, curves: Sequence[Curve]) -> _Frame:
        across = np.concatenate([np.asarray(curve.across, dtype=float) for curve in curves])
        up = np.concatenate([np.asarray(curve.up, dtype=float) for curve in curves])
        margin = 0.05 * max(float(np.ptp(up)), 1e-9)
        right = max(float(across.max()), float(across.min()) + 1e-9)
        return cls(float(across.min()), right, float(up.min()) - margin, float(up.max()) + margin)

    def x(self, value: float) -> float:
        return _LEFT + (value - self.left) / (self.right - self.left) * (WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        return (
            HEIGHT
            - _BOTTOM
            - (value - self.low) / (self.high - self.low) * (HEIGHT - _TOP - _BOTTOM)
        )

    def grid(self) -> list[str]:
        lines = []
        for value in np.linspace(self.low, self.high, _TICKS):
            at = self.y(float(value))
            lines.append(
                f'<line x1="{_LEFT}" y1="{at:.1f}" x2="{WIDTH - _RIGHT}" y2="{at:.1f}" '
                'stroke="#e4e4e4"/>'
                f'<text x="{_LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{value:.3g}</text>'
            )
        for value in np.linspace(self.left, self.right, _TICKS):
            lines.append(
                f'<text x="{self.x(float(value)):.1f}" y="{HEIGHT - _BOTTOM + 18}" '
                f'text-anchor="middle">{value:,.0f}</text>'
            )
        return lines
