"""Line charts as inline SVG: numbers over epochs, readable in light and dark, without a library."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from markupsafe import Markup

from convlens.pages.render import render

WIDTH, HEIGHT = 400.0, 230.0  # of the drawing, in its own units; the page scales it
LEFT, RIGHT, TOP, BOTTOM = 48.0, 10.0, 18.0, 30.0  # room for ticks and names around the plot
SAME = 1e-6  # share of the values, below which they do not differ
TICKS = 5  # steps between ticks, about
MARKED = 60  # points of a line, up to which each gets a dot that tells its value
COLOURS = 8  # of the page's variables --series-0 …; behind them lines are dashed


@dataclass(frozen=True)
class Axis:
    """From values to places in the drawing.

    Attributes:
        low, high: values at the ends, ``low < high``; above 0 where ``log``.
        start, end: their places.
        log: whether equal distances are equal ratios.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        scale = math.log10 if self.log else float
        low, high, value = map(scale, (self.low, self.high, value))
        return self.start + (value - low) / (high - low) * (self.end - self.start)


def series_class(number: int) -> str:
    """The classes, of ``chart_style.html``, that colour the ``number``-th series (from 0)."""
    return f"series-{number % COLOURS}" + (" again" if number >= COLOURS else "")


def linear_ticks(low: float, high: float, *, whole: bool = False) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) from below ``low`` to above ``high``.

    Args:
        whole: numbers that lie at least 1 apart, none of them outside.

    >>> linear_ticks(0.13, 0.88)
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    >>> linear_ticks(0, 12, whole=True)
    [0.0, 2.0, 4.0, 6.0, 8.0, 10.0, 12.0]
    """
    size = max(abs(low), abs(high))
    if high - low <= SAME * size:  # one value: room on both sides
        low, high = (low - size / 10, high + size / 10) if size else (0.0, 1.0)
    rough = (high - low) / TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    # the nearest of the round steps, as ratios go
    step = power * min((1, 2, 5, 10), key=lambda factor: abs(math.log(factor * power / rough)))
    if whole:
        step = max(step, 1.0)
        first, last = math.ceil(low / step), math.floor(high / step)
    else:
        # a value that lies on a tick but for rounding needs no further tick
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        last = max(last, first + 1)
    return [float(f"{number * step:.12g}") for number in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten from below ``low`` to above ``high``, both above 0.

    >>> log_ticks(3e-5, 0.01)
    [1e-05, 0.0001, 0.001, 0.01]
    """
    first = math.floor(math.log10(low) + 1e-9)
    last = max(math.ceil(math.log10(high) - 1e-9), first + 1)
    return [float(f"1e{power}") for power in range(first, last + 1)]


def format_tick(value: float) -> str:
    """A number as a tick shows it.

    >>> format_tick(0.25), format_tick(2000.0), format_tick(0.00001)
    ('0.25', '2000', '1e-05')
    """
    return f"{value:.5g}"


def line_chart(
    title: str, series: Mapping[str, Mapping[int, float]], *, best: int | None = None,
    phases: Mapping[str, int] | None = None, span: tuple[int, int] | None = None,
    log: bool = False, note: str = "",
) -> Markup:  # fmt: skip
    """A chart: one line a series over completed epochs, with axes, ticks and a legend.

    Values that are not there are bridged; those that are not finite interrupt their line and are
    told below the chart, so that a loss that became NaN does not look like one never written.

    Args:
        title: what is measured.
        series: name to value by epoch.
        best: epoch of an upright line named "best".
        phases: name to the epoch after which it began: dotted upright lines.
        span: first and last epoch of the axis, so that charts of one run line up; those of the
            series without it.
        log: a logarithmic axis; values that are not above 0 are left out of it.
        note: a line below the chart.

    Returns:
        A ``<figure>``; empty where no series has a finite value to show.
    """
    shown, broken = {}, []
    for name, points in series.items():
        odd = [epoch for epoch, value in sorted(points.items()) if not math.isfinite(value)]
        if odd:
            broken.append(f"{name} is not finite at epoch {', '.join(map(str, odd))}")
        kept = {e: v for e, v in sorted(points.items()) if not (log and v <= 0)}
        # one that has nothing to show keeps its colour: charts of the same series agree
        shown[name] = kept if any(map(math.isfinite, kept.values())) else None
    drawn = [points for points in shown.values() if points is not None]
    if not drawn:
        return Markup(render("no_chart.html", title=title, notes=broken)) if broken else Markup("")
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
            across=[(across.at(t), format_tick(t)) for t in linear_ticks(first, last, whole=True)],
            upward=[(upward.at(t), format_tick(t)) for t in ticks],
            lines=[
                _line(number, name, points, across, upward)
                for number, (name, points) in enumerate(shown.items())
                if points is not None
            ],
            best=_mark("best", best, across),
            phases=[_mark(name, epoch, across) for name, epoch in (phases or {}).items()],
            notes=[*broken, *([note] if note else [])],
        )
    )


def _line(
    number: int, name: str, points: Mapping[int, float], across: Axis, upward: Axis
) -> dict[str, object]:
    """What the template draws of one series: path, dots, colour."""
    words, dots, pen_up = [], [], True
    for epoch, value in points.items():
        if not math.isfinite(value):
            pen_up = True
            continue
        place = (f"{across.at(epoch):.2f}", f"{upward.at(value):.2f}")
        words.append(f"{'M' if pen_up else 'L'}{place[0]} {place[1]}")
        dots.append((*place, f"{name}, epoch {epoch}: {value:.6g}"))
        pen_up = False
    return {
        "name": name,
        "colour": number % COLOURS,
        "dashed": number >= COLOURS,
        "path": " ".join(words),
        "dots": dots if len(dots) <= MARKED else [],
    }


def _mark(name: str, epoch: int | None, across: Axis) -> dict[str, object] | None:
    """An upright line; its name stands on the side where there is more room."""
    if epoch is None or not across.low <= epoch <= across.high:
        return None
    left = epoch - across.low > (across.high - across.low) / 2
    return {
        "name": f"{name} {epoch}" if name == "best" else name,
        "at": across.at(epoch),
        "anchor": "end" if left else "start",
        "text_at": across.at(epoch) + (-3 if left else 3),
    }
