"""Measure where a run spends its time: each second has one name, so all names sum to the total."""

from __future__ import annotations

import functools
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import ParamSpec, TypeVar

OTHER = "other"
P, T = ParamSpec("P"), TypeVar("T")

_running: list[Stopwatch] = []


class Stopwatch:
    """Count the seconds since its creation by name.

    Time goes to the innermost name: features computed during a test do not count as test.

    Args:
        name: name of the seconds before any other name is entered.
    """

    def __init__(self, name: str = OTHER):
        self._seconds = Counter()
        self._names = [name]
        self._since = time.perf_counter()

    @contextmanager
    def running(self) -> Iterator[Stopwatch]:
        """Make this the stopwatch that ``count_seconds`` uses, until the end of the ``with``."""
        _running.append(self)
        try:
            yield self
        finally:
            _running.remove(self)

    @contextmanager
    def on(self, name: str) -> Iterator[None]:
        """Count the seconds inside the ``with`` under ``name``."""
        depth = len(self._names)
        self._settle()
        self._names.append(name)
        try:
            yield
        finally:
            self._settle()
            del self._names[depth:]

    def switch_to(self, name: str) -> None:
        """Count the seconds of the innermost ``on`` under ``name`` from now on."""
        self._settle()
        self._names[-1] = name

    def seconds(self) -> dict[str, float]:
        """Return the seconds by name up to now."""
        self._settle()
        return dict(self._seconds)

    def add(self, seconds: Mapping[str, float]) -> None:
        """Add the seconds of an earlier process of the same run."""
        self._seconds.update(seconds)

    def _settle(self) -> None:
        now = time.perf_counter()
        self.add({self._names[-1]: now - self._since})
        self._since = now


def count_seconds(name: str) -> AbstractContextManager[None]:
    """Count the seconds inside the ``with`` under ``name`` on the running stopwatch, if any."""
    return get_stopwatch().on(name)


def with_stopwatch(work: Callable[P, T]) -> Callable[P, T]:
    """Wrap ``work`` to run with the caller's stopwatch, or with a new one if none is running."""

    @functools.wraps(work)
    def run(*args: P.args, **words: P.kwargs) -> T:
        with nullcontext() if _running else Stopwatch("setup").running():
            return work(*args, **words)

    return run


def get_stopwatch() -> Stopwatch:
    """Return the running stopwatch, or a new one that nobody reads."""
    return _running[-1] if _running else Stopwatch()
