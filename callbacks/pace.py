"""How long the pieces of an explanation take, and how many of them fit into the time left."""

from __future__ import annotations

import time
from collections.abc import Hashable

FADE = 0.5  # part of an earlier, slower record that still counts beside the latest
PART = 0.5  # part of the time left that a piece may take where it cannot be stopped
DOUBT = 0.9  # an estimate for which there was no time is corrected by this factor


class Pace:
    """Seconds of pieces of work by kind and size, measured while a run explains.

    A run has one device, one network and one image size, so the kind of work and the number of its
    units are all that the cost depends on: ``("grad_cam", layer)``, say, whose unit is an image.
    """

    def __init__(self) -> None:
        self._seconds: dict[Hashable, dict[int, float]] = {}  # by kind, then by units

    def estimate(self, kind: Hashable, units: int) -> float | None:
        """Return the seconds of a piece, or None if no piece of this kind was measured yet.

        A piece takes no longer than a larger one, and a unit of it no longer than a unit of a
        smaller one: the least of these bounds is returned.

        >>> pace = Pace()
        >>> pace.note("map", 1, 0.5)
        >>> pace.note("map", 8, 2.0)
        >>> [pace.estimate("map", units) for units in (1, 2, 4, 8, 16)]
        [0.5, 1.0, 2.0, 2.0, 4.0]
        """
        sizes = self._seconds.get(kind)
        if not sizes:
            return None
        return min(seconds * max(1.0, units / size) for size, seconds in sizes.items())

    def note(self, kind: Hashable, units: int, seconds: float) -> None:
        """Record that a piece took some seconds.

        If it was slower than estimated, the machine is busier, and all records are corrected. Of
        two records of the same size, the later one counts, but at least ``FADE`` of the earlier.
        """
        if units < 1:
            return
        sizes, expected = self._seconds.setdefault(kind, {}), self.estimate(kind, units)
        if expected is not None and 0 < expected < seconds:
            for size in sizes:
                sizes[size] *= seconds / expected
        elif expected is not None:
            seconds = max(seconds, FADE * sizes.get(units, 0.0))
        sizes[units] = seconds

    def doubt(self, kind: Hashable) -> None:
        """Lower the estimates of a kind for which there was no time.

        A piece that was disturbed once would otherwise never be tried again.
        """
        for size in self._seconds.get(kind, {}):
            self._seconds[kind][size] *= DOUBT

    def forget(self, kind: Hashable) -> None:
        """Forget what a kind of work takes, so that it is measured again."""
        self._seconds.pop(kind, None)

    def count_affordable(self, kind: Hashable, left: float, most: int, part: float = 1.0) -> int:
        """Return how many units the next piece of a kind that was measured may have.

        Args:
            kind: of the work.
            left: seconds that may be spent.
            most: the largest answer.
            part: the part of ``left`` that a piece of several units may take.

        >>> pace = Pace()
        >>> pace.note("map", 1, 0.5)
        >>> [pace.count_affordable("map", left, 32, 0.5) for left in (0.4, 0.6, 10.0, 90.0)]
        [0, 1, 10, 32]
        """
        estimates = ((count, self.estimate(kind, count) or 0.0) for count in range(1, most + 1))
        return max(
            (n for n, seconds in estimates if seconds <= (left if n == 1 else part * left)),
            default=0,
        )


class Allowance:
    """How many equal steps may begin before a deadline, asked again and again; see ``__call__``.

    Args:
        deadline: reading of ``time.perf_counter`` after which no step begins.
        on_cpu: whether a step is done when it returns, so that each may be asked for. Other devices
            are only told what to do: there, steps are allowed in pieces that take at most half of
            the time left, and only between pieces is the device waited for.
    """

    def __init__(self, deadline: float, *, on_cpu: bool):
        self._deadline, self._on_cpu = deadline, on_cpu
        self._given, self._since = 1, time.perf_counter()  # the first step needs no leave

    def __call__(self) -> int:
        """Return how many steps may begin, now that those allowed before are done."""
        now = time.perf_counter()
        if now >= self._deadline:
            return 0
        if not self._on_cpu:
            step = max((now - self._since) / self._given, 1e-6)
            self._given = max(1, int(min(PART * (self._deadline - now) / step, 1e6)))
            self._since = now
        return self._given
