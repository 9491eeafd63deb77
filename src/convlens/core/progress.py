"""What long work shows while it lasts: a bar on a terminal, a line elsewhere, both on stderr.

By default, nothing is shown of work that ends within ``SHOWN_AFTER`` seconds. No process but the
first shows anything.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from convlens.core.processes import is_first_process

if TYPE_CHECKING:  # slow to import, and most commands show no bar
    from rich.progress import Progress, TaskID

SHOWN_AFTER = 2.0  # seconds of work before it is shown
REPEATED_AFTER = 60.0  # seconds between two lines about the same work
TICK = 0.2  # seconds between two looks at the clock

_display: Progress | None = None  # the bars that a terminal shows now
_unknown: float | None = None  # what it takes as the total of a bar whose end is unknown


def is_on_terminal() -> bool:
    """Return whether stderr is a terminal, so that a progress bar is visible."""
    return sys.stderr.isatty()


def share_display(display: Progress | None, unknown: float | None = None) -> None:
    """Show the bars of later work in ``display``: a terminal has only one.

    Args:
        display: it is shown already; None if no display is shown any more.
        unknown: what it takes as the total of a bar whose end is unknown.
    """
    global _display, _unknown
    _display, _unknown = display, unknown


class Work:
    """A stretch of work, and how far it is; see ``progress_bar``.

    Args:
        title: name of the work.
        total: number of its items; None if it is unknown.
        in_bytes: whether it counts bytes instead of items.
        after: seconds of work before it is shown; None means ``SHOWN_AFTER``.
    """

    def __init__(
        self, title: str = "", total: int | None = None, *, in_bytes: bool = False,
        after: float | None = None,
    ):  # fmt: skip
        self._title, self._total, self._in_bytes = title, total, in_bytes
        self._part, self._done = "", 0
        self._began = time.perf_counter()
        # seconds after the beginning at which the next line is printed
        self._due = SHOWN_AFTER if after is None else after
        self._own: Progress | None = None
        self._shown: Progress | None = None  # ``_own``, or another one that was shown already
        self._bar: TaskID | None = None
        self._lock, self._ended = threading.Lock(), threading.Event()

    def begin(self, part: str | None = None, total: int | None = None) -> None:
        """Begin the next part of the work.

        Args:
            part: its name; None for another count within the current part.
            total: number of its items; None if it is unknown.
        """
        with self._lock:
            self._part = self._part if part is None else part
            self._total, self._done = total, 0
            self._hide_bar()
        self.update()

    def rename(self, part: str) -> None:
        """Name the current part otherwise; its count continues."""
        with self._lock:
            self._part = part
        self.update()

    def advance(self, count: int = 1) -> None:
        """Count items that are finished."""
        with self._lock:
            self._done += count
        self.update()

    def __str__(self) -> str:
        name = ": ".join(filter(None, [self._title, self._part]))
        if self._total is None or self._in_bytes:
            return name
        return f"{name} {self._done}/{self._total}"

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Show the work while the ``with`` lasts."""
        ticker = threading.Thread(target=self._tick, name="progress", daemon=True)
        ticker.start()
        try:
            yield
        finally:
            self._ended.set()
            ticker.join()
            self._close()

    def _tick(self) -> None:
        while not self._ended.wait(TICK):
            self.update()

    def update(self) -> None:
        """Show the work, if it has lasted long enough."""
        with self._lock:
            if self._ended.is_set() or not self._title:
                return
            if self._shown is not None:
                self._draw()
            elif time.perf_counter() - self._began < self._due:
                return
            elif is_on_terminal():
                self._open()
            else:
                self._due += REPEATED_AFTER
                print(self, file=sys.stderr, flush=True)

    def _open(self) -> None:
        if _display is None:
            self._own = _make_display(self._in_bytes)
            self._own.start()
            share_display(self._own)
        self._shown = _display
        self._draw()

    def _draw(self) -> None:
        assert self._shown is not None
        if self._bar is None:
            total = _unknown if self._total is None else self._total
            self._bar = self._shown.add_task(str(self), total=total)
        self._shown.update(self._bar, description=str(self), completed=self._done, refresh=True)

    def _hide_bar(self) -> None:
        if self._shown is not None and self._bar is not None:
            # Lightning finds its bars by their places, so none is removed
            self._shown.update(self._bar, visible=False, refresh=True)
            self._bar = None

    def _close(self) -> None:
        self._hide_bar()
        if self._own is not None:
            share_display(None)
            self._own.stop()


@contextmanager
def progress_bar(
    title: str, total: int | None = None, *, visible: bool = True, in_bytes: bool = False,
    after: float | None = None,
) -> Iterator[Work]:  # fmt: skip
    """Show work that takes long until the end of the ``with``.

    Args:
        title: name of the work, such as "reading weights".
        total: number of items or bytes; None if it is unknown.
        visible: False for work that nobody waits for.
        in_bytes: whether bytes are counted instead of items.
        after: seconds of work before it is shown; None means ``SHOWN_AFTER``.

    Yields:
        The work, to report how far it is.
    """
    work = Work(
        title if visible and is_first_process() else "", total, in_bytes=in_bytes, after=after
    )
    if not visible:
        yield work
        return
    with work.watched():
        yield work


def _make_display(in_bytes: bool) -> Progress:
    from rich import progress
    from rich.console import Console

    # the description holds the counts of items, as a line does where there is no terminal
    counts = (progress.DownloadColumn(), progress.TransferSpeedColumn()) if in_bytes else ()
    columns = (
        progress.TextColumn("{task.description}"), progress.BarColumn(), *counts,
        progress.TimeRemainingColumn(compact=True, elapsed_when_finished=True),
    )  # fmt: skip
    return progress.Progress(*columns, console=Console(stderr=True), transient=True)
