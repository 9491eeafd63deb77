"""``make tensorboard [dir=outputs] [port=6006] [host=localhost]``: start TensorBoard."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from convlens.cli.words import Word, Words, parse_words
from convlens.core.errors import UserError

WORDS: Words = {
    "dir": Word("the folder with the runs", form="DIR", default="outputs"),
    "port": Word("the port of the page", form="NUMBER", default="6006"),
    "host": Word("the address to listen on", form="NAME", default="localhost"),
}


def run(words: list[str]) -> int:
    values = parse_words(words, "tensorboard", WORDS)
    folder = Path(values["dir"]).expanduser()
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}; `make train` writes runs into outputs/")
    # by default, TensorBoard keeps ten random steps of each image tag, and may drop step 0
    command = [
        sys.executable, "-m", "tensorboard.main", f"--logdir={folder}",
        "--samples_per_plugin=images=1000,text=1000", f"--port={values['port']}",
        f"--host={values['host']}",
    ]  # fmt: skip
    os.execv(sys.executable, command)
