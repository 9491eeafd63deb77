"""Where a run's seconds went: each under exactly one name, so that they add up to all of them."""

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
    """Counts the seconds since it was made.

    They go to the name that was entered last and not yet left: what is spent on features amid a
    test is not spent on the test.

    Args:
        name: of the seconds before any other is entered.
    """

    def __init__(self, name: str = OTHER):
        self._seconds = Counter()
        self._names = [name]
        self._since = time.perf_counter()

    @contextmanager
    def running(self) -> Iterator[Stopwatch]:
        """:func:`spent_on` counts here while this lasts."""
        _running.append(self)
        try:
            yield self
        finally:
            _running.remove(self)

    @contextmanager
    def on(self, name: str) -> Iterator[None]:
        """What is spent inside is spent on ``name``."""
        depth = len(self._names)
        self._settle()
        self._names.append(name)
        try:
            yield
        finally:
            self._settle()
            del self._names[depth:]

    def switch_to(self, name: str) -> None:
        """The seconds of the innermost :meth:`on` go to ``name`` from now on."""
        self._settle()
        self._names[-1] = name

    def seconds(self) -> dict[str, float]:
        """Seconds by name up to now."""
        self._settle()
        return dict(self._seconds)

    def add(self, seconds: Mapping[str, float]) -> None:
        """Count what an earlier process of the same run has spent."""
        self._seconds.update(seconds)

    def _settle(self) -> None:
        now = time.perf_counter()
        self.add({self._names[-1]: now - self._since})
        self._since = now


def count_seconds(name: str) -> AbstractContextManager[None]:
    """What is spent inside goes to ``name`` on the stopwatch that is running, if there is one."""
    return get_stopwatch().on(name)


def with_stopwatch(work: Callable[P, T]) -> Callable[P, T]:
    """``work`` with a stopwatch running: the caller's if there is one, else one of its own."""

    @functools.wraps(work)
    def run(*args: P.args, **words: P.kwargs) -> T:
        with nullcontext() if _running else Stopwatch("setup").running():
            return work(*args, **words)

    return run


def get_stopwatch() -> Stopwatch:
    """The stopwatch that is running, or one that nobody reads."""
    return _running[-1] if _running else Stopwatch()
