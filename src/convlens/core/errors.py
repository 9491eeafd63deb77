"""What a person sees: one line that names the thing, the place and the way out."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

log = logging.getLogger("convlens")


class UserError(Exception):
    """A mistake the person at the keyboard can mend.

    The message is one line: what is wrong, where, and what to do. The command line prints it
    without a traceback and exits with status 2; anything else that is raised is a bug of ours.
    """

    def __init__(self, message: str):
        super().__init__(" ".join(message.split()))


class SharedError(UserError):
    """One that every process of a run raises alike; the first one says it."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM; the message, if there is one, says how to go on.

    Args:
        message: one line, or nothing.
        status: what the process ends with: 128 plus the signal's number.
    """

    def __init__(self, message: str = "", status: int = 130):
        super().__init__(message)
        self.status = status


def nearest(word: str, known: Iterable[str]) -> str:
    """The three entries of ``known`` closest to ``word``, as text for an error message."""
    known = sorted(set(known))
    close = difflib.get_close_matches(word, known, n=3, cutoff=0.5)
    if close:
        return "did you mean " + " or ".join(close) + "?"
    shown = ", ".join(known[:20]) + (", …" if len(known) > 20 else "")
    return f"there are: {shown}" if known else "there are none"


def check_name(key: str, name: str, known: Iterable[str]) -> None:
    """Refuse a value that is none of the names a key may have.

    Raises:
        UserError: with the near names.
    """
    if name not in known:
        raise UserError(f"{key}={name}: {nearest(str(name), known)}")


@contextmanager
def convert_errors(what: str, question: str) -> Iterator[None]:
    """Around what is made of a file's content: whatever it leads to is the file's failing.

    Args:
        what: is wrong with which file; ``question``: for the person, behind the reason.

    Raises:
        UserError: anything was raised meanwhile; the traceback goes to the log.
    """
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:
        log.debug("%s", what, exc_info=True)
        reason = f"{type(error).__name__}: {error}"[:200]
        raise UserError(f"{what} ({reason}); {question}") from error
