"""Import the libraries that a command works with, which takes seconds."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from convlens.core.progress import progress_bar

SHOWN_AFTER = 1.0  # seconds of imports before they are shown: nothing else is on the screen yet


@contextmanager
def loading_libraries() -> Iterator[None]:
    """Import libraries in the ``with``, and show that if it takes long.

    The garbage collector rests meanwhile: it would go through all modules again and again, for a
    fifth of the time. Nothing of a module is garbage, so later collections skip what was imported.
    """
    was_enabled, before = gc.isenabled(), len(sys.modules)
    gc.disable()
    try:
        with progress_bar("loading the libraries", after=SHOWN_AFTER):
            yield
    finally:
        if len(sys.modules) > before:
            gc.freeze()
        if was_enabled:
            gc.enable()
