"""A run folder has one process that writes, and everybody can see which."""

from __future__ import annotations

import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path

from convlens.core import files
from convlens.core.errors import UserError
from convlens.core.locks import is_locked, take_lock
from convlens.core.processes import is_first_process

LOCK = ".lock"
# files not yet renamed to their names; older versions wrote metrics.csv.tmp
TEMPORARY = (files.TEMPORARY, f"checkpoints/{files.TEMPORARY}", "*.csv.tmp")
_WAIT = 0.5  # seconds in which a command that only looks at a lock has let it go


class Hold:
    """The right to write into one run folder, for as long as the ``with`` lasts.

    Taking it also removes the half-written files of a process that was killed there.

    It is a lock on ``.lock`` in that folder, which the system frees at any death of the process.
    On a file system without locks nothing is held, and nothing refused.
    """

    def __init__(self):
        self._fd: int | None = None

    def __enter__(self) -> Hold:
        return self

    def __exit__(self, *_) -> None:
        if self._fd is not None:
            os.ftruncate(self._fd, 0)  # it names a process as long as there is one
            os.close(self._fd)
            self._fd = None

    def take(self, folder: Path) -> None:
        """Hold ``folder``, if this is the process that writes.

        Raises:
            UserError: another process holds it, or there is no such folder to write into.
        """
        if not is_first_process():
            return
        try:
            fd = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise UserError(
                f"{folder} cannot be written ({error.strerror}): make room or set its permissions"
            ) from error
        if not (taken := _take(fd)):
            name = _name(fd) or "another process"
            os.close(fd)
            if taken is None:  # no locks here
                return
            raise UserError(
                f"{folder} is in use: {name} trains there; wait for its end, stop it, or choose "
                f"another run_dir"
            )
        self._fd = fd
        for pattern in TEMPORARY:
            for left in folder.glob(pattern):
                left.unlink(missing_ok=True)  # of a process that was killed while writing it
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)


def _take(fd: int) -> bool | None:
    """Take the lock; one who only looks whether it is taken has it for a moment (`find_holder`)."""
    until = time.monotonic() + _WAIT
    while (taken := take_lock(fd)) is False and time.monotonic() < until:
        time.sleep(0.02)
    return taken


def _name(fd: int) -> str:
    return os.pread(fd, 100, 0).decode(errors="replace").strip()


@dataclass(frozen=True)
class Holder:
    """Who holds a run folder.

    Attributes:
        name: ``process 12 on HOST``; empty where nobody ever said so.
        alive: the lock is taken. A free one with the name of another machine's process proves
            nothing there where file systems keep locks to one machine.
    """

    name: str
    alive: bool

    @property
    def elsewhere(self) -> str:
        """The other machine whose process may hold the folder unseen; empty where none may."""
        host = self.name.rpartition(" on ")[2]
        return "" if self.alive or host == socket.gethostname() else host


def find_holder(folder: Path) -> Holder:
    """Who holds a run folder just now; nothing in it is changed."""
    try:
        fd = os.open(folder / LOCK, os.O_RDONLY)
    except OSError:
        return Holder("", alive=False)
    try:
        return Holder(_name(fd), is_locked(fd))
    finally:
        os.close(fd)
