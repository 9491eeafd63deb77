"""Pretend that this is Windows: its calls, its rules about open files, and nothing it lacks.

    python tests/support/windows.py train … -- report …      runs commands one after the other

What Windows offers is rebuilt from what Linux has: ``msvcrt.locking`` from ``flock``,
``CreateFileW`` from ``open``. A file that is open cannot be renamed, replaced or removed, unless
``CreateFileW`` opened it so that it can; a folder can neither be opened nor replaced by a renamed
one.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import importlib
import os
import shutil
import signal
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path

POSIX_ONLY = {
    os: ("pread", "pwrite", "sysconf", "killpg", "sched_getaffinity", "getpgid", "setsid", "fork",
         "mkfifo", "nice", "getloadavg", "openpty"),
    signal: ("SIGHUP", "SIGQUIT", "SIGALRM", "setitimer", "pause", "sigwait"),
}  # fmt: skip
MODULES = ("fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "syslog")
BREAK = signal.SIGUSR2  # plays SIGBREAK
ERRORS = {2: errno.ENOENT, 5: errno.EACCES}

Patch = Callable[[object, str, object], object]
_open, _fstat = os.open, os.fstat


class Msvcrt(types.ModuleType):
    """``msvcrt``, as far as convlens uses it."""

    LK_UNLCK, LK_NBLCK = 0, 2

    def __init__(self):
        super().__init__("msvcrt")
        self.places: list[int] = []  # where bytes were locked

    def locking(self, fd: int, mode: int, count: int) -> None:
        assert count == 1
        self.places.append(os.lseek(fd, 0, os.SEEK_CUR))
        try:
            fcntl.flock(
                fd, fcntl.LOCK_UN if mode == self.LK_UNLCK else fcntl.LOCK_EX | fcntl.LOCK_NB
            )
        except BlockingIOError:
            raise OSError(errno.EACCES, "Permission denied") from None

    def open_osfhandle(self, handle: int, flags: int) -> int:
        assert flags & os.O_BINARY
        return handle


class Kernel:
    """``kernel32``, as far as convlens uses it; ``shared`` has the files that it opened."""

    def __init__(self):
        self.shared: dict[int, tuple[int, int]] = {}  # descriptor -> device and inode
        self.error = 0

        def create_file(path, access, share, security, how, attributes, template) -> int:
            assert share == 7 and security is None and template is None and attributes == 0x80
            assert access & 0x8000_0000 and how in (3, 4)
            mode = os.O_RDWR if access & 0x4000_0000 else os.O_RDONLY
            try:
                if os.path.isdir(path):
                    raise PermissionError
                fd = _open(path, mode | (os.O_CREAT if how == 4 else 0))
            except OSError as error:
                self.error = 2 if isinstance(error, FileNotFoundError) else 5
                return ctypes.c_void_p(-1).value
            self.shared[fd] = _identify(fd)
            return fd

        self.CreateFileW = create_file


def _identify(fd: int) -> tuple[int, int]:
    info = _fstat(fd)
    return info.st_dev, info.st_ino


def find_users(path: str, kernel: Kernel, below: bool = False) -> list[str]:
    """Return what keeps a file (or one below a folder) open or mapped, without sharing it."""
    path = os.path.realpath(path)

    def is_meant(name: str) -> bool:
        return name == path or (below and name.startswith(f"{path}/"))

    found = []
    for number in os.listdir("/proc/self/fd"):
        try:
            name, identity = os.readlink(f"/proc/self/fd/{number}"), _identify(int(number))
        except OSError:
            continue  # the descriptor of the listing itself
        if is_meant(name) and kernel.shared.get(int(number)) != identity:
            found.append(f"{name} is open as {number}")
    lines = Path("/proc/self/maps").read_text().splitlines()
    names = {line.split(None, 5)[5] for line in lines if line.count("/")}
    return found + [f"{name} is mapped" for name in names if is_meant(name)]


def pretend(patch: Patch) -> Kernel:
    """Turn this process into one on Windows; ``patch`` sets an attribute."""
    kernel = Kernel()
    patch(os, "O_BINARY", 0x1_0000_0000)
    patch(signal, "SIGBREAK", BREAK)
    patch(signal, "CTRL_BREAK_EVENT", BREAK)
    patch(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)  # Popen refuses any other value here
    patch(ctypes, "WinDLL", lambda name, use_last_error: kernel)
    patch(ctypes, "get_last_error", lambda: kernel.error)
    patch(ctypes, "WinError", lambda code: OSError(ERRORS[code], os.strerror(ERRORS[code])))
    _guard_files(patch, kernel)
    return kernel


def _guard_files(patch: Patch, kernel: Kernel) -> None:
    def guard(name: str, *, replaces: bool = False) -> None:
        plain = getattr(os, name)

        def call(path, *others, **options):
            targets = others[:1] if replaces else ()
            for each in (path, *targets):
                users = find_users(os.fspath(each), kernel, below=os.path.isdir(each))
                if users:
                    raise PermissionError(errno.EACCES, users[0], os.fspath(each))
            if targets and os.path.isdir(path) and os.path.exists(targets[0]):
                raise PermissionError(errno.EACCES, "the name exists", os.fspath(targets[0]))
            return plain(path, *others, **options)

        patch(os, name, call)

    for name in ("unlink", "remove", "rmdir"):
        guard(name)
    for name in ("replace", "rename"):
        guard(name, replaces=True)

    def open_file(path, flags, *others, **options) -> int:
        if isinstance(path, str | bytes | os.PathLike) and os.path.isdir(path):
            raise PermissionError(errno.EACCES, "a folder", os.fspath(path))
        return _open(path, flags & ~os.O_BINARY, *others, **options)

    patch(os, "open", open_file)
    patch(shutil, "_use_fd_functions", False)  # removes by path, as on Windows


def run(words: list[str]) -> int:
    """Run commands, which ``--`` separates, on a pretended Windows; stop at the first failure."""
    # built for this system, whatever it is taken for
    import filelock  # noqa: F401
    import psutil  # noqa: F401
    import pytorch_lightning  # noqa: F401
    import torch.utils.tensorboard  # noqa: F401
    import torchvision  # noqa: F401

    pretend(setattr)
    sys.modules["msvcrt"] = Msvcrt()
    for module, names in POSIX_ONLY.items():
        for name in names:
            delattr(module, name)
    sys.modules.update(dict.fromkeys(MODULES))  # importing them fails
    plain, sys.platform = sys.platform, "win32"
    system = importlib.import_module("convlens.core.system")
    sys.platform = plain  # libraries were imported for this system
    assert system.WINDOWS and BREAK in system.STOPS
    from convlens.cli.main import main

    commands: list[list[str]] = [[]]
    for word in words:
        commands.append([]) if word == "--" else commands[-1].append(word)
    for command in commands:
        print("$ convlens", *command, flush=True)
        if status := main(command):
            return status
    return 0


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
