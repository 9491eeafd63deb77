"""Write files atomically: complete or not at all, even if a process is killed or a disk is full."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from convlens.core import system

TEMPORARY = ".*.tmp"  # pattern of the unfinished files that a killed process leaves behind


@contextlib.contextmanager
def open_atomic(
    path: Path,
    mode: str = "w",
    *,
    sync: bool = False,
    errors: str | None = None,
    newline: str = "\n",
) -> Iterator[IO]:
    """Open a file for writing that replaces ``path`` when the ``with`` ends without an exception.

    Until then the file is named ``.<name>.<process>.tmp``, in the same folder, and ``path`` is
    unchanged. After any exception the file is removed.

    Args:
        path: final path of the file; its folder must exist.
        mode: ``w`` for text in UTF-8, or ``wb``.
        sync: whether to flush the content to the disk before the file is renamed, so that a power
            failure cannot leave an empty file.
        errors: how to treat characters that UTF-8 cannot encode, as in ``open``.
        newline: line endings, as in ``open``; by default the same on every system.

    Yields:
        The open file.

    Raises:
        OSError: the file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    text = {} if "b" in mode else {"encoding": "utf-8", "errors": errors, "newline": newline}
    try:
        with open(temporary, mode, **text) as file:
            yield file
            if sync:
                file.flush()
                os.fsync(file.fileno())
        system.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def write_atomic(path: Path, text: str) -> None:
    """Write a text file completely or not at all.

    Raises:
        OSError: the file cannot be written.
    """
    with open_atomic(path) as file:
        file.write(text)
