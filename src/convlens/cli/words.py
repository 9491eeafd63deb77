"""The words behind a command: make's, the shell's, and those a command knows."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping

from convlens.core.errors import UserError, nearest

# make's own variables, which set up the environment and are no words of the run
MAKE_VARIABLES = ("TORCH_BACKEND", "PYTHON")


def split_make_words(arguments: list[str]) -> list[str]:
    """The words one by one, whoever passed them.

    The Makefile hands over everything typed after the target as one argument,
    ``--make=$(MAKEOVERRIDES)``, in which make has put a backslash before blanks and backslashes
    and doubled dollars. ``args="a=1 b=2"`` among them holds words as a shell would split them.
    """
    words: list[str] = []
    for argument in arguments:
        if not argument.startswith("--make="):
            words.append(argument)
            continue
        typed = re.findall(r"(?:\\.|[^\s\\])+", argument.removeprefix("--make="), re.S)
        plain = (re.sub(r"\\(.)", r"\1", word, flags=re.S).replace("$$", "$") for word in typed)
        words += [word for word in plain if word.partition("=")[0] not in MAKE_VARIABLES]
    flat: list[str] = []
    for word in words:
        try:
            flat += shlex.split(word[5:]) if word.startswith("args=") else [word]
        except ValueError as error:
            raise UserError(f"{word}: {error}; check the quotes") from error
    return flat


def take(words: list[str], command: str, known: dict[str, str | None]) -> dict[str, str]:
    """The values of exactly the keys a command knows.

    Args:
        known: key to default; None where the key has to be given.

    Raises:
        UserError: a word that is no key=value, an unknown key, a missing one.
    """
    found = dict(known)
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise UserError(f"{word}: expected key=value; {command} takes {', '.join(known)}")
        if key not in known:
            raise UserError(f"{key}: {command} has no such key; {nearest(key, known)}")
        found[key] = value
    for key, value in found.items():
        if value is None:
            raise UserError(f"{command} needs {key}=…, for example `make {command} {key}=…`")
    return found


def extract(words: list[str], *keys: str) -> tuple[dict[str, str | None], list[str]]:
    """The last value of each key among the words, or None, and the other words."""
    found: dict[str, str | None] = dict.fromkeys(keys)
    others = []
    for word in words:
        key, equals, value = word.partition("=")
        if equals and key in found:
            found[key] = value
        else:
            others.append(word)
    return found, others


def number(values: Mapping[str, str], key: str) -> float | int:
    """The value of ``key`` as a number, whole where it is written so.

    Raises:
        UserError: it is none.
    """
    for kind in (int, float):
        try:
            return kind(values[key])
        except ValueError:
            continue
    raise UserError(f"{key}={values[key]}: a number is expected")


def whole_number(values: Mapping[str, str], key: str) -> int:
    """The value of ``key`` as a whole number from 1 on.

    Raises:
        UserError: it is none.
    """
    value = number(values, key)
    if not isinstance(value, int) or value < 1:
        raise UserError(f"{key}={values[key]}: a whole number from 1 on is expected")
    return value
