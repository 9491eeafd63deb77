"""``convlens COMMAND key=value …``: find the command, hand over the words, say errors in a line."""

from __future__ import annotations

import errno
import importlib
import io
import logging
import os
import signal
import sys
import threading

from convlens.cli.words import split_make_words
from convlens.core.errors import Interrupted, SharedError, UserError, nearest
from convlens.core.processes import is_first_process
from convlens.rundir import log as logs

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
USER_ERROR, INTERRUPTED, TERMINATED = 2, 130, 143
FULL = {errno.ENOSPC, errno.EDQUOT}


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns the exit status: 0, 2 for a person's mistake, 130 for Ctrl-C,
    143 for SIGTERM."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("help", "-h", "--help"):
        print(help_text())
        return 0
    if arguments[0] == "--version":
        from convlens import __version__

        print(f"convlens {__version__}")
        return 0
    command, words = arguments[0], arguments[1:]
    _print_any_name()
    before = _end_by_exception()
    try:
        if command not in COMMANDS:
            raise UserError(f"{command}: no such command; {nearest(command, COMMANDS)}")
        words = split_make_words(words)
        logs.log_to_screen()
        # each command's imports are its own: `split` need not wait for torch and Lightning
        return importlib.import_module(f"convlens.cli.{command.replace('-', '_')}").run(words) or 0
    except UserError as error:
        if is_first_process() or not isinstance(error, SharedError):
            print(f"convlens: {error}", file=sys.stderr)
        logging.getLogger("convlens").debug("stopped", exc_info=True)
        return USER_ERROR
    except KeyboardInterrupt as error:
        if is_first_process():
            print(f"convlens: {str(error) or 'interrupted'}", file=sys.stderr)
        return getattr(error, "status", INTERRUPTED)
    except BrokenPipeError:
        # the reader (`| head`) has gone; nothing is left to say to it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno not in FULL:
            logging.getLogger("convlens").debug("failed", exc_info=True)
            raise
        where = f" at {error.filename}" if error.filename else ""
        print(f"convlens: the disk is full{where}; make room and start again", file=sys.stderr)
        return USER_ERROR
    except Exception:
        logging.getLogger("convlens").debug("failed", exc_info=True)
        raise
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)


def _end_by_exception():
    """Let SIGTERM end a command by its exceptions, as Ctrl-C does; returns the handler before.

    Nothing is done where another part of the program has a handler, or where it is ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        return None
    if signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        return None

    def end(*_):
        raise Interrupted("stopped by SIGTERM", TERMINATED)

    return signal.signal(signal.SIGTERM, end)


def _print_any_name() -> None:
    """Bytes of a file's name that the screen's encoding lacks are shown as their codes."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # not where a test or a notebook listens
        sys.stdout.reconfigure(errors="backslashreplace")


def help_text() -> str:
    lines = ["convlens COMMAND [key=value …]", ""]
    lines += [f"  {name:12} {what}" for name, what in COMMANDS.items()]
    return "\n".join(lines)
