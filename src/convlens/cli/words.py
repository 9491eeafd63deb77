"""The words behind a command: make's, the shell's, and those a command knows."""

from __future__ import annotations

import re
import shlex

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
        if argument.startswith("--make="):
            typed = re.findall(r"(?:\\.|[^\s\\])+", argument.removeprefix("--make="), re.S)
            for word in typed:
                word = re.sub(r"\\(.)", r"\1", word, flags=re.S).replace("$$", "$")
                if word.partition("=")[0] not in MAKE_VARIABLES:
                    words.append(word)
        else:
            words.append(argument)
    flat: list[str] = []
    for word in words:
        if word.startswith("args="):
            try:
                flat += shlex.split(word.removeprefix("args="))
            except ValueError as error:
                raise UserError(f"{word}: {error}; check the quotes") from error
        else:
            flat.append(word)
    return flat


def take(words: list[str], command: str, known: dict[str, str | None]) -> dict[str, str]:
    """The values of exactly the keys a command knows.

    Args:
        known: key to default; None where the key has to be given.

    Raises:
        UserError: a word that is no key=value, an unknown key, a missing one.
    """
    found: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise UserError(f"{word}: expected key=value; {command} takes {', '.join(known)}")
        if key not in known:
            raise UserError(f"{key}: {command} has no such key; {nearest(key, known)}")
        found[key] = value
    for key, default in known.items():
        if key not in found:
            if default is None:
                raise UserError(f"{command} needs {key}=…, for example `make {command} {key}=…`")
            found[key] = default
    return found


def extract(words: list[str], key: str) -> tuple[str | None, list[str]]:
    """The value of ``key`` among the words, or None, and the other words."""
    values = [word.partition("=")[2] for word in words if word.startswith(f"{key}=")]
    return (values[-1] if values else None), [w for w in words if not w.startswith(f"{key}=")]


def number(values: dict[str, str], key: str) -> float | int:
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
