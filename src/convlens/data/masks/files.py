"""The user's masks for their own images: PNG files or boxes.

PNG: everything that is not black is the object, except index 255 ("void") in the palette of Pascal
VOC's segmentations. If the opacity varies, it alone decides: whatever is visible is the object. The
mask has the size of its image.

XML: the pixels in any of the boxes. The boxes are scaled if <size> differs from the image's; if the
proportions differ, that is an error.

A mask counts as upright, and is not rotated with its image, if it has the width and height of the
rotated image, or an orientation tag of its own.

Legend: h, w height and width of an image file.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from convlens.data.masks.boxes import read_boxes
from convlens.data.masks.load import ImageShape, MaskKind
from convlens.data.pixels.decode import ORIENTATION, open_image

# Index 255 of VOC's palette: rims of objects and undecided regions, neither object nor background
_VOID = 255, (224, 224, 192)
TURNED = "turned"  # remark: the size does not tell whether the mask is rotated too


def _read_mask(file: Path, image: ImageShape) -> tuple[np.ndarray, int, str]:
    """Return a mask, (h, w) bool, the orientation by which to rotate it, and a remark."""
    mask, is_known = (_read_png if file.suffix.lower() == ".png" else _read_xml)(file, image)
    return orient_mask(mask, image, is_known)


def orient_mask(mask: np.ndarray, image: ImageShape, is_known: bool) -> tuple[np.ndarray, int, str]:
    """Return a mask, the orientation by which to rotate it, and a remark if that is unclear.

    Args:
        mask: (h, w) bool, with the stored or the upright size of its image.
        image: the image.
        is_known: whether a mask of the upright size is known to be upright.
    """
    if mask.shape != image.upright[::-1]:
        return mask, image.turn, ""
    is_unclear = image.turn not in (0, 1) and image.upright == image.stored and not is_known
    return mask, 1, TURNED if is_unclear else ""


def _read_png(file: Path, shape: ImageShape) -> tuple[np.ndarray, bool]:
    """Return the mask in a PNG, (h, w) bool, and whether it has its own orientation tag."""
    upright = shape.upright
    with open_image(file, formats=("PNG",)) as image:
        # check before decoding, so that no small file becomes a gigabyte
        _check_size(image.size, (upright, upright[::-1]), upright)
        is_known = image.getexif().get(ORIENTATION, 1) not in (0, 1)
        mask = _find_object(ImageOps.exif_transpose(image))
    _check_size(mask.shape[::-1], (shape.stored, upright), upright)
    return mask, is_known


def _check_size(size: tuple, fitting: tuple, upright: tuple[int, int]) -> None:
    if size not in fitting:
        (width, height), (wide, high) = size, upright
        raise ValueError(f"it has {width}x{height} pixels, but its image {wide}x{high}")


def _find_object(image: Image.Image) -> np.ndarray:
    """Return (h, w) bool, True on the object, for a mask in any mode that a PNG can have."""
    if image.has_transparency_data:
        pixels = np.asarray(image.convert("RGBA"))
        opacity = pixels[..., 3]
        if opacity.min() < opacity.max():
            return opacity > 0
        return pixels[..., :3].any(axis=2) & (opacity > 0)
    values = np.asarray(image)
    if image.mode == "P":
        return ~_find_background(image)[values]
    return values.any(axis=2) if values.ndim == 3 else values != 0


def _find_background(image: Image.Image) -> np.ndarray:
    """Return (256,) bool: which indices of a palette are background.

    Usually that is index 0, which is black. But some programs write a palette in any
    order, so black is the background, and index 0 only if the image has no black.
    """
    palette = np.array(image.getpalette(), dtype=int).reshape(-1, 3)
    colours = np.ones((256, 3), int)  # not black beyond the palette's end
    colours[: len(palette)] = palette
    black = (colours == 0).all(axis=1)
    if not black[np.unique(np.asarray(image))].any():
        black = np.arange(256) == 0
    index, colour = _VOID
    black[index] |= tuple(colours[index]) == colour
    return black


def _read_xml(file: Path, image: ImageShape) -> tuple[np.ndarray, bool]:
    """Return the mask of a file of boxes, (h, w) bool, and False: it has no orientation tag."""
    boxes = read_boxes(file)
    size = image.upright if boxes.size is None else choose_size(boxes.size, image)
    return boxes.mask(*size), False


def choose_size(drawn: tuple[int, int], image: ImageShape) -> tuple[int, int]:
    """Return the upright or the stored size of an image: the one with a drawing's proportions.

    Args:
        drawn: (w, h) in pixels of the image on which objects were annotated.
        image: the image.

    Raises:
        ValueError: both have other proportions.
    """
    size = min((image.upright, image.stored), key=lambda each: _compare_proportions(drawn, each))
    # tolerate about a pixel of the smaller one
    if _compare_proportions(drawn, size) <= max(sum(drawn), sum(size)):
        return size
    raise ValueError(
        f"it was drawn on {drawn[0]}x{drawn[1]} pixels, but its image has "
        f"{image.upright[0]}x{image.upright[1]}, other proportions"
    )


def _compare_proportions(one: tuple[int, int], other: tuple[int, int]) -> int:
    """Return how far two sizes are from equal proportions; 0 if they are equal."""
    return abs(one[0] * other[1] - one[1] * other[0])


USER_MASKS = MaskKind(
    version=("own", 1),
    read=_read_mask,
    remarks={
        TURNED: "{count} images are rotated by EXIF; their masks are taken as drawn on the "
        "rotated image: check that they fit, the first: {first}"
    },
    way_out="; correct or remove it, or skip such masks with data.on_error=skip",
    needed=False,
)
