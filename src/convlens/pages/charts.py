"""Line charts as inline SVG: numbers over epochs, readable in light and dark, without a library.

A page that shows charts includes ``chart_script.html`` once, which shows the values of the epoch
under the pointer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from markupsafe import Markup

from convlens.pages.render import render

WIDTH, HEIGHT = 400.0, 230.0  # of the chart in SVG units; the page scales it
LEFT, RIGHT, TOP, BOTTOM = 48.0, 10.0, 18.0, 30.0  # margins for ticks and labels
TOLERANCE = 1e-6  # relative difference below which values count as equal
TICKS = 5  # approximate number of intervals between ticks
MOST_DOTS = 60  # a line with more points has no dots
COLOURS = 8  # variables --series-0 … of the page; further lines repeat them, dashed


@dataclass(frozen=True)
class Axis:
    """An axis of a chart, which maps values to coordinates.

    Attributes:
        low: the lowest value; positive on a logarithmic axis.
        high: the highest value, above ``low``.
        start: the coordinate of ``low``.
        end: the coordinate of ``high``.
        log: whether the axis is logarithmic.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def position(self, value: float) -> float:
        """Return the coordinate of a value."""
        scale = math.log10 if self.log else float
        low, high, value = map(scale, (self.low, self.high, value))
        return self.start + (value - low) / (high - low) * (self.end - self.start)


def series_class(number: int) -> str:
    """Return the CSS classes that colour a series, counted from 0; see ``chart_style.html``."""
    return f"series-{number % COLOURS}" + (" again" if number >= COLOURS else "")


def linear_ticks(low: float, high: float, *, whole: bool = False) -> list[float]:
    """Return round numbers that cover a range, spaced by 1, 2 or 5 times a power of ten.

    Args:
        low: start of the range.
        high: end of the range.
        whole: whether ticks are whole numbers inside the range.

    >>> linear_ticks(0.13, 0.88)
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    >>> linear_ticks(0, 12, whole=True)
    [0.0, 2.0, 4.0, 6.0, 8.0, 10.0, 12.0]
    """
    size = max(abs(low), abs(high))
    if high - low <= TOLERANCE * size:  # a single value: leave room on both sides
        low, high = (low - size / 10, high + size / 10) if size else (0.0, 1.0)
    rough = (high - low) / TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    # the round step with the nearest ratio
    step = power * min((1, 2, 5, 10), key=lambda factor: abs(math.log(factor * power / rough)))
    if whole:
        step = max(step, 1.0)
        first, last = math.ceil(low / step), math.floor(high / step)
    else:
        # a value on a tick, except for rounding, needs no further tick
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        last = max(last, first + 1)
    return [float(f"{number * step:.12g}") for number in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Return powers of ten that cover a range of positive values.

    >>> log_ticks(3e-5, 0.01)
    [1e-05, 0.0001, 0.001, 0.01]
    """
    first = math.floor(math.log10(low) + 1e-9)
    last = max(math.ceil(math.log10(high) - 1e-9), first + 1)
    return [float(f"1e{power}") for power in range(first, last + 1)]


def format_tick(value: float) -> str:
    """Return the label of a tick.

    >>> format_tick(0.25), format_tick(2000.0), format_tick(0.00001)
    ('0.25', '2000', '1e-05')
    """
    return f"{value:.5g}"


def line_chart(
    title: str, series: Mapping[str, Mapping[int, float]], *, best: int | None = None,
    phases: Mapping[str, int] | None = None, span: tuple[int, int] | None = None,
    log: bool = False, note: str = "",
) -> Markup:  # fmt: skip
    """Return a chart with one line per series over completed epochs, with ticks and a legend.

    A line bridges epochs without a value. Values that are not finite interrupt it and are listed
    below the chart, so that a loss that became NaN does not look like a missing one.

    Args:
        title: what is measured.
        series: name to value by epoch.
        best: the epoch to mark as the best one with a vertical line.
        phases: name to the epoch after which the phase begins; marked with dotted vertical lines.
        span: the first and the last epoch of the axis, so that all charts of a run line up; by
            default those of the series.
        log: whether the value axis is logarithmic; it leaves out values that are not positive.
        note: a line below the chart.

    Returns:
        A ``<figure>``; an empty string if there is nothing to show.
    """
    plotted, notes = {}, []
    for name, points in series.items():
        odd = [epoch for epoch, value in sorted(points.items()) if not math.isfinite(value)]
        if odd:
            notes.append(f"{name} is not finite at epoch {', '.join(map(str, odd))}")
        kept = {e: v for e, v in sorted(points.items()) if not (log and v <= 0)}
        # an empty series keeps its place, so that a name has the same colour in all charts
        plotted[name] = kept if any(map(math.isfinite, kept.values())) else None
    drawn = [points for points in plotted.values() if points is not None]
    if not drawn:
        return Markup(render("no_chart.html", title=title, notes=notes)) if notes else Markup("")
    epochs = [*(span or ()), *(epoch for points in drawn for epoch in points)]
    values = [v for points in drawn for v in points.values() if math.isfinite(v)]
    first, last = min(epochs), max(*epochs, min(epochs) + 1)
    across = Axis(first, last, LEFT, WIDTH - RIGHT)
    ticks = (log_ticks if log else linear_ticks)(min(values), max(values))
    upward = Axis(ticks[0], ticks[-1], HEIGHT - BOTTOM, TOP, log)
    return Markup(
        render(
            "chart.html",
            title=title,
            size=(WIDTH, HEIGHT),
            plot=(LEFT, TOP, WIDTH - RIGHT, HEIGHT - BOTTOM),
            across=[
                (across.position(t), format_tick(t)) for t in linear_ticks(first, last, whole=True)
            ],
            upward=[(upward.position(t), format_tick(t)) for t in ticks],
            axes=(across, upward),
            lines=[
                _line(number, name, points, series[name], across, upward)
                for number, (name, points) in enumerate(plotted.items())
                if points is not None
            ],
            best=_mark("best", best, across),
            phases=[_mark(name, epoch, across) for name, epoch in (phases or {}).items()],
            notes=[*notes, *([note] if note else [])],
        )
    )


def _line(
    number: int, name: str, points: Mapping[int, float], values: Mapping[int, float],
    across: Axis, upward: Axis,
) -> dict[str, object]:  # fmt: skip
    """Return the template's values for one series: path, dots, colour, and all its values."""
    steps, dots, pen_up = [], [], True
    for epoch, value in points.items():
        if not math.isfinite(value):
            pen_up = True
            continue
        x, y = f"{across.position(epoch):.2f}", f"{upward.position(value):.2f}"
        steps.append(f"{'M' if pen_up else 'L'}{x} {y}")
        dots.append((x, y))
        pen_up = False
    return {
        "name": name,
        "colour": number % COLOURS,
        "dashed": number >= COLOURS,
        "path": " ".join(steps),
        "dots": dots if len(dots) <= MOST_DOTS else [],
        "points": " ".join(f"{epoch}:{value:.6g}" for epoch, value in sorted(values.items())),
    }


def _mark(name: str, epoch: int | None, across: Axis) -> dict[str, object] | None:
    """Return a vertical line, labelled on the side that has more room; None outside the axis."""
    if epoch is None or not across.low <= epoch <= across.high:
        return None
    left = epoch - across.low > (across.high - across.low) / 2
    return {
        "name": f"{name} {epoch}" if name == "best" else name,
        "at": across.position(epoch),
        "anchor": "end" if left else "start",
        "text_at": across.position(epoch) + (-3 if left else 3),
    }
