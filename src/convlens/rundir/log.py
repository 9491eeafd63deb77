"""What is said: plain lines on the screen, everything with tracebacks in ``train.log``."""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import sys
import warnings
from pathlib import Path

from convlens.core.processes import is_first_process

log = logging.getLogger("convlens")
LIBRARIES = ("pytorch_lightning", "lightning.pytorch", "lightning.fabric", "py.warnings")


def log_to_screen() -> None:
    """Lines of level INFO and up go to the screen; libraries keep quiet below ERROR there."""
    screen: logging.Handler = logging.StreamHandler(sys.stdout)
    if not is_first_process():
        screen = logging.NullHandler()  # one of several processes speaks
    screen.setFormatter(logging.Formatter("%(message)s"))
    screen.setLevel(logging.INFO)
    _silence("convlens", *LIBRARIES)
    log.setLevel(logging.DEBUG)
    log.addHandler(screen)
    logging.captureWarnings(True)
    warnings.simplefilter("default")


def silence_libraries() -> None:
    """Take the screen from libraries that have given themselves one when they were imported."""
    _silence(*LIBRARIES)


def log_to_file(file: Path) -> None:
    """Also write everything, the libraries' lines included, to ``file``; appended on resume."""
    silence_libraries()
    # closed by the next command's `speak`, or at the end
    handler = EnduringHandler(file, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    for name in ("convlens", *LIBRARIES):
        logging.getLogger(name).addHandler(handler)
    # what ends a process without an exception (a bus error: a mapped file was cut off) leaves a
    # trace there too
    faulthandler.enable(handler.stream)


class EnduringHandler(logging.FileHandler):
    """Says once that the log cannot be written, where logging's own would print a traceback.

    Attributes:
        failure: the line, or nothing.
    """

    failure = ""

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self.failure:
            self.failure = f"{self.baseFilename} lacks lines ({error.strerror}): make room"
            print(f"{self.failure}; training goes on", file=sys.stderr)

    def close(self) -> None:
        if self.stream is not None:
            faulthandler.disable()  # it would write to whatever gets the number of this file
        with contextlib.suppress(OSError):  # what could not be flushed has been told of
            super().close()


def find_write_failure() -> str:
    """Why the log that is kept lacks lines, or nothing."""
    kept = [handler for handler in log.handlers if isinstance(handler, EnduringHandler)]
    return kept[-1].failure if kept else ""


def _silence(*names: str) -> None:
    """Take all handlers from loggers: a library's own, or those of an earlier command."""
    for name in names:
        known = logging.getLogger(name)
        for handler in known.handlers:
            handler.close()
        known.handlers, known.propagate = [logging.NullHandler()], False
