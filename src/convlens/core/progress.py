"""Progress bars on stderr, drawn only on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich import progress
from rich.console import Console


def is_on_terminal() -> bool:
    """Return whether stderr is a terminal, so that a progress bar is visible."""
    return sys.stderr.isatty()


@contextmanager
def progress_bar(
    title: str, total: int | None, *, visible: bool = True, in_bytes: bool = False
) -> Iterator[Callable[[int], object]]:
    """Show a progress bar until the end of the ``with``; show nothing if stderr is no terminal.

    Args:
        title: name of the work.
        total: number of items or bytes; None if it is unknown.
        visible: False for work that nobody waits for.
        in_bytes: whether the bar counts bytes instead of items.

    Yields:
        A function to call with the number of items or bytes finished since its last call.
    """
    if not (visible and is_on_terminal()):
        yield lambda count: None
        return
    if in_bytes:
        counts = (progress.DownloadColumn(), progress.TransferSpeedColumn())
    else:
        counts = (progress.MofNCompleteColumn(), progress.TimeRemainingColumn())
    columns = (progress.TextColumn("{task.description}"), progress.BarColumn(), *counts)
    with progress.Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(title, total=total)
        yield lambda count: bars.advance(task, count)
