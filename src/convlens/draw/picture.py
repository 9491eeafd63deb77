"""Images as arrays, and the size at which they are shown.

Two words are used throughout ``draw/``: a *image* is what a network sees, ``(C, H, W)`` with C
1 or 3, float in [0, 1] or uint8, torch tensor or numpy array; an *picture* is something drawn,
uint8 numpy ``(H, W, 3)``. Maps and images come in, pictures go out.
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

_LEGIBLE, _LARGEST = 144, 320  # longest edge of one picture in a panel, pixels


def as_array(values: Array) -> np.ndarray:
    """A torch tensor (any device, any precision, with or without graph) or array as numpy."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = (values.float() if values.is_floating_point() else values).numpy()
    return np.asarray(values)


def to_uint8(image: Array) -> np.ndarray:
    """An image ``(C, H, W)`` or ``(H, W)`` as a picture, uint8 ``(H, W, 3)``.

    C is 1 (grey) or 3 (RGB). Floats are taken to lie in [0, 1]: 1 is full brightness, values
    outside are clipped, NaN becomes black. uint8 passes unchanged. The result is a copy.

    Raises:
        ValueError: the shape or the dtype is none of these.
    """
    values = as_array(image)
    values = values[None] if values.ndim == 2 else values
    if values.ndim != 3 or values.shape[0] not in (1, 3) or 0 in values.shape:
        raise ValueError(f"an image is (1 or 3, H, W), not {tuple(values.shape)}")
    if values.dtype != np.uint8:
        if values.dtype.kind != "f":
            raise ValueError(f"an image is uint8 or float in [0, 1], not {values.dtype}")
        finite = np.nan_to_num(values, nan=0.0, posinf=1.0, neginf=0.0)
        values = np.rint(finite.clip(0, 1) * 255).astype(np.uint8)
    picture = np.moveaxis(values, 0, 2)
    return np.broadcast_to(picture, (*picture.shape[:2], 3)).copy()


def resize(
    picture: np.ndarray, size: tuple[int, int], how: Literal["nearest", "bilinear"] = "nearest"
) -> np.ndarray:
    """``picture`` (uint8 ``(H, W, 3)``, or a float map ``(H, W)``) at another (height, width).

    "nearest" repeats or drops pixels; "bilinear" interpolates between pixel centres and averages
    when it reduces. A float map stays float32.
    """
    old, (height, width) = picture.shape[:2], size
    if size == old:
        return picture
    if how == "nearest":
        # the source pixel under each target pixel's centre, in whole numbers
        rows = (2 * np.arange(height) + 1) * old[0] // (2 * height)
        columns = (2 * np.arange(width) + 1) * old[1] // (2 * width)
        return picture[rows[:, None], columns]
    source = Image.fromarray(picture if picture.dtype == np.uint8 else picture.astype(np.float32))
    return np.asarray(source.resize((width, height), Image.Resampling.BILINEAR))


def resize_cells(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """``picture`` at (height, width): pixels repeated where it grows, averaged where it shrinks."""
    shrinks = size[0] < picture.shape[0] or size[1] < picture.shape[1]
    return resize(picture, size, "bilinear" if shrinks else "nearest")


def compute_legible_size(
    height: int, width: int, smallest: int = _LEGIBLE, largest: int = _LARGEST
) -> tuple[int, int]:
    """The size at which an image of ``height`` × ``width`` pixels is shown in a panel.

    A small one grows by the least whole factor that brings its longest edge to ``smallest``; one
    longer than ``largest`` is reduced to it; in between it stays as it is.
    """
    edge = max(height, width)
    if edge > largest:
        return max(1, round(height * largest / edge)), max(1, round(width * largest / edge))
    factor = -(-smallest // edge)
    return height * factor, width * factor


def make_legible(
    picture: np.ndarray, smallest: int = _LEGIBLE, largest: int = _LARGEST
) -> np.ndarray:
    """``picture``, or a float map ``(H, W)``, at its :func:`compute_legible_size`."""
    return resize_cells(picture, compute_legible_size(*picture.shape[:2], smallest, largest))
