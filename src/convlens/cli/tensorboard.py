"""``make tensorboard [dir=outputs] [port=6006] [host=localhost]``: start TensorBoard."""

from __future__ import annotations

from pathlib import Path

from convlens.cli.words import Word, Words, parse_words
from convlens.core.command_lines import command_line
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
        raise UserError(
            f"there is no folder {folder}; `{command_line('train')}` writes runs into outputs/"
        )
    from convlens.pages.tensorboard import serve  # takes a second to import

    return serve(folder, host=values["host"], port=values["port"])
