"""``convlens COMMAND key=value …``: find the command, run it, print errors in one line."""

from __future__ import annotations

import errno
import importlib
import io
import logging
import os
import signal
import sys
import threading
from typing import Any

from convlens.cli.completion import COMPLETE, print_candidates, print_script
from convlens.cli.flags import HELP, VERSION, answer_flags, overview, version_line
from convlens.cli.words import split_make_words
from convlens.core.errors import Interrupted, SharedError, UserError, nearest
from convlens.core.loading import loading_libraries
from convlens.core.memory import is_out_of_memory
from convlens.core.processes import is_first_process
from convlens.core.system import ENDINGS
from convlens.rundir import log as logs

# name -> what it does; each is a module here and a target of the Makefile
COMMANDS = {
    "train": "train a network: exp=NAME picks a recipe, key=value sets anything",
    "resume": "continue a stopped run, as if it had never stopped: run=RUN_DIR",
    "eval": "compute the test results of a checkpoint: ckpt=FILE",
    "explain": "show the predicted classes and explanations of images: [image=PATH] [ckpt=FILE]",
    "predict": "write predictions.csv: each class's probability for images=DIR, from ckpt=FILE",
    "export": "export a network, as ONNX for example: ckpt=FILE format=onnx",
    "serve": "open a local page on which to drop images: ckpt=FILE",
    "report": "write a whole run to one self-contained page: run=RUN_DIR",
    "audit": "find a cut for wrong labels with a stated rate, by two more trainings: run=RUN_DIR",
    "review": "go through the suspected labels of a run in the browser: run=RUN_DIR",
    "shortcuts": "search all images for shortcuts and for groups that are mistaken: ckpt=FILE",
    "compare": 'show runs="A B …" side by side on one page',
    "runs": "list all runs in one table: sort=test/accuracy, dir=outputs",
    "models": "list networks with their weights and what is explained of them: search=vit",
    "kernel": "slide a kernel over image=FILE: kernel=NAME or numbers",
    "lesson": "draw how networks learn: about=one_weight, network, activations, losses or softmax",
    "sweep": 'search for good values in many runs: space="{KEY: VALUES, …}" trials=20',
    "plan": "show what exp=NAME would train and log, without training; or the layers of ckpt=FILE",
    "lr-find": "plot the loss of exp=NAME over rising learning rates",
    "split": "divide the class folders of src=DIR into train/validation/test in dst=DIR",
    "tensorboard": "start TensorBoard for all runs in outputs/, with every step of every image",
}
# not targets of the Makefile, because they neither start nor read a run
TOOLS = {
    "help": "list the commands, or a command's words: `convlens help COMMAND`",
    "completion": "print a script for shell completion: `convlens completion bash` or zsh",
}
USER_ERROR, INTERRUPTED = 2, 130
SMALLER = (
    "try smaller batches (training.batch_size with training.accumulate, training.eval_batch_size) "
    "or smaller images (data.size)"
)
DISK_FULL = {errno.ENOSPC, errno.EDQUOT}


def main(arguments: list[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: the command and its words; by default, the arguments of the process.

    Returns:
        The exit status: 0, 2 for a user's mistake, 130 for Ctrl-C, 143 for SIGTERM.
    """
    command, *words = list(sys.argv[1:] if arguments is None else arguments) or ["help"]
    _adapt_screen()
    previous = _raise_on_endings()
    try:
        return _run_command(command, words)
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
        # the reader (`| head`) is gone
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno not in DISK_FULL:
            logging.getLogger("convlens").debug("failed", exc_info=True)
            raise
        where = f" at {error.filename}" if error.filename else ""
        print(f"convlens: the disk is full{where}; free disk space and try again", file=sys.stderr)
        return USER_ERROR
    except Exception as error:
        logging.getLogger("convlens").debug("failed", exc_info=True)
        if not is_out_of_memory(error):
            raise
        reason = str(error).partition("\n")[0] or "the machine has no more"
        print(f"convlens: out of memory ({reason}): {SMALLER}", file=sys.stderr)
        return USER_ERROR
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _run_command(command: str, words: list[str]) -> int:
    if command == COMPLETE:
        return print_candidates(words, COMMANDS)
    if command == "completion" and not set(words) & {*HELP, *VERSION}:
        return print_script(words)
    if command == "help" and words:
        command, *words = [*words, "--help"]
    if command in (*HELP, *TOOLS):
        print(overview(COMMANDS | TOOLS))
        return 0
    if command in VERSION:
        print(version_line())
        return 0
    if command not in COMMANDS:
        raise UserError(f"{command}: no such command; {nearest(command, [*COMMANDS, *TOOLS])}")
    words = split_make_words(words)
    # only this command's imports: `split` does not wait for torch and Lightning
    with loading_libraries():
        module = importlib.import_module(f"convlens.cli.{command.replace('-', '_')}")
    if (answer := answer_flags(command, COMMANDS[command], module, words)) is not None:
        print(answer)
        return 0
    logs.log_to_screen()
    return module.run(words) or 0


def _raise_on_endings() -> dict[int, Any]:
    """Let SIGTERM, and Ctrl-Break on Windows, raise an exception, as Ctrl-C does.

    Returns:
        The previous handlers by signal, without signals that are ignored or have another handler.
    """
    if threading.current_thread() is not threading.main_thread():
        return {}

    def end(number: int, _: object) -> None:
        raise Interrupted(f"stopped by {signal.Signals(number).name}", 128 + number)

    unhandled = [each for each in ENDINGS if signal.getsignal(each) == signal.SIG_DFL]
    return {each: signal.signal(each, end) for each in unhandled}


def _adapt_screen() -> None:
    """Print each line at once, also into a file, and characters that the encoding lacks as escapes.

    Names of files may contain any character.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # a test or a notebook may capture it
        sys.stdout.reconfigure(errors="backslashreplace", line_buffering=True)
