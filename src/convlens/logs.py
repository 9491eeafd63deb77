"""What is said: plain lines on the screen, everything with tracebacks in ``train.log``."""

from __future__ import annotations

import logging
import sys
import warnings
from pathlib import Path

log = logging.getLogger("convlens")


def speak() -> None:
    """Lines of level INFO and up go to the screen; libraries keep quiet below ERROR there."""
    screen = logging.StreamHandler(sys.stdout)
    screen.setFormatter(logging.Formatter("%(message)s"))
    screen.addFilter(lambda record: record.exc_info is None or record.levelno >= logging.INFO)
    screen.setLevel(logging.INFO)
    log.setLevel(logging.DEBUG)
    log.handlers, log.propagate = [screen], False
    logging.captureWarnings(True)
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning.fabric", "py.warnings"):
        library = logging.getLogger(name)
        library.handlers, library.propagate = [], False
        library.addHandler(logging.NullHandler())
    warnings.simplefilter("default")


def keep(file: Path) -> None:
    """Also write everything, the libraries' lines included, to ``file``; appended on resume."""
    handler = logging.FileHandler(file, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    for name in ("convlens", "pytorch_lightning", "lightning.pytorch", "py.warnings"):
        logging.getLogger(name).addHandler(handler)
