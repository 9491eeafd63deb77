"""What masks of every kind share: laid out as their pictures are, read once, kept on disk.

Legend: N pictures, H height, W width of the result; h, w those of a picture file.
"""

from __future__ import annotations

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
from convlens.data.pixels.decode import ORIENTATION, Recipe, resized
from convlens.data.pixels.decode import VERSION as DECODING


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
