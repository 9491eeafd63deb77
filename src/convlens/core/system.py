"""What differs between operating systems, so that no other module has to know.

On Windows some calls are missing, an open file cannot be renamed, replaced or removed unless
whoever opened it agreed to that, and Ctrl-C reaches every process of a console by itself. A test
(``tests/house/test_systems.py``) finds calls of other modules that Windows lacks.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from filelock import lock_descriptor

WINDOWS = sys.platform == "win32"
CAN_REPLACE_MAPPED = not WINDOWS  # whether a file can be replaced while it is mapped into memory
_POLL = 0.05  # seconds between two attempts
_PATIENCE = 2.0  # seconds for which Windows may keep a file open, such as for a scan
# Windows locks bytes, and then nobody else can read them; no file that is locked is so long
_LOCKED_BYTE = 1 << 30
_WAIT = 0.5  # seconds; Ctrl-C does not interrupt a longer wait on Windows


def _find_signals(*names: str) -> tuple[signal.Signals, ...]:
    return tuple(getattr(signal, name) for name in names if hasattr(signal, name))


# Windows has no SIGHUP; Ctrl-Break, which can also be sent to other processes, is SIGBREAK
STOPS = _find_signals("SIGTERM", "SIGBREAK", "SIGINT")  # end a run without loss
CLOSINGS = _find_signals("SIGTERM", "SIGBREAK", "SIGHUP")  # end a process unless it handles them
ENDINGS = _find_signals("SIGTERM", "SIGBREAK")  # from schedulers, containers and parents

# ------------------------------------------------------------------------------------------ files


def open_file(path: str | bytes | Path, flags: int) -> int:
    """Open a file for bytes and return its descriptor; others may rename or remove it meanwhile.

    Args:
        path: the file.
        flags: ``os.O_RDONLY`` or ``os.O_RDWR``, also with ``os.O_CREAT``.

    Raises:
        OSError: it cannot be opened.
    """
    return _open_on_windows(os.fsdecode(path), flags) if WINDOWS else os.open(path, flags, 0o644)


def _open_on_windows(path: str, flags: int) -> int:
    """Open a file with the permission to rename and delete it, which Python's ``open`` refuses."""
    import msvcrt

    read, write, share_all, normal = 0x8000_0000, 0x4000_0000, 0b111, 0x80
    open_existing, open_always = 3, 4
    create = ctypes.WinDLL("kernel32", use_last_error=True).CreateFileW
    create.restype = ctypes.c_void_p
    create.argtypes = [
        ctypes.c_wchar_p, ctypes.c_uint32, ctypes.c_uint32, ctypes.c_void_p, ctypes.c_uint32,
        ctypes.c_uint32, ctypes.c_void_p,
    ]  # fmt: skip
    access = read | (write if flags & os.O_RDWR else 0)
    how = open_always if flags & os.O_CREAT else open_existing
    handle = create(path, access, share_all, None, how, normal, None)
    if handle in (None, ctypes.c_void_p(-1).value):
        error = ctypes.WinError(ctypes.get_last_error())
        error.filename = path
        raise error
    return msvcrt.open_osfhandle(handle, flags | os.O_BINARY)


_position = threading.Lock()  # of a descriptor, where reading and writing have to move it


def read_at(fd: int, count: int, place: int) -> bytes:
    """Read at most ``count`` bytes at ``place``; any number of threads may share a descriptor."""
    if not WINDOWS:
        return os.pread(fd, count, place)
    with _position:
        os.lseek(fd, place, os.SEEK_SET)
        return os.read(fd, count)


def write_at(fd: int, data: bytes | memoryview, place: int) -> int:
    """Write bytes at ``place`` and return how many were written; threads may share a descriptor."""
    if not WINDOWS:
        return os.pwrite(fd, data, place)
    with _position:
        os.lseek(fd, place, os.SEEK_SET)
        return os.write(fd, data)


def replace(source: str | Path, target: str | Path) -> None:
    """Rename a file; it replaces ``target``, if that exists.

    On Windows this fails while a program has either of them open, so it is tried for two seconds.

    Raises:
        OSError: it cannot be renamed.
    """
    until = time.monotonic() + _PATIENCE
    while True:
        try:
            os.replace(source, target)
            return
        except PermissionError:
            if not WINDOWS or time.monotonic() > until:
                raise
        time.sleep(_POLL)


def replace_folder(source: Path, target: Path) -> None:
    """Rename a folder; it replaces ``target``, if that is an empty folder.

    Raises:
        OSError: it cannot be renamed, or ``target`` is not empty.
    """
    if WINDOWS:  # it renames no folder to a name that exists
        with contextlib.suppress(FileNotFoundError):
            target.rmdir()
    replace(source, target)


# ------------------------------------------------------------------------------------------ locks


def take_lock(fd: int, *, wait: bool) -> bool:
    """Lock an open file exclusively, until its descriptor is closed; return whether it is locked.

    Args:
        fd: descriptor of the file.
        wait: whether to wait until another process releases the lock.

    Raises:
        OSError: the file system does not support locks, or fails.
    """
    if not WINDOWS:
        return lock_descriptor(fd, blocking=wait)
    while not (is_taken := _lock_byte(fd)) and wait:
        time.sleep(_POLL)
    return is_taken


def is_locked(fd: int) -> bool:
    """Return whether another process has locked an open file.

    On POSIX the test takes a shared lock, so that simultaneous tests do not affect each other.
    Until ``fd`` is closed, ``take_lock`` then fails in other processes.

    Raises:
        OSError: the file system does not support locks, or fails.
    """
    if WINDOWS:
        return not _lock_byte(fd, and_release=True)
    import fcntl

    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


def _lock_byte(fd: int, *, and_release: bool = False) -> bool:
    import msvcrt

    with _position:
        os.lseek(fd, _LOCKED_BYTE, os.SEEK_SET)
        try:
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
            if and_release:
                msvcrt.locking(fd, msvcrt.LK_UNLCK, 1)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EDEADLK):
                raise
            return False
    return True


# -------------------------------------------------------------------------- processes and signals


def start_group(
    command: list[str], *, output: IO | None = None, environment: Mapping[str, str] | None = None
) -> subprocess.Popen:
    """Start a process without input that Ctrl-C in this console does not reach by itself.

    Args:
        command: the program and its words.
        output: the file of all that it prints; None for this console.
        environment: variables, beside those of this process.
    """
    apart: dict[str, Any] = {"process_group": 0}
    if WINDOWS:
        apart = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    if output:
        apart |= {"stdout": output, "stderr": subprocess.STDOUT}
    variables = {**os.environ, **(environment or {})}
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, env=variables, **apart)


def interrupt_group(child: subprocess.Popen) -> None:
    """Interrupt a process of ``start_group``, and those that it started, as Ctrl-C would."""
    with contextlib.suppress(ProcessLookupError):
        if WINDOWS:  # such a process ignores Ctrl-C, but not Ctrl-Break
            child.send_signal(signal.CTRL_BREAK_EVENT)
        else:
            os.killpg(child.pid, signal.SIGINT)


def wait_for(child: subprocess.Popen) -> int:
    """Wait for a process to end, and return its status.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed meanwhile.
    """
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return child.wait(_WAIT if WINDOWS else None)


def pass_on_stop(child: subprocess.Popen) -> None:
    """Ask a process that this one started to stop, too; one that has ended ignores it.

    Windows cannot ask, only kill; there the processes of a console get the signal anyway.
    """
    if not WINDOWS:
        child.send_signal(signal.SIGTERM)


def wait_for_parent(parent: int) -> None:
    """Wait until the process that started this one is gone.

    Args:
        parent: its id, taken from ``os.getppid()`` while it is known to live.
    """
    if not WINDOWS:
        while os.getppid() == parent:
            time.sleep(_WAIT)
        return
    import psutil

    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(parent).wait()


# ------------------------------------------------------------------------------------ the machine


def read_total_memory() -> int:
    """Return the bytes of this machine's main memory."""
    if WINDOWS:
        import psutil

        return psutil.virtual_memory().total
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def count_cores() -> int:
    """Return how many cores this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux only
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def name_processor() -> str:
    """Return the name of this machine's processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    keys = ("vendor_id", "cpu family", "model\t", "model name", "stepping")
    values = [line.partition(":")[2].strip() for line in lines if line.startswith(keys)]
    return " ".join(values[:5]) or platform.machine()


# ---------------------------------------------------------------------------------- command lines


def split_words(text: str) -> list[str]:
    """Split text at spaces into words, which quotes hold together.

    Backslashes are part of Windows' paths; elsewhere they quote the next character.

    Raises:
        ValueError: the quotes do not match.
    """
    words = shlex.shlex(text, posix=True, punctuation_chars=False)
    words.whitespace_split, words.commenters = True, ""
    if WINDOWS:
        words.escape = ""
    return list(words)


def quote_word(word: str) -> str:
    """Return a word as it has to be typed so that the shell passes it unchanged."""
    return subprocess.list2cmdline([word]) if WINDOWS else shlex.quote(word)
