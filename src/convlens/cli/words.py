"""The words after a command: what each means, and how they are parsed.

Each command declares its words once, in a table ``WORDS`` (name to ``Word``), and the config keys
that it accepts, if any, as ``KEYS``. Parsing, ``--help`` and shell completion all read these.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from convlens.config.habits import without_prefix
from convlens.core.command_lines import command_line
from convlens.core.errors import UserError, nearest

# make's own variables, which set up the environment and are not words of a command
MAKE_VARIABLES = ("TORCH_BACKEND", "PYTHON")


@dataclass(frozen=True)
class Word:
    """A word that a command takes, as ``name=value``.

    Attributes:
        meaning: what the value is, with its unit; the first part of the word's help.
        form: the placeholder of the value in help, such as ``DIR``.
        default: the value if the word is not typed; None if there is none.
        required: whether the word must be typed.
        values: the possible values, if there are few; shell completion offers them.
        synonyms: other names of the word.
        flags: words without a value that mean ``name=true``, such as ``-m``.
        is_override: whether the word belongs to the config, so that ``compose`` reads it.
    """

    meaning: str
    form: str = "VALUE"
    default: str | None = None
    required: bool = False
    values: tuple[str, ...] = ()
    synonyms: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    is_override: bool = False


Words = Mapping[str, Word]


@dataclass(frozen=True)
class Keys:
    """The config keys that a command accepts besides its own words.

    Attributes:
        prefixes: beginnings of their names; an empty one accepts all.
        refused: exceptions, names that are not accepted.
        hidden: beginnings of accepted names that help leaves out: there is no use in typing them.
        is_composed: whether the typed words compose a config; otherwise they change a run's config.
    """

    prefixes: tuple[str, ...] = ("",)
    refused: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ()
    is_composed: bool = True

    def accepts(self, name: str) -> bool:
        """Return whether a command accepts the key ``name``."""
        return name.startswith(self.prefixes) and name not in self.refused

    def is_listed(self, name: str) -> bool:
        """Return whether help lists the key ``name``."""
        return self.accepts(name) and not name.startswith(self.hidden)

    def accepts_group(self, group: str) -> bool:
        """Return whether a command accepts ``group=NAME``."""
        return self.is_composed or (group in ("data", "trainer") and self.accepts(f"{group}."))


# the words of every command that composes a config
RECIPE: Words = {
    "exp": Word(
        "the recipe to start from, a file of configs/experiment/; "
        "default: scratch; finetune_NAME with model=NAME; own with a model of yours",
        form="NAME", synonyms=("experiment",), is_override=True,
    ),
    "config_dir": Word(
        "a folder with your own groups and experiments, such as model/NAME.yaml",
        form="DIR", is_override=True,
    ),
}  # fmt: skip

# the word of every command that answers with a network
TEMPERATURE = Word(
    "whether probabilities are calibrated by the temperature fitted on validation",
    form="SWITCH", default="true", values=("true", "false"),
)  # fmt: skip


def split_make_words(arguments: list[str]) -> list[str]:
    """Return the words one by one, whether make or a shell passed them.

    The Makefile passes everything typed after the target as one argument,
    ``--make=$(MAKEOVERRIDES)``, in which make has put a backslash before blanks and backslashes
    and doubled each dollar. A word ``args="a=1 b=2"`` in it is split as a shell would.

    Raises:
        UserError: the quotes in an ``args=`` word do not match.
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


def parse_words(words: Iterable[str], command: str, table: Words) -> dict[str, str]:
    """Return the value of each word of a command that takes no config keys.

    Args:
        words: as typed.
        command: name of the command, for messages.
        table: the words that it takes; those without a default are required.

    Returns:
        Name to value, for every word of the table.

    Raises:
        UserError: a word is not key=value, is unknown or is missing, or two synonyms have different
            values.
    """
    values, others = extract_words(words, table)
    for word in others:
        key, equals, _ = word.partition("=")
        name, prefix = without_prefix(key)
        if prefix and name in table:
            raise UserError(f"{word}: write {name}=… without {prefix}")
        if not equals:
            raise UserError(f"{word}: expected key=value; {command} takes {', '.join(table)}")
        raise UserError(f"{key}: {command} has no such key; {nearest(key, table)}")
    for name, word in table.items():
        if word.required and values[name] is None:
            raise missing_word(command, name, table)
    return {name: value or "" for name, value in values.items()}


def missing_word(command: str, name: str, table: Words) -> UserError:
    """Return the error for a required word that was not typed."""
    word = table[name]
    usage = command_line(command, "--help")
    return UserError(f"{command} needs {name}={word.form}: {word.meaning} (`{usage}`)")


def extract_words(words: Iterable[str], table: Words) -> tuple[dict[str, str | None], list[str]]:
    """Separate a command's own words from the others, such as config keys.

    Args:
        words: as typed; the last value of a name wins.
        table: the command's own words; those that belong to the config stay with the others.

    Returns:
        Name to value, or to its default, for each of the command's own words; and the other words,
        in order.

    Raises:
        UserError: two synonyms have different values.
    """
    own = {name: word for name, word in table.items() if not word.is_override}
    names = {each: name for name, word in own.items() for each in (name, *word.synonyms)}
    flags = {flag: name for name, word in own.items() for flag in word.flags}
    typed: dict[str, tuple[str, str]] = {}  # name -> the spelling, the value
    others = []
    for word in words:
        key, equals, value = word.partition("=")
        if word in flags:
            key, value = flags[word], "true"
        elif not equals or key not in names:
            others.append(word)
            continue
        name = names[key]
        spelling, before = typed.get(name, (key, value))
        if spelling != key and before != value:
            raise UserError(
                f"{spelling}={before} {key}={value}: both mean {name}; leave one of them out"
            )
        typed[name] = key, value
    values = {name: typed[name][1] if name in typed else own[name].default for name in own}
    return values, others


def read_number(values: Mapping[str, str | None], key: str) -> float | int:
    """Return a value as a number: an int if it is written as one.

    Raises:
        UserError: it is not a number.
    """
    text = values[key] or ""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    raise UserError(f"{key}={text}: expected a number")


def read_count(values: Mapping[str, str | None], key: str) -> int:
    """Return a value as a whole number of at least 1.

    Raises:
        UserError: it is not one.
    """
    value = read_number(values, key)
    if not isinstance(value, int) or value < 1:
        raise UserError(f"{key}={values[key]}: expected a whole number of at least 1")
    return value


def read_switch(values: Mapping[str, str | None], key: str) -> bool:
    """Return a value as a boolean.

    Raises:
        UserError: it is neither true nor false.
    """
    value = values[key]
    if value not in ("true", "false"):
        raise UserError(f"{key}={value}: expected true or false")
    return value == "true"
