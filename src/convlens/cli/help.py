"""The text of ``convlens --help`` and ``convlens COMMAND --help``."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from types import ModuleType

from convlens.cli.results import WIDTH
from convlens.cli.words import Keys, Word, Words, extract_words
from convlens.config.compose import compose
from convlens.config.describe import GroupDescription, KeyDescription, describe_groups
from convlens.config.folder import list_groups, take_folder

FLAGS = {
    "--help": "this text; also -h, `convlens help {command}` or `make {command} args=--help`",
    "--version": "the version of convlens",
}
CFG_FLAG = {"--cfg job": "print the composed config as YAML and stop"}
COLUMN = 40  # widest first column
# a config that includes the keys of image folders, such as data.dir
FULL = ["data=image_folder"]
# what is more to know about the choices of a group
CHOICE_NOTES = {
    "experiment": "own: train a network of your own, model=NAME config_dir=DIR, on drawn shapes",
    "data": "data.pattern, data.csv and data.masks exist only with image folders, such as "
    "data=image_folder",
}
EXAMPLES = (
    "convlens train exp=scratch training.epochs=3",
    "convlens explain image=photo.jpg ckpt=last",
    "convlens resume run=last",
)


def overview(commands: Mapping[str, str]) -> str:
    """Return a line for each command."""
    lines = ["usage: convlens COMMAND [key=value …]", ""]
    lines += _rows(commands.items())
    lines += ["", *_example_lines(EXAMPLES)]
    lines += ["", "`convlens COMMAND --help` lists a command's words, with meanings and defaults."]
    return "\n".join(lines)


def command_help(command: str, summary: str, module: ModuleType, words: list[str]) -> str:
    """Return a command's usage, words and config keys.

    Args:
        command: name of the command.
        summary: what the command does, in one sentence.
        module: the command's module, with ``WORDS`` and perhaps ``KEYS`` and ``NOTES``.
        words: the other typed words; the config that they compose provides the defaults.

    Raises:
        UserError: the words do not compose.
    """
    table: Words = module.WORDS
    keys: Keys | None = getattr(module, "KEYS", None)
    flags = FLAGS | (CFG_FLAG if keys and keys.is_composed else {})
    lines = [_usage(command, table, keys), "", f"{summary[0].upper()}{summary[1:]}.", ""]
    rows = [(f"{name}={word.form}", _meaning_of(word)) for name, word in table.items()]
    lines += _rows([*rows, *((flag, text.format(command=command)) for flag, text in flags.items())])
    lines += ["", *getattr(module, "NOTES", ())] if hasattr(module, "NOTES") else []
    if hasattr(module, "EXAMPLES"):
        lines += ["", *_example_lines(module.EXAMPLES)]
    if first := getattr(module, "FIRST", ()):
        lines += ["", f"Start with: {', '.join(f'{name}=' for name in first)}."]
        lines += ["Every key has a default; the groups below list all of them."]
    if keys:
        lines += _config_lines(keys, table, words)
    return "\n".join(lines)


def _example_lines(examples: Iterable[str]) -> list[str]:
    return ["examples:", *(f"  {example}" for example in examples)]


def _usage(command: str, table: Words, keys: Keys | None) -> str:
    words = [f"{name}={word.form}" for name, word in table.items() if word.required]
    words += [f"[{name}={word.form}]" for name, word in table.items() if not word.required]
    text = " ".join(["usage: convlens", command, *words, *(["[key=value …]"] if keys else [])])
    return textwrap.fill(
        text, _width(), subsequent_indent=" " * 7, break_long_words=False, break_on_hyphens=False
    )


def _meaning_of(word: Word) -> str:
    more = ["required"] if word.required else []
    if word.default:
        more.append(f"default: {word.default}")
    if word.values:
        more.append(" or ".join(word.values))
    if also := [f"{name}=" for name in word.synonyms] + list(word.flags):
        more.append(f"also {', '.join(also)}")
    return f"{word.meaning} ({'; '.join(more)})" if more else word.meaning


def _config_lines(keys: Keys, table: Words, words: list[str]) -> Iterator[str]:
    """Yield the config keys, group by group."""
    folder, _ = take_folder(words)
    _, others = extract_words(words, table)
    config = compose(others if keys.is_composed else FULL)
    if keys.is_composed:
        recipe = config.experiment
        yield from ("", f"Config keys, with the defaults of exp={recipe} and the words typed here:")
    else:
        yield from (
            "",
            "Config keys that may change; each default is the value of the run, so none is shown:",
        )
    for group in describe_groups(config, list_groups(folder)):
        accepted = [key for key in group.keys if keys.is_listed(key.name)]
        with_choices = group.choices and keys.accepts_group(group.name)
        if not accepted and not with_choices:
            continue
        yield from ("", f"{group.name}: {group.meaning}")
        yield from _choice_lines(group) if with_choices else ()
        yield from _rows(_key_row(key, keys.is_composed) for key in accepted)


def _choice_lines(group: GroupDescription) -> list[str]:
    text = f"{group.name}={' | '.join(group.choices)}"
    indent = " " * (len(group.name) + 3)
    lines = textwrap.wrap(
        text, _width(), initial_indent="  ", subsequent_indent=indent, break_on_hyphens=False
    )
    if note := CHOICE_NOTES.get(group.name):
        lines += textwrap.wrap(note, _width(), initial_indent="  ", subsequent_indent="  ")
    return lines


def _key_row(key: KeyDescription, with_default: bool) -> tuple[str, str]:
    default = f"={key.default}" if with_default and key.default is not None else ""
    text = f"{key.meaning} ({key.kind})" if key.kind else key.meaning
    return f"{key.name}{default}", text


def _rows(pairs: Iterable[tuple[str, str]]) -> list[str]:
    """Return lines with two aligned columns; a long first cell gets a line of its own."""
    pairs = list(pairs)
    column = min(COLUMN, max((len(first) for first, _ in pairs), default=0)) + 4
    lines = []
    for first, second in pairs:
        start = f"  {first}".ljust(column)
        if len(first) + 4 > column:
            lines.append(f"  {first}")
            start = " " * column
        lines += textwrap.wrap(
            second, _width(), initial_indent=start, subsequent_indent=" " * column,
            drop_whitespace=True, break_on_hyphens=False,
        )  # fmt: skip
    return lines


def _width() -> int:
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else WIDTH
