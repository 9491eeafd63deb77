"""Masks beside a person's own images: what a file of them says, PNG or boxes.

PNG: what is not black is the object; in the palette of VOC's segmentations 255 ("void") is not.
Where the opacity varies it decides alone: what can be seen at all is the object. It has the size of
its image.
XML: the pixels in any of the boxes, which are scaled if <size> is another than the image's; one
that was drawn on an image of other proportions is an error.

A mask is upright already, and not turned with its image, where it has the width and height of the
turned image, or a note of its own.

Legend: h, w height and width of an image file.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from convlens.data.masks.boxes import read_boxes
from convlens.data.masks.load import MaskKind, Picture
from convlens.data.pixels.decode import ORIENTATION, open_image

# Index 255 of VOC's palette: the rim of objects and what is too hard to tell, neither of the two.
_VOID = 255, (224, 224, 192)
_TURNED = "turned"  # remark: whether the mask is turned too cannot be told by its size


def _mask(file: Path, picture: Picture) -> tuple[np.ndarray, int, str]:
    """The mask of a file, (h, w) bool, by what orientation it is turned, and a remark."""
    upright, turn = picture.upright, picture.turn
    mask, known = (_drawn if file.suffix.lower() == ".png" else _boxed)(file, picture)
    if mask.shape != upright[::-1]:
        return mask, turn, ""
    unclear = turn not in (0, 1) and upright == picture.stored and not known
    return mask, 1, _TURNED if unclear else ""


def _drawn(file: Path, picture: Picture) -> tuple[np.ndarray, bool]:
    """The mask in a PNG, (h, w) bool, and whether it says itself how it is turned."""
    upright = picture.upright
    with open_image(file, formats=("PNG",)) as image:
        # before anything is decoded, so that no small file becomes a gigabyte
        _check_size(image.size, (upright, upright[::-1]), upright)
        known = image.getexif().get(ORIENTATION, 1) not in (0, 1)
        mask = _object(ImageOps.exif_transpose(image))
    _check_size(mask.shape[::-1], (picture.stored, upright), upright)
    return mask, known


def _check_size(found: tuple, fitting: tuple, upright: tuple[int, int]) -> None:
    if found not in fitting:
        (width, height), (wide, high) = found, upright
        raise ValueError(f"it has {width}x{height} pixels and its image {wide}x{high}")


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


def _boxed(file: Path, picture: Picture) -> tuple[np.ndarray, bool]:
    """The mask of a file of boxes, (h, w) bool; it never says how it is turned."""
    boxes, upright = read_boxes(file), picture.upright
    size = upright
    if boxes.size is not None:
        size = min((upright, picture.stored), key=lambda size: _unlike(boxes.size, size))
    # to about a pixel of the smaller one
    if boxes.size is None or _unlike(boxes.size, size) <= max(sum(boxes.size), sum(size)):
        return boxes.mask(*size), False
    raise ValueError(
        f"it was drawn on an image of {boxes.size[0]}x{boxes.size[1]} pixels, and this one has "
        f"other proportions, {upright[0]}x{upright[1]}"
    )


def _unlike(one: tuple[int, int], other: tuple[int, int]) -> int:
    """How far two sizes are from the same proportions; 0 for equal ones."""
    return abs(one[0] * other[1] - one[1] * other[0])


USER_MASKS = MaskKind(
    version=("own", 1),
    read=_mask,
    remarks={
        _TURNED: "{count} images are turned by their EXIF, and their masks taken as drawn on the "
        "turned image; look whether they fit, the first: {first}"
    },
    way_out="; mend or remove it, or go on without such masks with data.on_error=skip",
    needed=False,
)
