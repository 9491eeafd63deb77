"""Where the animal is in a picture of Oxford-IIIT Pet: trimaps to masks.

Legend: N pictures, H height, W width. A trimap is a PNG with 1 on the object, 2 on the background
and 3 on the border between them.
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

from convlens.data.cache import Writer, digest, stored
from convlens.data.decode import FORMATS, PictureError, Recipe, resized
from convlens.data.decode import VERSION as DECODING

VERSION = 1  # of the masks a trimap gives: raise it when that changes, and caches are rebuilt
_BACKGROUND = 2
_ORIENTATION = 0x0112  # EXIF tag
_AGAIN = "; put that of the official annotations in its place"


def masks(
    pictures: Sequence[Path],
    *,
    size: int,
    resize: str,
    cache: str,
    cache_dir: str | os.PathLike,
) -> tuple[np.ndarray, list[str]]:
    """(N, H, W) bool, H = W = ``size``, and lines a person should read.

    True is the animal with its border: of the trimap's three classes, object (1) and border (3).
    The border is a band a few pixels wide in which the outline lies; with it no part of the animal
    (ears, whiskers, fur) is missing, at the price of a little background.

    A mask goes the way of its picture: turned as the picture's EXIF says, then ``resize`` (squash,
    crop or pad, with False around a padded picture), nearest neighbour. A trimap of other
    proportions than its picture is stretched over it and reported.

    cache  "disk": memory-mapped, made anew when a path, size or modification time changed; "ram"

    Raises UserError: a trimap that cannot be read or holds other values than 1, 2 and 3.
    """
    recipe = Recipe(size, size, channels=1, resize=resize, interpolation="nearest")
    trimaps = [p.parent.parent / "annotations" / "trimaps" / f"{p.stem}.png" for p in pictures]
    shape = (len(pictures), size, size)

    def make(put: Callable[[int, np.ndarray], None]) -> dict:
        print(f"reading {len(pictures)} masks to {size}x{size}", file=sys.stderr)
        stretched = []

        def work(row: int) -> None:
            mask, fits = _mask(pictures[row], trimaps[row], recipe)
            put(row, mask)
            if not fits:
                stretched.append(row)

        with warnings.catch_warnings(), ThreadPoolExecutor() as pool:
            warnings.filterwarnings("ignore", module="PIL")  # odd metadata is not about pixels
            try:
                for _ in pool.map(work, range(len(pictures))):
                    pass
            finally:
                pool.shutdown(cancel_futures=True)
        return {"stretched": sorted(stretched)}

    def build(writer: Writer) -> dict:
        rows = writer.create("masks", shape, np.dtype(bool))
        return make(lambda row, mask: rows.put(row, mask[None]))

    if cache == "ram":
        array = np.zeros(shape, bool)
        notes = make(array.__setitem__)
    else:
        paths = [os.path.abspath(path) for path in (*pictures, *trimaps)]
        made_by = (VERSION, DECODING, PIL.__version__, size, resize, paths)
        state = [_state(path) for path in paths]
        entry = stored(cache_dir, f"masks-{digest(*made_by)}", digest(*made_by, state), build)
        array, notes = entry.arrays["masks"], entry.notes
    stretched = [trimaps[row] for row in notes["stretched"]]
    if not stretched:
        return array, []
    return array, [
        f"{len(stretched)} masks have other proportions than their pictures and are stretched over "
        f"them, the first: {stretched[0]}"
    ]


def _state(path: str) -> tuple[int, int]:
    try:
        info = os.stat(path)
        return info.st_size, info.st_mtime_ns
    except OSError:
        return -1, -1  # reading it will say what is wrong


def _mask(picture: Path, trimap: Path, recipe: Recipe) -> tuple[np.ndarray, bool]:
    """(H, W) bool, and whether the trimap has the proportions of its picture."""
    with Image.open(picture, formats=FORMATS) as image:
        (width, height), turn = image.size, 1
        with contextlib.suppress(Exception):  # garbage for EXIF: it is decoded as it lies, too
            turn = image.getexif().get(_ORIENTATION, 1)
    try:
        with Image.open(trimap, formats=("PNG",)) as image:
            classes = np.asarray(image)  # of a palette the indices
    except Exception as error:  # Pillow's readers raise almost anything on damaged data
        raise PictureError(trimap, getattr(error, "strerror", None) or str(error), _AGAIN) from None
    if classes.ndim != 2 or not np.isin(classes, (1, 2, 3)).all():
        raise PictureError(
            trimap, "it is no trimap: 1 (object), 2 (background), 3 (border) are expected", _AGAIN
        )
    mask = Image.fromarray((classes != _BACKGROUND).astype(np.uint8))
    fits = abs(mask.width * height - mask.height * width) <= width + height  # to about a pixel
    if mask.size != (width, height):
        mask = mask.resize((width, height), Image.Resampling.NEAREST)
    mask.getexif()[_ORIENTATION] = turn
    return resized(ImageOps.exif_transpose(mask), recipe)[..., 0].astype(bool), fits
