"""Logging: plain lines on the screen, everything with tracebacks in ``train.log``."""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import sys
import warnings
from pathlib import Path
from typing import TextIO

from convlens.core.processes import is_first_process

log = logging.getLogger("convlens")
LIBRARIES = (
    "pytorch_lightning",
    "lightning.pytorch",
    "lightning.fabric",
    "lightning_fabric",
    "py.warnings",
)


def log_to_screen() -> None:
    """Print our lines of level INFO and above on the screen, and none of the libraries' lines."""
    screen: logging.Handler = ScreenHandler()
    if not is_first_process():
        screen = logging.NullHandler()  # only one of several processes prints
    screen.setFormatter(logging.Formatter("%(message)s"))
    screen.setLevel(logging.INFO)
    _silence("convlens", *LIBRARIES)
    log.setLevel(logging.DEBUG)
    log.addHandler(screen)
    logging.captureWarnings(True)
    warnings.simplefilter("default")


def silence_libraries() -> None:
    """Remove the screen handlers that libraries install when they are imported."""
    _silence(*LIBRARIES)


def log_to_file(file: Path) -> None:
    """Append all lines to ``file``, including those of libraries."""
    silence_libraries()
    # closed by the next command's `log_to_screen`, or at exit
    handler = EnduringHandler(file, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    for name in ("convlens", *LIBRARIES):
        logging.getLogger(name).addHandler(handler)
    # also log crashes without an exception, such as the bus error after a memory-mapped file is
    # truncated
    faulthandler.enable(handler.stream)


class ScreenHandler(logging.StreamHandler):
    """A handler that writes to the ``sys.stdout`` of the moment.

    A progress bar replaces ``sys.stdout`` while it runs, so that lines are printed above the bar.
    """

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:
        return sys.stdout


class EnduringHandler(logging.FileHandler):
    """A file handler that reports a failed write once, in one line instead of a traceback.

    Attributes:
        failure: the line, or an empty text.
    """

    failure = ""

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self.failure:
            self.failure = f"{self.baseFilename} lacks lines ({error.strerror}): free disk space"
            print(f"{self.failure}; training continues", file=sys.stderr)

    def close(self) -> None:
        if self.stream is not None:
            faulthandler.disable()  # it would write to any file that reuses this file descriptor
        with contextlib.suppress(OSError):  # handleError has reported lines that cannot be flushed
            super().close()


def find_write_failure() -> str:
    """Return why the log file lacks lines, or an empty text."""
    handlers = [handler for handler in log.handlers if isinstance(handler, EnduringHandler)]
    return handlers[-1].failure if handlers else ""


def _silence(*names: str) -> None:
    """Remove all handlers from loggers: a library's own, or those of an earlier command."""
    for name in names:
        known = logging.getLogger(name)
        for handler in known.handlers:
            handler.close()
        known.handlers, known.propagate = [logging.NullHandler()], False
