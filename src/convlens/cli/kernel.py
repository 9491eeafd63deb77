"""``make kernel image=FILE [kernel=NAME or numbers …]``: a kernel slid over a picture."""

from __future__ import annotations

import re
from pathlib import Path

from convlens.cli.words import take, whole_number
from convlens.core.errors import UserError
from convlens.draw.jpeg import encode_jpeg
from convlens.lessons.kernel.convolution import Padding
from convlens.lessons.kernel.kernels import parse_kernel
from convlens.lessons.kernel.lesson import FILE, Request, run_lesson
from convlens.rundir.paths import check_free, write_into

DEFAULTS = {
    "image": None,
    "kernel": "vertical_edge",
    "stride": "1",
    "padding": "0",
    "pooling": "none",
    "pool_size": "2",
    "at": "strongest",
    "size": "150",
    "run_dir": "",
}


def run(words: list[str]) -> int:
    asked = take(words, "kernel", DEFAULTS)
    check_free(asked["run_dir"], FILE)
    lesson = run_lesson(read(asked))
    file = write_into(asked["run_dir"], "kernel", FILE, encode_jpeg(lesson.panel))
    print(*lesson.lines, f"panel    {file}", sep="\n")
    return 0


def read(asked: dict[str, str]) -> Request:
    """The words of the command as values.

    Raises:
        UserError: a value that cannot be meant.
    """
    return Request(
        image=Path(asked["image"]).expanduser(),
        kernel=parse_kernel(asked["kernel"]),
        stride=whole_number(asked, "stride"),
        padding=_padding(asked["padding"]),
        pooling=asked["pooling"],
        window=whole_number(asked, "pool_size"),
        at=_place(asked["at"]),
        size=whole_number(asked, "size"),
    )


def _padding(text: str) -> Padding:
    if text == "same":
        return "same"
    if not text.isdecimal():
        raise UserError(f"padding={text}: a whole number from 0 on, or same, is expected")
    return int(text)


def _place(text: str) -> tuple[int, int] | None:
    if text == DEFAULTS["at"]:
        return None
    found = re.fullmatch(r"[\[(]?\s*(\d+)\s*,\s*(\d+)\s*[\])]?", text)
    if not found:
        raise UserError(
            f"at={text}: row,column of the output is expected, counted from 0, such as at=10,25"
        )
    return int(found[1]), int(found[2])
