"""What is said: plain lines on the screen, everything with tracebacks in ``train.log``."""

from __future__ import annotations

import logging
import sys
import warnings
from pathlib import Path

log = logging.getLogger("convlens")
LIBRARIES = ("pytorch_lightning", "lightning.pytorch", "lightning.fabric", "py.warnings")


def speak() -> None:
    """Lines of level INFO and up go to the screen; libraries keep quiet below ERROR there."""
    screen = logging.StreamHandler(sys.stdout)
    screen.setFormatter(logging.Formatter("%(message)s"))
    screen.addFilter(lambda record: record.exc_info is None or record.levelno >= logging.INFO)
    screen.setLevel(logging.INFO)
    for name in ("convlens", *LIBRARIES):
        known = logging.getLogger(name)
        for handler in known.handlers:  # of an earlier command in the same process
            handler.close()
        known.handlers, known.propagate = [], False
        known.addHandler(logging.NullHandler())
    log.setLevel(logging.DEBUG)
    log.addHandler(screen)
    logging.captureWarnings(True)
    warnings.simplefilter("default")


def keep(file: Path) -> None:
    """Also write everything, the libraries' lines included, to ``file``; appended on resume."""
    handler = logging.FileHandler(file, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    for name in ("convlens", *LIBRARIES):
        logging.getLogger(name).addHandler(handler)
