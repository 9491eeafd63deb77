"""Command lines in messages, as the user types them: with make in a checkout, without elsewhere."""

from __future__ import annotations

import os

from convlens.core.system import quote_word

MAKE = "CONVLENS_MAKE"  # the Makefile sets it for its commands


def command_line(name: str, *flags: str, **words: object) -> str:
    """Return a command of convlens with its words, quoted for the shell where they need it.

    Args:
        name: the command.
        flags: words without a value, such as ``--help``.
        words: words with a value, such as ``run=DIR``.

    >>> command_line("resume", run="outputs/my run")
    "convlens resume 'run=outputs/my run'"
    """
    is_make = bool(os.environ.get(MAKE))
    typed = [f"args={flag}" if is_make else flag for flag in flags]
    typed += [f"{key}={value}" for key, value in words.items()]
    return " ".join(["make" if is_make else "convlens", name, *map(quote_word, typed)])
