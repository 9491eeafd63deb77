"""Compose the same overrides only once.

Hydra reads and merges some twenty files for every call. The tests compose a config a few thousand
times, mostly with the same overrides.
"""

from __future__ import annotations

import functools

from convlens.config import compose


def remember_compositions() -> None:
    """Read the package's config files only once for the same overrides, from now on.

    The caller still resolves interpolations each time. A folder of user configs is still read each
    time.
    """
    plain = compose.hydra_compose

    @functools.cache
    def remembered(name: str, overrides: tuple[str, ...]):
        return plain(name, overrides=list(overrides))

    def composed(name: str, overrides: list[str]):
        if any(word.startswith("hydra.") for word in overrides):
            return plain(name, overrides=overrides)
        return remembered(name, tuple(overrides))

    compose.hydra_compose = composed
