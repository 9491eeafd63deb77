"""What is said: plain lines on the screen, everything with tracebacks in ``train.log``."""

from __future__ import annotations

import logging
import sys
import warnings
from pathlib import Path

from convlens.folder import first_process

log = logging.getLogger("convlens")
LIBRARIES = ("pytorch_lightning", "lightning.pytorch", "lightning.fabric", "py.warnings")


def speak() -> None:
    """Lines of level INFO and up go to the screen; libraries keep quiet below ERROR there."""
    screen: logging.Handler = logging.StreamHandler(sys.stdout)
    if not first_process():
        screen = logging.NullHandler()  # one of several processes speaks
    screen.setFormatter(logging.Formatter("%(message)s"))
    screen.addFilter(lambda record: record.exc_info is None or record.levelno >= logging.INFO)
    screen.setLevel(logging.INFO)
    _silence("convlens", *LIBRARIES)
    log.setLevel(logging.DEBUG)
    log.addHandler(screen)
    logging.captureWarnings(True)
    warnings.simplefilter("default")


def hush() -> None:
    """Take the screen from libraries that have given themselves one when they were imported."""
    _silence(*LIBRARIES)


def keep(file: Path) -> None:
    """Also write everything, the libraries' lines included, to ``file``; appended on resume."""
    hush()
    handler = logging.FileHandler(file, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    for name in ("convlens", *LIBRARIES):
        logging.getLogger(name).addHandler(handler)


def _silence(*names: str) -> None:
    """Take all handlers from loggers: a library's own, or those of an earlier command."""
    for name in names:
        known = logging.getLogger(name)
        for handler in known.handlers:
            handler.close()
        known.handlers, known.propagate = [logging.NullHandler()], False
