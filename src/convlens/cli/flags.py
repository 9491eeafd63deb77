"""Flags of every command: ``--help``, ``--version``, and Hydra's ``--cfg job``."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType

from convlens.cli.layout import format_examples, format_rows
from convlens.cli.words import Keys, extract_words
from convlens.core.errors import UserError

HELP = ("-h", "--help")
VERSION = ("-V", "--version")
CFG = ("-c", "--cfg")
EXAMPLES = (
    "convlens train exp=scratch training.epochs=3",
    "convlens explain image=photo.jpg ckpt=last",
    "convlens resume run=last",
)


def answer_flags(command: str, summary: str, module: ModuleType, words: list[str]) -> str | None:
    """Return the text to print instead of running the command; None if no flag was typed.

    Args:
        command: name of the command.
        summary: what the command does, in one sentence.
        module: the command's module.
        words: as typed.

    Raises:
        UserError: the words do not compose, or ``--cfg`` was typed after a command without config.
    """
    if any(word in VERSION for word in words):
        return version_line()
    if any(word in HELP for word in words):
        from convlens.cli.help import command_help

        return command_help(command, summary, module, [word for word in words if word not in HELP])
    typed, others = _take_cfg(words)
    if typed is None:
        return None
    keys: Keys | None = getattr(module, "KEYS", None)
    if not keys or not keys.is_composed:
        raise UserError(f"--cfg: {command} composes no config; train, plan and lr-find do")
    if typed != "job":
        raise UserError(f"--cfg {typed}: expected `--cfg job`, which prints the config of the run")
    return _composed_yaml(module, others)


def overview(commands: Mapping[str, str]) -> str:
    """Return a line for each command."""
    lines = ["usage: convlens COMMAND [key=value …]", ""]
    lines += format_rows(commands.items())
    lines += ["", *format_examples(EXAMPLES)]
    lines += ["", "`convlens COMMAND --help` lists a command's words, with meanings and defaults."]
    return "\n".join(lines)


def version_line() -> str:
    """Return the name and version of convlens."""
    from convlens import __version__

    return f"convlens {__version__}"


def _take_cfg(words: list[str]) -> tuple[str | None, list[str]]:
    """Return what follows ``--cfg``, or None without it, and the other words."""
    for place, word in enumerate(words):
        flag, equals, value = word.partition("=")
        if flag in CFG:
            after = words[place + 1 :]
            if not equals:
                value, after = " ".join(after[:1]), after[1:]
            return value, words[:place] + after
    return None, words


def _composed_yaml(module: ModuleType, words: list[str]) -> str:
    """Return the composed config as YAML."""
    import yaml

    from convlens.config.compose import compose

    own, others = extract_words(words, module.WORDS)
    for name, value in own.items():
        default = module.WORDS[name].default
        if name in ("ckpt", "multirun") and value != default:
            raise UserError(f"--cfg job prints one composed config: leave out {name}={value}")
    text = yaml.safe_dump(compose(others).plain(), sort_keys=False, allow_unicode=True)
    return text.rstrip("\n")
