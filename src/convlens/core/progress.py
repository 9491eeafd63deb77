"""Progress bars: on a terminal's stderr, and nowhere else."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich import progress
from rich.console import Console


def is_on_terminal() -> bool:
    """Whether a bar would be seen; what has to be said otherwise takes lines."""
    return sys.stderr.isatty()


@contextmanager
def progress_bar(
    title: str, total: int | None, *, shown: bool = True, in_bytes: bool = False
) -> Iterator[Callable[[int], object]]:
    """A bar that is gone when the work is done; nothing where stderr is no terminal.

    Args:
        title: what is being done.
        total: how much of it there is; None where nobody knows.
        shown: False for work that nobody waits for.
        in_bytes: whether bytes are counted, not pieces.

    Yields:
        A function to call with how much more is done.
    """
    if not (shown and is_on_terminal()):
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
