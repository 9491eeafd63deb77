"""How long the pieces of an explanation take, and how many of them fit into the time left."""

from __future__ import annotations

from collections.abc import Hashable


class Pace:
    """Seconds of a unit of work by kind, measured while a run explains.

    A run has one device, one network and one image size, so the kind of work is all that the cost
    depends on: ``("grad_cam", layer)``, say, whose unit is an image.
    """

    def __init__(self) -> None:
        self._seconds: dict[Hashable, float] = {}

    def seconds(self, kind: Hashable) -> float | None:
        """Return the seconds of one unit, or None if none was measured yet."""
        return self._seconds.get(kind)

    def note(self, kind: Hashable, units: int, seconds: float) -> None:
        """Record that some units took some seconds; the latest record counts."""
        self._seconds[kind] = seconds / units

    def count_affordable(self, kind: Hashable, left: float, most: int, guess: float) -> int:
        """Return how many units fit.

        Args:
            kind: of the work.
            left: seconds that may be spent.
            most: the largest answer.
            guess: seconds of a unit of which none was measured yet; of such a kind one unit is
                the most, and it is timed.

        >>> pace = Pace()
        >>> pace.count_affordable("map", 10.0, 32, guess=1.0)
        1
        >>> pace.note("map", 2, 1.0)
        >>> pace.count_affordable("map", 10.0, 32, guess=1.0)
        20
        >>> pace.count_affordable("map", 0.4, 32, guess=1.0)
        0
        """
        if left <= 0 or most <= 0:
            return 0
        known = self._seconds.get(kind)
        if known is None:
            return int(guess <= left)
        return most if known * most <= left else int(left / known)
