"""A gate that lets a loop in another thread take a requested number of turns, then holds it.

The training thread calls ``pass_by`` at the place where the loop may be held. The measuring thread
calls ``go``. Only the standard library is used.
"""

from __future__ import annotations

import threading


class Gate:
    """Holds a loop at one place until turns are requested.

    When ``go`` returns, the loop waits at the gate again until the next ``go``, so this process
    computes nothing while another one is measured. ``go`` sets the number of turns only while the
    loop waits, so neither thread can overtake the other.
    """

    def __init__(self):
        self._left = 0  # turns that the loop may still take
        self._met = False  # whether the loop has reached the gate once
        self._requested = threading.Semaphore(0)
        self._waiting = threading.Semaphore(0)

    def go(self, turns: int = 1) -> None:
        """Let the loop take ``turns`` turns, and return when it waits at the gate again."""
        if turns < 1:
            raise ValueError(f"turns must be at least 1, not {turns}")
        if not self._met:
            self._waiting.acquire()  # the loop may not have reached the gate yet
            self._met = True
        self._left = turns
        self._requested.release()
        self._waiting.acquire()

    def pass_by(self) -> None:
        """Wait if no turn is left; the loop calls this at the start of each turn."""
        if not self._left:
            self._waiting.release()
            self._requested.acquire()
        self._left -= 1
