"""The lock of a run folder: only one process may write there, and its number is visible."""

from __future__ import annotations

import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path

from convlens.core import files, system
from convlens.core.errors import UserError
from convlens.core.locks import is_locked, take_lock
from convlens.core.processes import is_first_process

LOCK = ".lock"
# unfinished files that do not have their final names yet; older versions wrote metrics.csv.tmp
TEMPORARY = (
    files.TEMPORARY, f"checkpoints/{files.TEMPORARY}", f"explanations/epoch_*/{files.TEMPORARY}",
    "*.csv.tmp",
)  # fmt: skip
_WAIT = 0.5  # seconds after which a command that only tests a lock has surely released it


class Hold:
    """The exclusive right to write into one run folder, until the end of the ``with``.

    ``take`` locks the file ``.lock`` in the folder. The system releases the lock however the
    process ends. On a file system without locks, several processes can write at the same time.
    """

    def __init__(self) -> None:
        self._fd: int | None = None

    def __enter__(self) -> Hold:
        return self

    def __exit__(self, *_: object) -> None:
        if self._fd is not None:
            os.ftruncate(self._fd, 0)  # the file names a process only while that process runs
            os.close(self._fd)
            self._fd = None

    def take(self, folder: Path) -> None:
        """Lock a folder, if this is the process that writes.

        Unfinished files of a process that was killed there are removed.

        Args:
            folder: the run folder, which must exist.

        Raises:
            UserError: another process has the lock, or the folder cannot be written to.
        """
        if not is_first_process():
            return
        try:
            fd = system.open_file(folder / LOCK, os.O_RDWR | os.O_CREAT)
        except OSError as error:
            raise UserError(
                f"{folder} cannot be written to ({error.strerror}): free disk space or set its "
                f"permissions"
            ) from error
        if not (is_taken := _take(fd)):
            name = _read_name(fd) or "another process"
            os.close(fd)
            if is_taken is None:  # the file system does not support locks
                return
            raise UserError(
                f"{folder} is in use: {name} is training there; wait until it ends, stop it, or "
                f"choose another run_dir"
            )
        self._fd = fd
        for pattern in TEMPORARY:
            for unfinished in folder.glob(pattern):
                unfinished.unlink(missing_ok=True)
        os.ftruncate(fd, 0)
        system.write_at(fd, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)


def _take(fd: int) -> bool | None:
    """Take the lock; retry, because ``find_holder`` in another process takes it for a moment."""
    deadline = time.monotonic() + _WAIT
    while (is_taken := take_lock(fd)) is False and time.monotonic() < deadline:
        time.sleep(0.02)
    return is_taken


def _read_name(fd: int) -> str:
    return system.read_at(fd, 100, 0).decode(errors="replace").strip()


@dataclass(frozen=True)
class Holder:
    """The process that writes into a run folder.

    Attributes:
        name: ``process 12 on HOST``; empty if there is none.
        is_alive: whether the folder is locked. If the process belongs to another machine, a free
            lock proves nothing: on some file systems, a machine does not see the locks of another.
    """

    name: str
    is_alive: bool

    @property
    def unseen_host(self) -> str:
        """The other machine whose process may still write into the folder; empty if none may."""
        host = self.name.rpartition(" on ")[2]
        return "" if self.is_alive or host == socket.gethostname() else host


def find_holder(folder: Path) -> Holder:
    """Return which process currently writes into a run folder; change nothing there."""
    try:
        fd = system.open_file(folder / LOCK, os.O_RDONLY)
    except OSError:
        return Holder("", is_alive=False)
    try:
        return Holder(_read_name(fd), is_locked(fd))
    finally:
        os.close(fd)
