"""Masks beside a person's own pictures: what a file of them says, PNG or boxes.

Legend: N pictures, H height, W width of the result; h, w those of a picture file.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL
from PIL import Image, ImageOps

from convlens.data.masks.boxes import read_boxes
from convlens.data.masks.load import gathered, laid
from convlens.data.pixels.decode import (
    ORIENTATION,
    PictureError,
    Recipe,
    open_picture,
    size_and_orientation,
)

VERSION = 1  # of the masks a file gives: raise it when that changes, and caches are rebuilt
_WAY_OUT = "; mend or remove it, or go on without such masks with data.on_error=skip"
# Index 255 of VOC's palette: the rim of objects and what is too hard to tell, neither of the two.
_VOID = 255, (224, 224, 192)
_TURNED = "turned"  # remark: whether the mask is turned too cannot be told by its size


@dataclass(frozen=True)
class Masks:
    """The masks of N pictures.

    Attributes:
        masks: (N, H, W) bool, True on the object; a read-only memory map or an array.
        masked: (N,) bool; False where there is no mask, which then is False all over.
        notes: lines a person should read: masks left out.
    """

    masks: np.ndarray
    masked: np.ndarray
    notes: list[str]


def read_masks(
    pictures: Sequence[Path],
    files: Sequence[Path | None],
    *,
    size: int,
    resize: str,
    cache: str,
    cache_dir: str | os.PathLike | None = None,
    on_error: str = "raise",
) -> Masks:
    """The masks of N pictures from N files, None where there is none; H = W = ``size``.

    PNG: what is not black is the object; in the palette of VOC's segmentations 255 ("void") is
    not. Where the opacity varies it decides alone: what can be seen at all is the object.
    XML: the pixels in any of the boxes, which are scaled if <size> is another than the picture's.

    A mask goes the way of its picture: turned as the picture's EXIF says, unless it is upright
    already (has the width and height of the turned picture, or a note of its own); then ``resize``
    (squash, crop or pad, with False around a padded picture), nearest neighbour.

    cache     "disk": memory-mapped, made anew when a path, size or modification time of a mask or
              its picture changed; "ram"
    on_error  "raise": the first mask that cannot be used ends it; "skip": it is left out

    Raises UserError: a damaged file, a PNG of another size than its picture, boxes outside of it
    or none, an XML drawn on a picture of other proportions.
    """
    recipe = Recipe(size, size, channels=1, resize=resize, interpolation="nearest")
    rows = [row for row, file in enumerate(files) if file is not None]

    def read(row: int) -> tuple[np.ndarray | None, str]:
        try:
            return _mask(pictures[row], files[row], recipe)
        except PictureError as error:
            if on_error == "raise":
                raise
            return None, error.reason

    array, remarks = gathered(
        read, rows, recipe, count=len(pictures), made_by=("own", VERSION, on_error),
        paths=[path for row in rows for path in (pictures[row], files[row])],
        cache=cache, cache_dir=cache_dir,
    )  # fmt: skip
    broken = [(row, why) for row, why in remarks if why != _TURNED]
    turned = [row for row, why in remarks if why == _TURNED]
    masked = np.zeros(len(pictures), bool)
    masked[rows] = True
    masked[[row for row, _ in broken]] = False
    notes = []
    if broken:
        row, why = broken[0]
        notes.append(f"{len(broken)} masks left out, the first: {files[row]} ({why})")
    if turned:
        notes.append(
            f"{len(turned)} pictures are turned by their EXIF, and their masks taken as drawn on "
            f"the turned picture; look whether they fit, the first: {files[turned[0]]}"
        )
    return Masks(array, masked, notes)


def _mask(picture: Path, file: Path, recipe: Recipe) -> tuple[np.ndarray, str]:
    """(H, W) bool and a remark. Raises PictureError, naming the file, if it gives no mask."""
    stored, turn = size_and_orientation(picture)
    upright = stored[::-1] if turn in (5, 6, 7, 8) else stored
    read = _drawn if file.suffix.lower() == ".png" else _boxed
    try:
        mask, known = read(file, stored, upright)
    except MemoryError:
        raise  # the machine's failing, not the file's
    except PIL.UnidentifiedImageError:
        raise PictureError(file, "its content is no PNG", _WAY_OUT) from None
    except Exception as error:  # Pillow's readers raise almost anything on damaged data
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise PictureError(file, reason, _WAY_OUT) from None
    if turn not in (0, 1) and mask.shape == upright[::-1] == stored[::-1]:
        return laid(mask, 1, recipe), "" if known else _TURNED
    return laid(mask, 1 if mask.shape == upright[::-1] else turn, recipe), ""


def _drawn(
    file: Path, stored: tuple[int, int], upright: tuple[int, int]
) -> tuple[np.ndarray, bool]:
    """The mask in a PNG, (h, w) bool, and whether it says itself how it is turned."""
    with open_picture(file, formats=("PNG",)) as image:
        width, height = image.size
        # before anything is decoded, so that no small file becomes a gigabyte
        if sorted(image.size) != sorted(upright):
            raise ValueError(_other_size(f"{width}x{height}", upright))
        known = image.getexif().get(ORIENTATION, 1) not in (0, 1)
        mask = _object(ImageOps.exif_transpose(image))
    if mask.shape not in (stored[::-1], upright[::-1]):
        raise ValueError(_other_size(f"{mask.shape[1]}x{mask.shape[0]}", upright))
    return mask, known


def _other_size(found: str, upright: tuple[int, int]) -> str:
    return f"it has {found} pixels and its picture {upright[0]}x{upright[1]}"


def _object(image: Image.Image) -> np.ndarray:
    """(h, w) bool, True on the object, of a mask in any mode a PNG can have."""
    if image.has_transparency_data:
        seen = np.asarray(image.convert("RGBA"))
        opacity = seen[..., 3]
        if opacity.min() < opacity.max():
            return opacity > 0
        return seen[..., :3].any(axis=2) & (opacity > 0)
    values = np.asarray(image)
    if image.mode == "P":
        return ~_background(image)[values]
    return values.any(axis=2) if values.ndim == 3 else values != 0


def _background(image: Image.Image) -> np.ndarray:
    """(256,) bool of a palette's indices.

    Mostly that is index 0, which is black; but programs that save few colours sort them as they
    like, so black is what counts, and the index only where no black occurs.
    """
    given = np.array(image.getpalette(), dtype=int).reshape(-1, 3)
    colours = np.ones((256, 3), int)  # not black, beyond the palette's end
    colours[: len(given)] = given
    black = (colours == 0).all(axis=1)
    if not black[np.unique(np.asarray(image))].any():
        black = np.arange(256) == 0
    index, colour = _VOID
    black[index] |= tuple(colours[index]) == colour
    return black


def _boxed(
    file: Path, stored: tuple[int, int], upright: tuple[int, int]
) -> tuple[np.ndarray, bool]:
    """The mask of a file of boxes, (h, w) bool; it never says how it is turned."""
    boxes = read_boxes(file)
    size = upright
    if boxes.size is not None:
        size = min((upright, stored), key=lambda size: _unlike(boxes.size, size))
    # to about a pixel of the smaller one
    if boxes.size is None or _unlike(boxes.size, size) <= max(sum(boxes.size), sum(size)):
        return boxes.mask(*size), False
    raise ValueError(
        f"it was drawn on a picture of {boxes.size[0]}x{boxes.size[1]} pixels, and this one has "
        f"other proportions, {upright[0]}x{upright[1]}"
    )


def _unlike(one: tuple[int, int], other: tuple[int, int]) -> int:
    """How far two sizes are from the same proportions; 0 for equal ones."""
    return abs(one[0] * other[1] - one[1] * other[0])
