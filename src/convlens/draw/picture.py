"""Convert images to arrays, and resize them for panels.

Throughout ``draw/``, an *image* is what a network sees: ``(C, H, W)`` with C 1 or 3, float in
[0, 1] or uint8, torch tensor or numpy array. A *picture* is something drawn: uint8 numpy
``(H, W, 3)``. Maps and images come in, pictures go out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    import torch

    Array = np.ndarray | torch.Tensor
else:
    Array = Any

_LEGIBLE, _LARGEST = 144, 320  # longest edge of a picture in a panel, pixels


def as_array(values: Array) -> np.ndarray:
    """Return a torch tensor (any device or precision, with or without graph) or array as numpy."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = (values.float() if values.is_floating_point() else values).numpy()
    return np.asarray(values)


def to_uint8(image: Array) -> np.ndarray:
    """Convert an image ``(C, H, W)`` or ``(H, W)`` to a picture, uint8 ``(H, W, 3)``.

    C is 1 (grey) or 3 (RGB). Floats range from 0 to 1, which is full brightness; values outside are
    clipped, NaN becomes black. uint8 values are kept. The result is a copy.

    Raises:
        ValueError: The image has a wrong shape or dtype.
    """
    values = as_array(image)
    values = values[None] if values.ndim == 2 else values
    if values.ndim != 3 or values.shape[0] not in (1, 3) or 0 in values.shape:
        raise ValueError(f"an image must be (1 or 3, H, W), not {tuple(values.shape)}")
    if values.dtype != np.uint8:
        if values.dtype.kind != "f":
            raise ValueError(f"an image must be uint8 or float in [0, 1], not {values.dtype}")
        finite = np.nan_to_num(values, nan=0.0, posinf=1.0, neginf=0.0)
        values = np.rint(finite.clip(0, 1) * 255).astype(np.uint8)
    picture = np.moveaxis(values, 0, 2)
    return np.broadcast_to(picture, (*picture.shape[:2], 3)).copy()


def resize(
    picture: np.ndarray, size: tuple[int, int], how: Literal["nearest", "bilinear"] = "nearest"
) -> np.ndarray:
    """Resize a picture (uint8 ``(H, W, 3)``) or a float map ``(H, W)``.

    Args:
        picture: The picture or map; a map is returned as float32.
        size: The new height and width in pixels.
        how: "nearest" repeats or drops pixels; "bilinear" interpolates between pixel centres, and
            averages when it reduces.
    """
    old, (height, width) = picture.shape[:2], size
    if size == old:
        return picture
    if how == "nearest":
        # the source pixel under each target pixel's centre, in integer arithmetic
        rows = (2 * np.arange(height) + 1) * old[0] // (2 * height)
        columns = (2 * np.arange(width) + 1) * old[1] // (2 * width)
        return picture[rows[:, None], columns]
    source = Image.fromarray(picture if picture.dtype == np.uint8 else picture.astype(np.float32))
    return np.asarray(source.resize((width, height), Image.Resampling.BILINEAR))


def resize_cells(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize a picture to (height, width): pixels are repeated to enlarge, averaged to reduce."""
    shrinks = size[0] < picture.shape[0] or size[1] < picture.shape[1]
    return resize(picture, size, "bilinear" if shrinks else "nearest")


def compute_legible_size(
    height: int, width: int, smallest: int = _LEGIBLE, largest: int = _LARGEST
) -> tuple[int, int]:
    """Return the (height, width) at which an image is drawn in a panel.

    A small image is enlarged by an integer factor, a large one is reduced, and one in between keeps
    its size.

    Args:
        height: Height of the image in pixels.
        width: Width of the image in pixels.
        smallest: The longest edge is enlarged to at least this.
        largest: The longest edge is reduced to at most this.
    """
    edge = max(height, width)
    if edge > largest:
        return max(1, round(height * largest / edge)), max(1, round(width * largest / edge))
    factor = -(-smallest // edge)
    return height * factor, width * factor


def make_legible(
    picture: np.ndarray, smallest: int = _LEGIBLE, largest: int = _LARGEST
) -> np.ndarray:
    """Resize a picture, or a float map ``(H, W)``, to its ``compute_legible_size``."""
    return resize_cells(picture, compute_legible_size(*picture.shape[:2], smallest, largest))
