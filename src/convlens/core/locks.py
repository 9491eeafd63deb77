"""Locks between processes; the system releases them however the process that holds one ends.

A lock is taken on a file that the caller has opened, and released by closing it. A file with a
process number would not do: the next container may use the same number.
"""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

from convlens.core import system

_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL}


def take_lock(fd: int, *, wait: bool = False) -> bool | None:
    """Lock an open file exclusively for this process.

    Args:
        fd: descriptor of the file.
        wait: whether to wait until another process releases the lock.

    Returns:
        Whether this process has the lock; None if the file system does not support locks.
    """
    try:
        return system.take_lock(fd, wait=wait)
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return None
        raise


def wait_for_lock(fd: int, activity: str) -> bool:
    """Lock an open file; print a line on stderr if another process has to release it first.

    Args:
        fd: descriptor of the file.
        activity: what the other process is doing, for that line.

    Returns:
        False if the file system does not support locks.
    """
    is_taken = take_lock(fd)
    if is_taken is False:
        print(f"waiting for another process that is {activity}", file=sys.stderr)
        is_taken = take_lock(fd, wait=True)
    return bool(is_taken)


def is_locked(fd: int) -> bool:
    """Return whether another process has locked an open file.

    False if the file system does not support locks. Until ``fd`` is closed, ``take_lock`` may fail
    in other processes.
    """
    try:
        return system.is_locked(fd)
    except OSError:
        return False


def is_same_file(fd: int, path: Path) -> bool:
    """Return whether ``path`` is still the open file, not renamed or removed in the meantime."""
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False
