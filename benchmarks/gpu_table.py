"""The lines of `make bench-gpu`, the order of its sections, and its time limit."""

from __future__ import annotations

import signal
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

HEADER = ("row", "convlens", "beside", "peer", "ratio (from to)", "notes")
WIDTHS = (48, 10, 26, 10, 22, 0)


class TimeIsUp(BaseException):  # no `except Exception` may swallow it
    """The benchmark has used all of its time."""


@dataclass(frozen=True)
class Line:
    """A line of the table.

    Attributes:
        name: what was measured, with the unit.
        ours: of convlens, by round.
        beside: name of the peer; empty if there is none.
        peer: of the peer, by round.
        ratios: by round; how long convlens takes, as a multiple of the peer.
        notes: what else is known.
    """

    name: str
    ours: Sequence[float] = ()
    beside: str = ""
    peer: Sequence[float] = ()
    ratios: Sequence[float] = ()
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Section:
    """Lines that are measured together.

    Attributes:
        name: on the command line.
        seconds: they take about this long on an H200; the section is skipped if less is left.
        measure: measures the lines and yields each when it is known.
    """

    name: str
    seconds: float
    measure: Callable[[], Iterable[Line]]


@dataclass
class Outcome:
    """What a benchmark measured, and why sections are missing."""

    lines: list[Line] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)


def run_sections(
    sections: Iterable[Section], limit: float, clock: Callable[[], float],
    show: Callable[[str], None],
) -> Outcome:  # fmt: skip
    """Measure the sections in their order and show each line at once.

    A section that would not end in time is skipped; a later, shorter one may still fit. A section
    that fails is reported, and the others are measured.

    Args:
        sections: the most useful first.
        limit: seconds on the clock after which nothing may run.
        clock: seconds since the benchmark began.
        show: prints a text.
    """
    found = Outcome()
    show(format_cells(HEADER))
    for section in sections:
        left = limit - clock()
        if section.seconds > left:
            reason = f"skipped, it takes about {section.seconds:.0f} s and {left:.0f} s are left"
        else:
            try:
                for line in section.measure():
                    found.lines.append(line)
                    show(format_line(line))
                continue
            except TimeIsUp:
                reason = "stopped, the time is up"
            except Exception as error:  # the other sections are measured all the same
                reason = f"failed: {type(error).__name__}: {str(error).partition(chr(10))[0]}"
        found.missing[section.name] = reason
        show(f"{section.name}: {reason}")
    return found


@contextmanager
def stop_after(seconds: float) -> Iterator[None]:
    """Raise ``TimeIsUp`` in the main thread once the seconds are over."""

    def stop(number: int, frame: object) -> None:
        raise TimeIsUp

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.001))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)


def alternate(
    ours: Callable[[], float], peer: Callable[[], float], rounds: int
) -> tuple[list[float], list[float]]:
    """Call both sides in turns, in an order that changes from round to round."""
    found: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds):
        for side in (0, 1) if number % 2 == 0 else (1, 0):
            found[side].append((ours, peer)[side]())
    return found


def compare_speeds(
    name: str, ours: Sequence[float], beside: str, peer: Sequence[float], notes: Sequence[str] = ()
) -> Line:
    """Return the line of two sides that were measured in images per second."""
    ratios = [theirs / own for own, theirs in zip(ours, peer, strict=True)]
    return Line(name, ours, beside, peer, ratios, notes)


def format_line(line: Line) -> str:
    """Return a line as text: medians, and the ratio with its least and largest value.

    >>> format_line(Line("a [s]", [2.0], "b", [1.0], [2.0])).split()
    ['a', '[s]', '2.00', 'b', '1.00', '2.00', '(2.00', 'to', '2.00)']
    """
    ratio = ""
    if line.ratios:
        median, least, most = statistics.median(line.ratios), min(line.ratios), max(line.ratios)
        ratio = f"{median:.2f} ({least:.2f} to {most:.2f})"
    cells = [line.name, _format_median(line.ours), line.beside, _format_median(line.peer), ratio]
    return format_cells([*cells, "; ".join(line.notes)])


def format_cells(cells: Sequence[str]) -> str:
    """Return cells in columns; numbers and ratios to the right."""
    padded = [
        f"{cell:>{width}}" if place in (1, 3) else f"{cell:{width}}"
        for place, (cell, width) in enumerate(zip(cells, WIDTHS, strict=True))
    ]
    return "  ".join(padded).rstrip()


def _format_median(values: Sequence[float]) -> str:
    if not values:
        return ""
    median = statistics.median(values)
    return f"{median:,.0f}" if median >= 100 else f"{median:.3g}" if median < 1 else f"{median:.2f}"
