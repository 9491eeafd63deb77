"""Errors for users: one line that says what is wrong, where, and what to do."""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

log = logging.getLogger("convlens")


class UserError(Exception):
    """A mistake that the user can fix.

    The command line prints the message without a traceback and exits with status 2. Any other
    exception is a bug in convlens.
    """

    def __init__(self, message: str):
        super().__init__(" ".join(message.split()))


class SharedError(UserError):
    """An error that every process of a run raises; only the first process prints it."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM; the message, if there is one, says how to continue.

    Args:
        message: one line, or an empty text.
        status: exit status of the process: 128 plus the signal's number.
    """

    def __init__(self, message: str = "", status: int = 130):
        super().__init__(message)
        self.status = status


def nearest(word: str, known: Iterable[str], otherwise: str = "") -> str:
    """Return the names closest to ``word``, at most three, as text for an error message.

    Args:
        word: what was typed.
        known: all names.
        otherwise: text for a word that none resembles; the first names if empty.
    """
    known = sorted(set(known))
    close = difflib.get_close_matches(word, known, n=3, cutoff=0.5)
    if close:
        return "did you mean " + " or ".join(close) + "?"
    if otherwise:
        return otherwise
    names = ", ".join(known[:20]) + (", …" if len(known) > 20 else "")
    return f"there are: {names}" if known else "there are none"


def check_name(key: str, name: str, known: Iterable[str]) -> None:
    """Check that a value is one of the names that a key allows.

    Raises:
        UserError: it is not; the message suggests similar names.
    """
    if name not in known:
        raise UserError(f"{key}={name}: {nearest(str(name), known)}")


@contextmanager
def convert_errors(what: str, question: str) -> Iterator[None]:
    """Convert any exception into a UserError that names the file it came from.

    Args:
        what: what is wrong with which file; the beginning of the message.
        question: a question to the user; the end of the message.

    Raises:
        UserError: the code inside raised an exception; its traceback goes to the log.
    """
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:
        log.debug("%s", what, exc_info=True)
        plain = " ".join(re.sub(r"\x1b\[[0-9;]*m", "", str(error)).split())  # torch writes colours
        reason = f"{type(error).__name__}: {plain}"[:200]
        raise UserError(f"{what} ({reason}); {question}") from error
