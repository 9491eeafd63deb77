"""Who works on which trial: several processes, on several machines, share one sweep.

A worker that has a trial's lease has locked a file in the sweep's folder, and touches it again and
again. The system releases the lock however the worker ends. On file systems whose locks other
machines do not see, the touches say that it is alive.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

from convlens.core import system
from convlens.core.locks import take_lock

FOLDER = "leases"
BEAT = 15.0  # seconds between two touches
LASTS = 120.0  # seconds after which a worker on another machine that does not touch is gone
_SWEEP = "sweep.lock"


class Lease:
    """The right to work on one trial, until ``release``."""

    def __init__(self, fd: int, file: Path) -> None:
        self._fd, self._file = fd, file
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)
        self._thread.start()

    def _beat(self) -> None:
        while not self._ended.wait(BEAT):
            with contextlib.suppress(OSError):
                os.utime(self._file)

    def release(self) -> None:
        """Give the trial back."""
        self._ended.set()
        self._thread.join()
        os.ftruncate(self._fd, 0)  # the file names a worker only while it works
        os.close(self._fd)


def take_lease(home: Path, number: int) -> Lease | None:
    """Return the lease of a trial; None if another worker has it.

    Call it within ``hold_sweep``.
    """
    folder = home / FOLDER
    folder.mkdir(exist_ok=True)
    file = folder / f"{number:04d}"
    fd = system.open_file(file, os.O_RDWR | os.O_CREAT)
    host = system.read_at(fd, 1000, 0).decode(errors="replace").strip().rpartition(" on ")[2]
    elsewhere = host not in ("", socket.gethostname()) and _find_age(file) < LASTS
    if elsewhere or take_lock(fd) is False:
        os.close(fd)
        return None
    os.ftruncate(fd, 0)
    system.write_at(fd, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
    os.utime(file)
    return Lease(fd, file)


def _find_age(file: Path) -> float:
    """Return the seconds since a file was touched, by the clock of its file system."""
    now = file.with_name(f".now.{os.getpid()}.tmp")
    now.touch()
    try:
        return now.stat().st_mtime - file.stat().st_mtime
    finally:
        now.unlink()


@contextlib.contextmanager
def hold_sweep(home: Path) -> Iterator[None]:
    """Let only one worker at a time give out trials, and record their ends."""
    fd = system.open_file(home / _SWEEP, os.O_RDWR | os.O_CREAT)
    try:
        take_lock(fd, wait=True)  # others have it for a moment only
        yield
    finally:
        os.close(fd)
