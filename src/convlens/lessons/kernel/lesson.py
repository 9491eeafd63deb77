"""The whole lesson: a kernel slid over one picture, as a panel and in lines of text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from convlens.core.errors import UserError
from convlens.draw.jpeg import encode_jpeg
from convlens.lessons.kernel.arithmetic import CHANNELS, arithmetic_lines, work_out
from convlens.lessons.kernel.convolution import Padding, pool, size_formula, slide, strongest
from convlens.lessons.kernel.image import decode_in_proportion
from convlens.lessons.kernel.kernels import Kernel
from convlens.lessons.kernel.panel import Answers, kernel_panel
from convlens.rundir.paths import OUTPUTS, make_fresh_folder

FILE = "kernel.jpg"
LARGEST_SIZE = 512  # the picture's longest edge in pixels: the panel shows no more than 320


@dataclass(frozen=True)
class Request:
    """What a person wants to see.

    Attributes:
        image: the picture's file.
        kernel: what is slid over it.
        stride: pixels from one place to the next.
        padding: zeros at each edge, or ``same``.
        pooling: one of :data:`~convlens.lessons.kernel.convolution.POOLINGS`.
        window: edge of the pooling's windows in pixels.
        at: row and column of the output to be worked out; None: where the answer is strongest.
        size: longest edge of the picture in pixels.

    Raises:
        UserError: a picture too large to be shown.
    """

    image: Path
    kernel: Kernel
    stride: int
    padding: Padding
    pooling: str
    window: int
    at: tuple[int, int] | None
    size: int

    def __post_init__(self) -> None:
        if self.size > LARGEST_SIZE:
            raise UserError(
                f"size={self.size}: the longest edge may have {LARGEST_SIZE} pixels at most"
            )


@dataclass(frozen=True)
class Lesson:
    """What there is to see: ``panel`` uint8 (H, W, 3), and the same in ``lines`` of text."""

    panel: np.ndarray
    lines: list[str]


def teach(request: Request) -> Lesson:
    """Slide the kernel over the picture and work one place out.

    Raises:
        UserError: a picture that cannot be read, or sizes that do not fit it.
    """
    pixels = decode_in_proportion(request.image, request.size)
    picture = torch.from_numpy(pixels).movedim(2, 0)  # (H, W, C) -> (C, H, W)
    edges, weights = tuple(picture.shape[1:]), request.kernel.values
    stride, padding = request.stride, request.padding
    if padding != "same" and padding > max(edges):
        raise UserError(
            f"padding={padding}: wider than the picture itself; at most {max(edges)} is taken"
        )
    slid = slide(picture, weights, stride, padding)
    sizes = _sizes(edges, tuple(weights.shape), stride, padding)
    answers = Answers(slid.maps, slid.total, "output of the kernel", sizes)
    pooled = None
    if request.pooling != "none":
        window = (request.window, request.window)
        pooled = Answers(
            pool(slid.maps, request.pooling, request.window),
            pool(slid.total, request.pooling, request.window),
            f"after {request.pooling} pooling, windows of {_times(window)}, "
            f"stride {request.window}",
            _sizes(tuple(slid.total.shape), window, request.window, 0),
        )
    at = strongest(slid.total) if request.at is None else request.at
    worked = work_out(picture, weights, at, stride=stride, padding=padding)
    how = f"stride {stride}, padding {padding}"
    name = f"{request.kernel.name} {_times(weights.shape)}"
    panel = kernel_panel(
        picture,
        weights,
        answers,
        worked,
        title=f"{name} over {request.image.name}",
        subtitle="; ".join(filter(None, [request.kernel.answers_to, how])),
        padding=slid.padding,
        pooled=pooled,
    )
    lines = [
        f"picture  {_times(edges)}, {', '.join(CHANNELS[len(picture)])}",
        f"kernel   {name}, {how}",
        *(f"output   {line}" for line in answers.sizes),
        *(f"pooled   {line}" for line in (pooled.sizes if pooled else ())),
        *arithmetic_lines(weights, worked),
    ]
    return Lesson(panel, lines)


def _sizes(
    edges: tuple[int, ...], window: tuple[int, ...], stride: int, padding: Padding
) -> list[str]:
    """The output's rows and columns, each by the formula."""
    pairs = zip(("rows", "columns"), edges, window, strict=True)
    return [f"{word}: {size_formula(n, k, stride, padding)}" for word, n, k in pairs]


def _times(edges: Sequence[int]) -> str:
    return "×".join(map(str, edges))


def folder_for(text: str) -> Path | None:
    """The folder that a person names for the panel; None for none: a fresh one will do.

    Raises:
        UserError: it holds a panel already.
    """
    folder = Path(text).expanduser() if text else None
    if folder and (folder / FILE).exists():
        raise UserError(f"run_dir={folder} already holds {FILE}: choose another run_dir")
    return folder


def write_panel(panel: np.ndarray, folder: Path | None) -> Path:
    """Write :data:`FILE`; its path.

    Raises:
        UserError: the folder cannot be written.
    """
    data = encode_jpeg(panel)
    folder = make_fresh_folder(OUTPUTS / "kernel") if folder is None else folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / FILE).write_bytes(data)
    except OSError as error:
        raise UserError(
            f"run_dir={folder}: {FILE} cannot be written ({error.strerror}); choose another run_dir"
        ) from None
    return folder / FILE
