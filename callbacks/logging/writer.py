"""Writes what a look found in a thread of its own, while the look goes on."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import Self

from convlens.callbacks.explanation import Explanation

ROOM = 4  # pictures that may wait: more would take memory, and time at the end of a look


class Writer:
    """Does work in the order in which it is handed over; leaving the ``with`` waits for all of it.

    So a look's pictures are there when the look ends, before any checkpoint of that epoch, however
    the look ends. The first error of an explanation ends its work; that of others continues.

    Args:
        threaded: False to do the work at once, in the thread of the caller.

    Attributes:
        failures: by explanation, the error that ended its work.
        last: whose the latest work is; None if there was none.
    """

    def __init__(self, *, threaded: bool):
        self.failures: dict[Explanation, Exception] = {}
        self.last: Explanation | None = None
        self._queue: queue.Queue | None = queue.Queue(ROOM) if threaded else None
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)
        self._handed = self._done = 0  # sizes
        self._seconds = 0.0  # of what is done

    def __enter__(self) -> Self:
        if self._queue is not None:
            self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._queue is not None:
            self._queue.put(None)
            self._thread.join()

    def put(self, explanation: Explanation, work: Callable[[], object], size: int = 0) -> None:
        """Hand over some work; wait if too much of it is waiting already.

        Args:
            explanation: whose work it is.
            work: what to do.
            size: how much it is, in any unit; 0 if it takes next to no time.

        Raises:
            Exception: that of the work, if it is done at once.
        """
        self.last = explanation
        if self._queue is None:
            work()
        else:
            self._handed += size
            self._queue.put((explanation, work, size))

    @property
    def backlog(self) -> float:
        """Seconds that the work still waiting will take, by what was done before."""
        return (self._handed - self._done) * self._seconds / max(self._done, 1)

    def _run(self) -> None:
        assert self._queue is not None
        while (item := self._queue.get()) is not None:
            explanation, work, size = item
            began = time.perf_counter()
            if explanation not in self.failures:
                try:
                    work()
                except Exception as error:  # the look reports it
                    self.failures[explanation] = error
            if size:
                self._seconds += time.perf_counter() - began
                self._done += size
