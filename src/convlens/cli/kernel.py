"""``make kernel image=FILE [kernel=NAME or numbers …]``: a kernel slid over a picture."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import torch

from convlens.cli.words import number, take
from convlens.core.errors import UserError
from convlens.draw.jpeg import encode_jpeg
from convlens.lessons.kernel.convolution import (
    Kernel,
    Padding,
    kernel_of,
    patch_arithmetic,
    pool,
    size_formula,
    slide,
    strongest,
)
from convlens.lessons.kernel.image import decode_in_proportion
from convlens.lessons.kernel.panel import (
    CHANNELS,
    Answers,
    WorkedPatch,
    digits,
    kernel_panel,
    place_line,
    total_line,
)
from convlens.rundir.paths import OUTPUTS, make_fresh_folder

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
FILE = "kernel.jpg"
LARGEST_KERNEL = 15  # its longest edge in weights: the panel writes every one of them down
LARGEST_SIZE = 512  # the picture's longest edge in pixels: the panel shows no more than 320


@dataclass(frozen=True)
class Wish:
    """What was typed, read and checked.

    ``at`` is the output's row and column, None for the strongest place; ``home`` the folder to
    write to, None for a fresh one.
    """

    image: Path
    kernel: Kernel
    stride: int
    padding: Padding
    pooling: str
    window: int
    at: tuple[int, int] | None
    size: int
    home: Path | None


def run(words: list[str]) -> int:
    wish = read(take(words, "kernel", DEFAULTS))
    pixels = decode_in_proportion(wish.image, wish.size)
    picture = torch.from_numpy(pixels).movedim(2, 0)  # (H, W, C) -> (C, H, W)
    edges, weights = tuple(picture.shape[1:]), wish.kernel.values
    if wish.padding != "same" and wish.padding > max(edges):
        raise UserError(
            f"padding={wish.padding}: wider than the picture itself; at most {max(edges)} is taken"
        )
    slid = slide(picture, weights, wish.stride, wish.padding)
    answers = Answers(
        slid.maps,
        slid.total,
        "output of the kernel",
        _sizes(edges, tuple(weights.shape), wish.stride, wish.padding),
    )
    pooled = None
    if wish.pooling != "none":
        window = (wish.window, wish.window)
        pooled = Answers(
            pool(slid.maps, wish.pooling, wish.window),
            pool(slid.total, wish.pooling, wish.window),
            f"after {wish.pooling} pooling, windows of {_times(window)}, stride {wish.window}",
            _sizes(tuple(slid.total.shape), window, wish.window, 0),
        )
    worked = work_out(picture, wish, strongest(slid.total) if wish.at is None else wish.at)
    told = f"stride {wish.stride}, padding {wish.padding}"
    name = f"{wish.kernel.name} {_times(weights.shape)}"
    panel = kernel_panel(
        picture,
        weights,
        answers,
        worked,
        title=f"{name} over {wish.image.name}",
        subtitle="; ".join(filter(None, [wish.kernel.answers_to, told])),
        padding=slid.padding,
        pooled=pooled,
    )
    file = _write(encode_jpeg(panel), wish.home)
    print(f"picture  {_times(edges)}, {', '.join(CHANNELS[len(picture)])}")
    print(f"kernel   {name}, {told}")
    for word, part in (("output", answers), ("pooled", pooled)):
        for line in part.sizes if part else ():
            print(f"{word}   {line}")
    print(arithmetic_text(weights, worked))
    print(f"panel    {file}")
    return 0


def read(asked: dict[str, str]) -> Wish:
    """The words of the command as values.

    Raises:
        UserError: a value that cannot be meant, or a folder that holds a panel already.
    """
    kernel, size = kernel_of(asked["kernel"]), _whole(asked, "size", 1)
    if max(kernel.values.shape) > LARGEST_KERNEL:
        raise UserError(
            f"kernel={asked['kernel']}: {_times(kernel.values.shape)} weights; at most "
            f"{_times((LARGEST_KERNEL, LARGEST_KERNEL))} can be written down in a picture"
        )
    if size > LARGEST_SIZE:
        raise UserError(f"size={size}: the longest edge may have {LARGEST_SIZE} pixels at most")
    home = Path(asked["run_dir"]).expanduser() if asked["run_dir"] else None
    if home and (home / FILE).exists():
        raise UserError(f"run_dir={home} already holds {FILE}: choose another run_dir")
    return Wish(
        image=Path(asked["image"]).expanduser(),
        kernel=kernel,
        stride=_whole(asked, "stride", 1),
        padding=_padding(asked),
        pooling=asked["pooling"],
        window=_whole(asked, "pool_size", 1),
        at=_place(asked["at"]),
        size=size,
        home=home,
    )


def work_out(picture: torch.Tensor, wish: Wish, at: tuple[int, int]) -> WorkedPatch:
    """The patch at row and column ``at`` of the output, in every channel."""
    found = [
        patch_arithmetic(
            picture,
            wish.kernel.values,
            at,
            stride=wish.stride,
            padding=wish.padding,
            channel=channel,
        )
        for channel in range(len(picture))
    ]
    return WorkedPatch(
        place=at,
        corner=found[0].corner,
        patch=torch.stack([one.patch for one in found]),
        inside=found[0].inside,
        products=torch.stack([one.products for one in found]),
        sums=[one.sum for one in found],
    )


def arithmetic_text(weights: torch.Tensor, worked: WorkedPatch) -> str:
    """Patch × kernel = products and their sum, as lines of text, a block for each channel."""
    lines = [f"place    {place_line(worked.place, worked.corner, weights.shape)}"]
    middle = (len(weights) - 1) // 2
    names = CHANNELS[len(worked.sums)]
    texts = (_blocks(values) for values in (worked.patch, weights[None], worked.products))
    patches, (factors,), products = texts
    for channel, name in enumerate(names):
        lines.append(f"{name}:")
        for row, parts in enumerate(zip(patches[channel], factors, products[channel], strict=True)):
            first, second = ("  ×  ", "  =  ") if row == middle else ("     ", "     ")
            end = f"   sum {digits(worked.sums[channel])}" if row == middle else ""
            lines.append(f"  {parts[0]}{first}{parts[1]}{second}{parts[2]}{end}")
    if not worked.inside.all():
        lines.append("pixels outside the picture are padding and count as 0")
    if len(names) > 1:
        lines.append(total_line(worked.sums))
    return "\n".join(lines)


def _blocks(values: torch.Tensor) -> list[list[str]]:
    """Matrices ``(C, kh, kw)`` as C lists of kh lines, all in columns of one width."""
    words = [[[digits(value) for value in row] for row in one] for one in values.tolist()]
    width = max(len(word) for one in words for row in one for word in row)
    return [[" ".join(word.rjust(width) for word in row) for row in one] for one in words]


def _sizes(
    edges: tuple[int, ...], window: tuple[int, ...], stride: int, padding: Padding
) -> list[str]:
    """The output's rows and columns, each by the formula."""
    pairs = zip(("rows", "columns"), edges, window, strict=True)
    return [f"{word}: {size_formula(n, k, stride, padding)}" for word, n, k in pairs]


def _times(edges: tuple[int, ...]) -> str:
    return "×".join(map(str, edges))


def _whole(asked: dict[str, str], key: str, least: int) -> int:
    value = number(asked, key)
    if not isinstance(value, int) or value < least:
        raise UserError(f"{key}={asked[key]}: a whole number from {least} on is expected")
    return value


def _padding(asked: dict[str, str]) -> Padding:
    if asked["padding"] == "same":
        return "same"
    if not asked["padding"].isdecimal():
        raise UserError(
            f"padding={asked['padding']}: a whole number from 0 on, or same, is expected"
        )
    return int(asked["padding"])


def _place(text: str) -> tuple[int, int] | None:
    if text == DEFAULTS["at"]:
        return None
    found = re.fullmatch(r"[\[(]?\s*(\d+)\s*,\s*(\d+)\s*[\])]?", text)
    if not found:
        raise UserError(
            f"at={text}: row,column of the output is expected, counted from 0, such as at=10,25"
        )
    return int(found[1]), int(found[2])


def _write(data: bytes, home: Path | None) -> Path:
    folder = make_fresh_folder(OUTPUTS / "kernel") if home is None else home
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / FILE).write_bytes(data)
    except OSError as error:
        raise UserError(
            f"run_dir={folder}: {FILE} cannot be written ({error.strerror}); choose another run_dir"
        ) from None
    return folder / FILE
