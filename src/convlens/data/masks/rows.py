"""What masks of every kind share: laid out as their pictures are, read once, kept on disk.

Legend: N pictures, H height, W width of the result; h, w those of a picture file.
"""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import PIL
from PIL import Image, ImageOps

from convlens.data.index.digests import digest
from convlens.data.index.files import size_and_time
from convlens.data.pixels.cache import Writer, stored
from convlens.data.pixels.decode import VERSION as DECODING
from convlens.data.pixels.decode import PictureError, Recipe, open_picture, resized

ORIENTATION = 0x0112  # EXIF tag: 1 as it lies, 2 to 4 mirrored or upside down, 5 to 8 on its side


def lie_of(picture: Path) -> tuple[tuple[int, int], int]:
    """((w, h) of the stored pixels, EXIF orientation) of a picture file; nothing is decoded.

    Raises PictureError, naming the file, if it gives no picture or is above the limits of one.
    """
    try:
        with open_picture(picture) as image:
            turn = 1
            with contextlib.suppress(Exception):  # garbage for EXIF: it is decoded as it lies, too
                turn = image.getexif().get(ORIENTATION, 1)
            # Pillow gives a TIFF's size as it will stand, of every other kind as it lies
            upright = image.format == "TIFF" and turn in (5, 6, 7, 8)
            return image.size[::-1] if upright else image.size, turn
    except Exception as error:  # Pillow's readers raise almost anything on damaged data
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise PictureError(picture, reason) from None


def laid(mask: np.ndarray, turn: int, recipe: Recipe) -> np.ndarray:
    """(h, w) bool, of a picture's stored pixels, to (H, W) bool: the way the picture itself goes.

    turn  the picture's EXIF orientation; 1 for a mask that is upright already
    """
    image = Image.fromarray(mask.astype(np.uint8))
    image.getexif()[ORIENTATION] = turn
    return resized(ImageOps.exif_transpose(image), recipe)[..., 0].astype(bool)


def gathered(
    read: Callable[[int], tuple[np.ndarray | None, str]],
    rows: Sequence[int],
    recipe: Recipe,
    *,
    count: int,
    made_by: tuple,
    paths: Sequence[Path],
    cache: str,
    cache_dir: str | os.PathLike,
) -> tuple[np.ndarray, list[tuple[int, str]]]:
    """(N, H, W) bool, N = ``count``, and (row, remark) of those that have one, in order.

    read     row -> its mask, (H, W) bool or None (which leaves False), and a remark or ""
    rows     those to read; the others stay False and cost no room on disk (the file is sparse)
    made_by  JSON-able: with ``recipe`` and the names of ``paths``, all that the masks hang on
    paths    every file that is read: another size or time makes them anew
    cache    "disk": memory-mapped; "ram": an array, nothing written

    Raises what ``read`` raises; nothing is kept then.
    """
    shape = (count, recipe.height, recipe.width)

    def make(put: Callable[[int, np.ndarray], None]) -> list[tuple[int, str]]:
        if len(rows):
            size = f"{recipe.height}x{recipe.width}"
            print(f"reading {len(rows)} masks to {size}", file=sys.stderr)

        def work(row: int) -> tuple[int, str]:
            mask, remark = read(row)
            if mask is not None:
                put(row, mask)
            return row, remark

        with warnings.catch_warnings(), ThreadPoolExecutor() as pool:
            warnings.filterwarnings("ignore", module="PIL")  # odd metadata is not about pixels
            try:
                return [(row, remark) for row, remark in pool.map(work, rows) if remark]
            finally:
                pool.shutdown(cancel_futures=True)

    def build(writer: Writer) -> dict:
        array = writer.create("masks", shape, np.dtype(bool))
        return {"remarks": make(lambda row, mask: array.put(row, mask[None]))}

    if cache == "ram":
        array = np.zeros(shape, bool)
        return array, make(array.__setitem__)
    names = [os.path.abspath(path) for path in paths]
    size = [recipe.height, recipe.width]
    key = (*made_by, DECODING, PIL.__version__, size, recipe.resize, count, list(rows), names)
    entry = stored(
        cache_dir,
        f"masks-{digest(*key)}",
        digest(*key, [size_and_time(path) for path in names]),
        build,
    )
    return entry.arrays["masks"], [(row, remark) for row, remark in entry.notes["remarks"]]
