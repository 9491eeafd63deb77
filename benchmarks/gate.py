"""A gate in somebody else's loop: it lets as much through as was asked for, and then stands still.

Two threads meet at it: the one that trains, which calls ``pass_by`` where the loop may be held, and
the one that measures, which calls ``go``. Nothing here needs more than the standard library.
"""

from __future__ import annotations

import threading


class Gate:
    """Holds a loop at one place until so many turns of it are asked for.

    When ``go`` returns, the loop stands at the gate again, and stays there until the next ``go``:
    while another process is measured, this one does nothing. ``go`` writes how many turns are left
    only while the loop is standing, so neither thread can overtake the other.
    """

    def __init__(self):
        self._left = 0  # turns that may still be taken
        self._met = False  # whether the loop has come to the gate once
        self._asked = threading.Semaphore(0)
        self._standing = threading.Semaphore(0)

    def go(self, turns: int = 1) -> None:
        """Let ``turns`` turns go, each from the gate to the gate; return when the loop stands."""
        if turns < 1:
            raise ValueError(f"{turns} turns: at least one is needed")
        if not self._met:
            self._standing.acquire()  # the loop may still be getting ready
            self._met = True
        self._left = turns
        self._asked.release()
        self._standing.acquire()

    def pass_by(self) -> None:
        """Called by the loop at the start of each turn; waits there when no turn is left."""
        if not self._left:
            self._standing.release()
            self._asked.acquire()
        self._left -= 1
