"""Files that are there whole or not at all, whenever a process is killed or a disk is full."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

TEMPORARY = ".*.tmp"  # what a killed process leaves beside a file that it was writing


@contextlib.contextmanager
def open_atomic(
    path: Path,
    mode: str = "w",
    *,
    sync: bool = False,
    errors: str | None = None,
    newline: str | None = None,
) -> Iterator[IO]:
    """A file to write, which gets its name when the ``with`` ends without an exception.

    Until then it lies beside it as ``.<name>.<process>.tmp``, and ``path`` is what it was before;
    after any exception it is removed.

    Args:
        path: in a folder that is there.
        mode: ``w`` for text in UTF-8, or ``wb``.
        sync: whether its bytes are on the disk before it gets its name, so that no loss of power
            leaves an empty file there.
        errors: what to do about letters that UTF-8 cannot hold, as :func:`open` takes it.
        newline: as :func:`open` takes it.

    Raises:
        OSError: it cannot be written.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    encoding = None if "b" in mode else "utf-8"
    try:
        with open(beside, mode, encoding=encoding, errors=errors, newline=newline) as file:
            yield file
            if sync:
                file.flush()
                os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise


def write_atomic(path: Path, text: str) -> None:
    """Write a text file, whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    with open_atomic(path) as file:
        file.write(text)
