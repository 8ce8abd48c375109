"""The drawings of a report as inline SVG, names escaped: the same results give the same bytes.

Nothing is told by colour alone: lines differ in dashes and markers too.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from eval.metrics.calibration import Calibration
from exo2ego.intervals import Interval

RADAR_SIZE, RADIUS = 440, 150
DIAGRAM_SIZE, MARGIN = 220, 30
BAR_WIDTH, BAR_HEIGHT = 160, 14
MARKERS = (
    "M-3.2 0a3.2 3.2 0 1 0 6.4 0a3.2 3.2 0 1 0-6.4 0z",
    "M-3-3h6v6h-6z",
    "M0-4L4 3.2H-4z",
    "M0-4.4L4.4 0 0 4.4-4.4 0z",
    "M0 4L4-3.2H-4z",
    "M-1.3-4h2.6v2.7h2.7v2.6h-2.7v2.7h-2.6v-2.7h-2.7v-2.6h2.7z",
    "M-4-1h8v2h-8z",
    "M-1-4h2v8h-2z",
)
"""Circle, square, triangle and so on, about the origin; number n goes with the class `line{n}` of the style sheet."""
FEW_ANSWERS = 10
"""A dot of the reliability diagram that stands for fewer is drawn faintly."""


@dataclass(frozen=True)
class Bar:
    """What is drawn of a number, all from 0 to 1."""

    value: float
    interval: Interval | None
    chance: float | None
    blind: float | None = None
    """Of the model on grey pictures."""
    shuffled: float | None = None
    """Of the model on frames in another order."""


def radar_chart(lines: Mapping[str, Mapping[str, float | None]]) -> str:
    """Draws Figure 1: fractions by axis, one line per name; every axis runs from 0 in the middle to 1.

    An axis without a value breaks the line: it is drawn as dots.
    """
    axes = list(next(iter(lines.values())))
    parts = [_ring(len(axes), level / 4, "grid") for level in range(1, 5)]
    for place, axis in enumerate(axes):
        x, y = _polar(place, len(axes), 1.0)
        anchor = "middle" if abs(x) < 1 else "start" if x > 0 else "end"
        parts.append(f'<line class="grid" x1="0" y1="0" x2="{x:.1f}" y2="{y:.1f}"/>')
        parts.append(
            f'<text x="{x * 1.08:.1f}" y="{y * 1.08 + 4:.1f}" text-anchor="{anchor}">{html.escape(axis)}</text>'
        )
    for number, (name, values) in enumerate(lines.items()):
        parts.append(_radar_line(name, [values[axis] for axis in axes], number % len(MARKERS)))
    parts += [
        f'<text class="scale" x="4" y="{-RADIUS * level / 4 + 11:.1f}">{25 * level}</text>' for level in (1, 2, 3, 4)
    ]
    half = RADAR_SIZE / 2
    return (
        f'<svg class="radar" viewBox="{-half - 40:.0f} {-half + 20:.0f} {RADAR_SIZE + 80} {RADAR_SIZE - 40}" '
        f'role="img" aria-label="radar of the axes of Figure 1">{"".join(parts)}</svg>'
    )


def legend_key(number: int) -> str:
    """Draws a sample of the line with this number."""
    style = number % len(MARKERS)
    return (
        f'<svg class="sample" viewBox="0 0 30 12" aria-hidden="true"><path class="line{style} stroke" d="M1 6H29"/>'
        f'<path class="line{style}" transform="translate(15 6)" d="{MARKERS[style]}"/></svg>'
    )


def _polar(place: int, count: int, share: float) -> tuple[float, float]:
    angle = 2 * math.pi * place / count - math.pi / 2
    return round(RADIUS * share * math.cos(angle), 6), round(RADIUS * share * math.sin(angle), 6)


def _ring(count: int, share: float, style: str) -> str:
    points = " ".join("{:.1f},{:.1f}".format(*_polar(place, count, share)) for place in range(count))
    return f'<polygon class="{style}" points="{points}"/>'


def _radar_line(name: str, values: Sequence[float | None], number: int) -> str:
    corners = [_polar(place, len(values), value) for place, value in enumerate(values) if value is not None]
    dots = "".join(
        f'<path class="line{number}" transform="translate({x:.1f} {y:.1f})" d="{MARKERS[number]}"/>' for x, y in corners
    )
    if len(corners) == len(values):
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in corners)
        dots = f'<polygon class="line{number} stroke" points="{points}"/>{dots}'
    return f"<g><title>{html.escape(name)}</title>{dots}</g>"


def reliability_diagram(found: Calibration) -> str:
    """Draws accuracy with its interval over confidence, bin by bin, and the share of answers in each bin below."""
    width = DIAGRAM_SIZE - 2 * MARGIN

    def at(x: float, y: float) -> tuple[float, float]:
        return MARGIN + x * width, MARGIN + (1 - y) * width

    parts = [
        f'<rect class="frame" x="{MARGIN}" y="{MARGIN}" width="{width}" height="{width}"/>',
        '<line class="grid" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>'.format(*at(0, 0), *at(1, 1)),
    ]
    for one in found.bins:
        left, top = at(one.low, one.count / found.count * 0.25)
        height = MARGIN + width - top
        parts.append(
            f'<rect class="share" x="{left + 1:.1f}" y="{top:.1f}" width="{width / 10 - 2:.1f}" height="{height:.1f}"/>'
        )
        x, low = at(one.confidence, one.interval.low)
        _, high = at(one.confidence, one.interval.high)
        _, middle = at(one.confidence, one.accuracy)
        few = " few" * (one.count < FEW_ANSWERS)
        parts.append(f'<line class="whisker{few}" x1="{x:.1f}" y1="{low:.1f}" x2="{x:.1f}" y2="{high:.1f}"/>')
        parts.append(
            f'<circle class="line0{few}" cx="{x:.1f}" cy="{middle:.1f}" r="3.5"><title>{one.count} answers: confidence '
            f"{100 * one.confidence:.1f}, accuracy {100 * one.accuracy:.1f}</title></circle>"
        )
    bottom = MARGIN + width + 15
    parts += [
        f'<text x="{MARGIN}" y="{bottom}">0</text>',
        f'<text x="{MARGIN + width}" y="{bottom}" text-anchor="end">100</text>',
        f'<text x="{MARGIN + width / 2:.0f}" y="{bottom}" text-anchor="middle">confidence</text>',
        f'<text x="{MARGIN - 5}" y="{MARGIN + 9}" text-anchor="end">100</text>',
        f'<text x="-{MARGIN + width / 2:.0f}" y="{MARGIN - 8}" transform="rotate(-90)" text-anchor="middle">'
        "accuracy</text>",
    ]
    return (
        f'<svg class="reliability" viewBox="0 0 {DIAGRAM_SIZE} {DIAGRAM_SIZE}" role="img" '
        f'aria-label="reliability diagram">{"".join(parts)}</svg>'
    )


def interval_bar(bar: Bar) -> str:
    """Draws a value with its interval between 0 and 100, a tick at chance, a ring at blind and a square at shuffled."""
    middle = BAR_HEIGHT / 2
    parts = [f'<line class="grid" x1="0" y1="{middle}" x2="{BAR_WIDTH}" y2="{middle}"/>']
    if bar.interval is not None:
        low, high = BAR_WIDTH * bar.interval.low, BAR_WIDTH * bar.interval.high
        parts.append(f'<line class="range" x1="{low:.1f}" y1="{middle}" x2="{high:.1f}" y2="{middle}"/>')
    x = BAR_WIDTH * bar.value
    if bar.chance is not None:
        place = BAR_WIDTH * bar.chance
        parts.append(f'<line class="chance" x1="{place:.1f}" y1="1" x2="{place:.1f}" y2="{BAR_HEIGHT - 1}"/>')
    if bar.blind is not None:
        place = BAR_WIDTH * bar.blind
        parts.append(f'<line class="range" x1="{place:.1f}" y1="{middle}" x2="{x:.1f}" y2="{middle}"/>')
        parts.append(f'<circle class="blind" cx="{place:.1f}" cy="{middle}" r="3.5"/>')
    if bar.shuffled is not None:
        place = BAR_WIDTH * bar.shuffled
        parts.append(f'<rect class="shuffled" x="{place - 2.5:.1f}" y="{middle - 5}" width="5" height="10"/>')
    parts.append(f'<circle class="line0" cx="{x:.1f}" cy="{middle}" r="4"/>')
    return (
        f'<svg class="bar" viewBox="-5 0 {BAR_WIDTH + 10} {BAR_HEIGHT}" role="img" '
        f'aria-label="drawing of the numbers in this row">{"".join(parts)}</svg>'
    )
