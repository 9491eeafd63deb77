"""What Hydra composes of the same words, composed once.

It reads and merges some twenty files for every call, twice for most words; the suite asks for a
config a few thousand times, mostly with the same words.
"""

from __future__ import annotations

import functools

from convlens.config import compose


def remember_compositions() -> None:
    """From here on the package's own config files are read once for the same overrides.

    Interpolations are resolved by the caller, each time anew; a person's own folder of configs is
    read each time too.
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
