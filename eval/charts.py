"""The drawings of a report as inline SVG, names escaped: the same results give the same bytes."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence

from eval.calibration import Calibration
from eval.measures import Measure

RADAR_SIZE, RADIUS = 440, 150
DIAGRAM_SIZE, MARGIN = 220, 26
BAR_WIDTH, BAR_HEIGHT = 160, 14
NUM_COLOURS = 8
"""Classes `line0` … of the page's style sheet."""


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
    parts += [
        f'<text class="scale" x="3" y="{-RADIUS * level / 4 + 11:.1f}">{25 * level}</text>' for level in (1, 2, 3)
    ]
    for number, (name, values) in enumerate(lines.items()):
        parts.append(_radar_line(name, [values[axis] for axis in axes], number % NUM_COLOURS))
    half = RADAR_SIZE / 2
    return (
        f'<svg class="radar" viewBox="{-half - 40:.0f} {-half + 20:.0f} {RADAR_SIZE + 80} {RADAR_SIZE - 40}" '
        f'role="img" aria-label="radar of the axes of Figure 1">{"".join(parts)}</svg>'
    )


def _polar(place: int, count: int, share: float) -> tuple[float, float]:
    angle = 2 * math.pi * place / count - math.pi / 2
    return round(RADIUS * share * math.cos(angle), 6), round(RADIUS * share * math.sin(angle), 6)


def _ring(count: int, share: float, style: str) -> str:
    points = " ".join("{:.1f},{:.1f}".format(*_polar(place, count, share)) for place in range(count))
    return f'<polygon class="{style}" points="{points}"/>'


def _radar_line(name: str, values: Sequence[float | None], number: int) -> str:
    corners = [_polar(place, len(values), value) for place, value in enumerate(values) if value is not None]
    dots = "".join(f'<circle class="line{number}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in corners)
    if len(corners) == len(values):
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in corners)
        dots = f'<polygon class="line{number}" points="{points}"/>{dots}'
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
        parts.append(f'<line class="whisker" x1="{x:.1f}" y1="{low:.1f}" x2="{x:.1f}" y2="{high:.1f}"/>')
        parts.append(
            f'<circle class="line0" cx="{x:.1f}" cy="{middle:.1f}" r="3.5"><title>{one.count} answers: confidence '
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


def interval_bar(measure: Measure) -> str:
    """Draws a value with its interval between 0 and 100, and a tick at chance."""
    middle = BAR_HEIGHT / 2
    parts = [f'<line class="grid" x1="0" y1="{middle}" x2="{BAR_WIDTH}" y2="{middle}"/>']
    if measure.interval is not None:
        low, high = BAR_WIDTH * measure.interval.low, BAR_WIDTH * measure.interval.high
        parts.append(f'<line class="range" x1="{low:.1f}" y1="{middle}" x2="{high:.1f}" y2="{middle}"/>')
    if measure.chance is not None:
        x = BAR_WIDTH * measure.chance
        parts.append(f'<line class="chance" x1="{x:.1f}" y1="1" x2="{x:.1f}" y2="{BAR_HEIGHT - 1}"/>')
    parts.append(f'<circle class="line0" cx="{BAR_WIDTH * measure.value:.1f}" cy="{middle}" r="4"/>')
    return (
        f'<svg class="bar" viewBox="-5 0 {BAR_WIDTH + 10} {BAR_HEIGHT}" role="img" '
        f'aria-label="value, interval and chance">{"".join(parts)}</svg>'
    )
