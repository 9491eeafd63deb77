"""Locks between processes, which the system frees at any death of their holder.

They are taken on files or folders that the caller has open, and given back by closing them.
Process numbers, noted in a file, would be reused by the next container.
"""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

from filelock import has_fcntl, lock_descriptor

if has_fcntl:  # not on Windows: nothing is locked there
    import fcntl

_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL}


def take_lock(fd: int, *, wait: bool = False) -> bool | None:
    """Lock an open file for this process alone.

    Args:
        fd: its descriptor.
        wait: for another holder to give it back.

    Returns:
        Whether it is taken now; None where the file system knows no locks.
    """
    if not has_fcntl:
        return None
    try:
        return lock_descriptor(fd, blocking=wait)
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return None
        raise


def wait_for_lock(fd: int, doing: str) -> bool:
    """Lock an open file, saying so on stderr if another process holds it.

    Args:
        fd: its descriptor.
        doing: what the other process is busy with.

    Returns:
        False where the file system knows no locks.
    """
    taken = take_lock(fd)
    if taken is False:
        print(f"waiting for another process that is {doing}", file=sys.stderr)
        taken = take_lock(fd, wait=True)
    return bool(taken)


def is_locked(fd: int) -> bool:
    """Whether another process holds an open file.

    Those who only look never see each other: they share the lock, which filelock cannot. One who
    wants to take it may be refused for that moment, until ``fd`` is closed.
    """
    if not has_fcntl:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        pass  # no locks here
    return False


def is_same_file(fd: int, path: Path) -> bool:
    """Whether ``path`` is still the open file, not renamed or removed by its last holder."""
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False
