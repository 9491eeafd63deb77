"""``convlens COMMAND key=value …``: find the command, hand over the words, say errors in a line."""

from __future__ import annotations

import importlib
import io
import logging
import os
import sys

from convlens import __version__
from convlens.cli.words import split_make_words
from convlens.errors import UserError, nearest

COMMANDS = {
    "train": "train a network; exp=NAME and any key=value",
    "resume": "run=RUN_DIR: continue a run that was stopped, to the same end",
    "eval": "ckpt=FILE: test-set results of a checkpoint",
    "explain": "ckpt=FILE image=PATH: classes, probabilities, and every explanation of a picture",
    "predict": "ckpt=FILE images=DIR: predictions.csv, every class's probability",
    "report": "run=RUN_DIR: the whole run on one self-contained page",
    "compare": 'runs="A B …": runs side by side on one page',
    "runs": "all runs in one table; sort=test/accuracy, dir=outputs",
    "kernel": "image=FILE kernel=NAME or numbers: a kernel slid over a picture",
    "plan": "exp=NAME or ckpt=FILE: what would be trained and logged, without training",
    "lr-find": "exp=NAME: the loss over rising learning rates, with its plot",
    "split": "src=DIR dst=DIR: class folders to train/validation/test",
    "tensorboard": "TensorBoard over outputs/, every step of every picture kept",
}
USER_ERROR, INTERRUPTED = 2, 130


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns the exit status: 0, 2 for a person's mistake, 130 for Ctrl-C."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("help", "-h", "--help"):
        print(help_text())
        return 0
    if arguments[0] == "--version":
        print(f"convlens {__version__}")
        return 0
    command, words = arguments[0], arguments[1:]
    _print_any_name()
    try:
        if command not in COMMANDS:
            raise UserError(f"{command}: no such command; {nearest(command, COMMANDS)}")
        words = split_make_words(words)
        # each command's imports are its own: `split` need not wait for torch and Lightning
        return importlib.import_module(f"convlens.cli.{command.replace('-', '_')}").run(words) or 0
    except UserError as error:
        print(f"convlens: {error}", file=sys.stderr)
        logging.getLogger("convlens").debug("stopped", exc_info=True)
        return USER_ERROR
    except KeyboardInterrupt as error:
        print(f"convlens: {error}" if str(error) else "convlens: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # the reader (`| head`) has gone; nothing is left to say to it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception:
        logging.getLogger("convlens").debug("failed", exc_info=True)
        raise


def _print_any_name() -> None:
    """Bytes of a file's name that the screen's encoding lacks are shown as their codes."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # not where a test or a notebook listens
        sys.stdout.reconfigure(errors="backslashreplace")


def help_text() -> str:
    lines = ["convlens COMMAND [key=value …]", ""]
    lines += [f"  {name:12} {what}" for name, what in COMMANDS.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
