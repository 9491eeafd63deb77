"""A chart of several runs: one curve a run, as SVG that a page holds inline."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from convlens.pages.render import render

# in units of the viewBox, which are pixels on a screen wide enough
_WIDTH, _PLOT_HEIGHT = 460, 190
_LEFT, _RIGHT, _TOP, _BOTTOM, _LINE = 52, 14, 30, 40, 17
_TICKS = 5  # about so many on each axis
_MARKED = 30  # curves of fewer points show each of them
_LETTERS = 58  # of a run's name that fit the legend
_COLOURS, _DASHES = 8, ("none", "6 4", "2 3", "10 3 2 3")


@dataclass(frozen=True)
class Curve:
    """One run's values.

    Attributes:
        name: of the run.
        points: (epoch, value), by rising epoch; values that are not finite leave a gap.
        ringed: the epoch that is ringed, or None.
    """

    name: str
    points: Sequence[tuple[float, float]]
    ringed: float | None = None


def overlaid(
    title: str, curves: Sequence[Curve], *, within: tuple[float, float] | None = None
) -> Markup:
    """All curves in one chart with axes, ticks and a legend, in the order given.

    A run's colour is its place in the order, so charts of the same runs agree; from the ninth run
    on colours come again, dashed. The page has to include ``overlaid_style.html`` in its style.

    Args:
        title: above the chart, such as ``val/loss``.
        within: values that the axis never goes beyond, such as (0, 1) for shares.

    Returns:
        An ``svg`` element, with every name in it escaped.
    """
    kept = [[(x, y) for x, y in curve.points if math.isfinite(y)] for curve in curves]
    across = ticks(*_range([x for points in kept for x, _ in points], pad=0), whole=True)
    low, high = _range([y for points in kept for _, y in points], pad=0.06)
    if within is not None:
        low, high = max(low, within[0]), min(high, within[1])
    up = ticks(low, high)
    left, right = _range([x for points in kept for x, _ in points], pad=0.02)
    bottom = _TOP + _PLOT_HEIGHT

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            _LEFT + (x - left) / (right - left) * (_WIDTH - _LEFT - _RIGHT),
            bottom - (y - low) / (high - low) * _PLOT_HEIGHT,
        )

    drawn = []
    for number, (curve, points) in enumerate(zip(curves, kept, strict=True)):
        marked = points if len(points) <= _MARKED else []
        drawn.append(
            {
                "name": curve.name,
                "short": _short(curve.name),
                "colour": colour_of(number),
                "dash": _DASHES[number // _COLOURS % len(_DASHES)],
                "path": _path(curve.points, place),
                "dots": [
                    {"x": f"{a:.1f}", "y": f"{b:.1f}", "epoch": f"{x:g}", "value": f"{y:.4g}"}
                    for x, y in marked
                    for a, b in [place(x, y)]
                ],
                "rings": [_pair(place(x, y)) for x, y in points if x == curve.ringed],
                "y": bottom + _BOTTOM + _LINE * number + 4,
                "gap": len(points) < len(curve.points),
            }
        )
    chart = {
        "title": title, "width": _WIDTH, "height": bottom + _BOTTOM + _LINE * len(curves) + 2,
        "left": _LEFT, "right": _WIDTH - _RIGHT, "top": _TOP, "bottom": bottom,
        "across": [(f"{place(x, low)[0]:.1f}", _label(x)) for x in across],
        "up": [(f"{place(left, y)[1]:.1f}", _label(y)) for y in up],
        "curves": drawn, "empty": not any(kept),
    }  # fmt: skip
    return Markup(render("overlaid.html", chart=chart))


def colour_of(number: int) -> str:
    """The classes, of ``overlaid_style.html``, that colour the ``number``-th run (from 0)."""
    return f"run-{number % _COLOURS}" + (" again" if number >= _COLOURS else "")


def ticks(low: float, high: float, *, whole: bool = False) -> list[float]:
    """Round numbers from ``low`` to ``high``: multiples of 1, 2 or 5 times a power of ten.

    Args:
        whole: only whole numbers.

    >>> ticks(0, 1), ticks(0, 3, whole=True)
    ([0.0, 0.2, 0.4, 0.6, 0.8, 1.0], [0.0, 1.0, 2.0, 3.0])
    """
    rough = (high - low) / _TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = min((power * m for m in (1, 2, 5, 10)), key=lambda each: abs(each - rough))
    if whole:
        step = max(1.0, round(step))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def _range(values: Sequence[float], *, pad: float) -> tuple[float, float]:
    """Least and greatest, ``pad`` of their distance added on both sides; never without width."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    room = (high - low) * pad
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        room = 0.5 * abs(low) or 0.5
    return low - room, high + room


def _path(points: Sequence[tuple[float, float]], place) -> str:
    parts, begin = [], True
    for x, y in points:
        if math.isfinite(y):
            parts.append(("M" if begin else "L") + "{} {}".format(*_pair(place(x, y))))
        begin = not math.isfinite(y)
    return " ".join(parts)


def _pair(point: tuple[float, float]) -> tuple[str, str]:
    return f"{point[0]:.1f}", f"{point[1]:.1f}"


def _label(value: float) -> str:
    return f"{value:.10g}" if 1e-4 <= abs(value) < 1e6 or not value else f"{value:.3g}"


def _short(name: str) -> str:
    """The end of a long name: runs differ in their last folder."""
    return name if len(name) <= _LETTERS else "…" + name[1 - _LETTERS :]
