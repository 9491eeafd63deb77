"""The text of ``convlens COMMAND --help``."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from types import ModuleType

from convlens.cli.layout import find_width, format_examples, format_rows
from convlens.cli.words import Keys, Word, Words, extract_words
from convlens.config.compose import compose
from convlens.config.describe import GroupDescription, KeyDescription, describe_groups
from convlens.config.folder import list_groups, take_folder

FLAGS = {
    "--help": "this text; also -h or `convlens help {command}`",
    "--version": "the version of convlens",
}
CFG_FLAG = {"--cfg job": "print the composed config as YAML and stop"}
# a config that includes the keys of image folders, such as data.dir
FULL = ["data=image_folder"]
# what is more to know about the choices of a group
CHOICE_NOTES = {
    "experiment": "own: train a network of your own, model=NAME config_dir=DIR, on drawn shapes",
    "logger": "several: logger=[tensorboard,mlflow]; wandb, mlflow and trackio need packages, "
    "such as pip install 'convlens[mlflow]'",
    "data": "data.pattern, data.csv and data.masks exist only with image folders, such as "
    "data=image_folder",
}


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
    lines += format_rows(
        [*rows, *((flag, text.format(command=command)) for flag, text in flags.items())]
    )
    lines += ["", *getattr(module, "NOTES", ())] if hasattr(module, "NOTES") else []
    if hasattr(module, "EXAMPLES"):
        lines += ["", *format_examples(module.EXAMPLES)]
    if first := getattr(module, "FIRST", ()):
        lines += ["", f"Start with: {', '.join(f'{name}=' for name in first)}."]
        lines += ["Every key has a default; the groups below list all of them."]
    if keys:
        lines += _config_lines(keys, table, words)
    return "\n".join(lines)


def _usage(command: str, table: Words, keys: Keys | None) -> str:
    words = [f"{name}={word.form}" for name, word in table.items() if word.required]
    words += [f"[{name}={word.form}]" for name, word in table.items() if not word.required]
    text = " ".join(["usage: convlens", command, *words, *(["[key=value …]"] if keys else [])])
    return textwrap.fill(
        text, find_width(), subsequent_indent=" " * 7,
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip


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
        yield from format_rows(_key_row(key, keys.is_composed) for key in accepted)


def _choice_lines(group: GroupDescription) -> list[str]:
    text = f"{group.name}={' | '.join(group.choices)}"
    indent = " " * (len(group.name) + 3)
    lines = textwrap.wrap(
        text, find_width(), initial_indent="  ", subsequent_indent=indent, break_on_hyphens=False
    )
    if note := CHOICE_NOTES.get(group.name):
        lines += textwrap.wrap(note, find_width(), initial_indent="  ", subsequent_indent="  ")
    return lines


def _key_row(key: KeyDescription, with_default: bool) -> tuple[str, str]:
    default = f"={key.default}" if with_default and key.default is not None else ""
    text = f"{key.meaning} ({key.kind})" if key.kind else key.meaning
    return f"{key.name}{default}", text
