"""``make kernel image=FILE [kernel=NAME or numbers …]``: slide a kernel over an image."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from convlens.cli.words import Word, Words, parse_words, read_count, read_number
from convlens.config.schema.model import ACTIVATIONS as FUNCTIONS
from convlens.core.errors import UserError, check_name
from convlens.rundir.paths import check_free, write_into

if TYPE_CHECKING:
    from convlens.lessons.kernel.convolution import Padding
    from convlens.lessons.kernel.lesson import Request

STRONGEST, NO_POOLING = "strongest", "none"
COLOURS = ("default", "grey")
LARGEST_BIAS = 1e9
WORDS: Words = {
    "image": Word("the image", form="FILE", required=True),
    "kernel": Word(
        "vertical_edge, horizontal_edge, sharpen, blur or emboss; or rows of numbers such as "
        "[[1,0,-1],[1,0,-1],[1,0,-1]]; or [K,K,K], one for red, green and blue",
        form="NAME", default="vertical_edge",
    ),
    "stride": Word("pixels between positions of the kernel", form="PIXELS", default="1"),
    "padding": Word("pixels of zeros at each edge, or same", form="PIXELS", default="0"),
    "bias": Word("number added to the sum of the channels", form="NUMBER", default="0"),
    "activation": Word(
        "activation function after the bias",
        form="NAME", default="none", values=("none", *FUNCTIONS),
    ),
    "pooling": Word(
        "pooling of the output; several kinds, separated by commas, are drawn side by side",
        form="KIND,…", default="none", values=("none", "max", "average", "min"),
    ),
    "pool_size": Word("side of the pooling windows", form="PIXELS", default="2"),
    "at": Word(
        "the output value whose calculation is drawn, counted from 0, or strongest",
        form="ROW,COLUMN", default=STRONGEST,
    ),
    "colours": Word(
        "colours of the maps: default (blue below 0, red above) or grey (black to white)",
        form="KIND", default="default", values=COLOURS,
    ),
    "size": Word("longest side of the image, at most 512", form="PIXELS", default="150"),
    "run_dir": Word("the folder for the panel; default: a new one in outputs/kernel/", form="DIR"),
}  # fmt: skip


def run(words: list[str]) -> int:
    from convlens.draw.jpeg import encode_jpeg
    from convlens.lessons.kernel.lesson import FILE, run_lesson

    values = parse_words(words, "kernel", WORDS)
    check_free(values["run_dir"], FILE)
    lesson = run_lesson(read_request(values))
    file = write_into(values["run_dir"], "kernel", FILE, encode_jpeg(lesson.panel))
    print(*lesson.lines, f"panel    {file}", sep="\n")
    return 0


def read_request(values: Mapping[str, str]) -> Request:
    """Return the command's values as a request to the lesson.

    Args:
        values: the values of the command's words, by name.

    Raises:
        UserError: a value is not valid.
    """
    from convlens.lessons.kernel.kernels import parse_kernel
    from convlens.lessons.kernel.lesson import Request

    check_name("colours", values["colours"], COLOURS)
    return Request(
        image=Path(values["image"]).expanduser(),
        kernel=parse_kernel(values["kernel"]),
        stride=read_count(values, "stride"),
        padding=_read_padding(values["padding"]),
        pooling=_read_kinds(values["pooling"]),
        window=read_count(values, "pool_size"),
        at=_read_place(values["at"]),
        size=read_count(values, "size"),
        bias=_read_bias(values),
        activation=values["activation"],
        is_grey=values["colours"] == "grey",
    )


def _read_padding(text: str) -> Padding:
    if text == "same":
        return "same"
    if not text.isdecimal():
        raise UserError(f"padding={text}: expected a whole number of at least 0, or same")
    return int(text)


def _read_kinds(text: str) -> tuple[str, ...]:
    kinds = tuple(dict.fromkeys(text.split(",")))
    if NO_POOLING in kinds and len(kinds) > 1:
        raise UserError(f"pooling={text}: leave out {NO_POOLING}, or name nothing else")
    return () if kinds == (NO_POOLING,) else kinds


def _read_bias(values: Mapping[str, str]) -> float:
    bias = read_number(values, "bias")
    if not abs(bias) <= LARGEST_BIAS:  # also rejects NaN
        raise UserError(f"bias={values['bias']}: out of range; use -1e9 to 1e9")
    return bias


def _read_place(text: str) -> tuple[int, int] | None:
    if text == STRONGEST:
        return None
    match = re.fullmatch(r"[\[(]?\s*(\d+)\s*,\s*(\d+)\s*[\])]?", text)
    if not match:
        raise UserError(
            f"at={text}: expected row,column of the output, counted from 0, such as at=10,25"
        )
    return int(match[1]), int(match[2])
