"""Lay maps over photographs, and mark which part the network sees."""

from __future__ import annotations

import numpy as np

from convlens.core.photograph import WHOLE, Frame, Photograph
from convlens.draw.colour import HEAT, blend, colourise, colourise_signed, rescale
from convlens.draw.palette import INK, WHITE
from convlens.draw.picture import Array, resize, resize_cells, to_uint8

EDGE = 320  # longest side of a photograph in a panel, pixels
_TINY = 4  # an image that must be enlarged more than this is drawn pixel by pixel
_OUTSIDE = 0.45  # brightness of what the network does not see
_DARKEST = 90  # grey level of black below a signed map, so that colours stay visible


def as_photograph(image: Array | Photograph) -> Photograph:
    """Return a photograph as it is; make one of an image ``(C, H, W)``, see ``to_uint8``."""
    return image if isinstance(image, Photograph) else Photograph(to_uint8(image))


def fit_photograph(photograph: Photograph, edge: int = EDGE) -> np.ndarray:
    """Return the picture with its longest side at about ``edge`` pixels, uint8 ``(H, W, 3)``.

    Tiny images are enlarged by an integer factor, so that their pixels stay visible. What the
    network does not see is darker, and a frame is drawn around the rest.
    """
    picture = photograph.picture
    height, width = picture.shape[:2]
    scale = edge / max(height, width)
    if scale > _TINY:
        scale = int(scale)
        fitted = resize_cells(picture, (height * scale, width * scale))
    else:
        size = max(1, round(height * scale)), max(1, round(width * scale))
        fitted = resize(picture, size, "bilinear")
    return _mark_frame(fitted, photograph.frame)


def _find_box(size: tuple[int, int], frame: Frame) -> tuple[slice, slice]:
    """Return the rows and columns of a frame in a picture of ``size`` (height, width)."""
    left, top, right, bottom = frame
    edges = round(top * size[0]), round(bottom * size[0]), round(left * size[1])
    return slice(edges[0], edges[1]), slice(edges[2], round(right * size[1]))


def _mark_frame(picture: np.ndarray, frame: Frame) -> np.ndarray:
    if frame == WHOLE:
        return picture
    rows, columns = _find_box((picture.shape[0], picture.shape[1]), frame)
    marked = (picture * _OUTSIDE).round().astype(np.uint8)
    marked[rows, columns] = picture[rows, columns]
    for inset, colour in ((0, INK), (1, WHITE)):
        edges = rows.start + inset, rows.stop - 1 - inset, columns.start + inset
        right = columns.stop - 1 - inset
        marked[[edges[0], edges[1]], edges[2] : right + 1] = colour
        marked[edges[0] : edges[1] + 1, [edges[2], right]] = colour
    return marked


def spread_map(
    values: np.ndarray, size: tuple[int, int], frame: Frame = WHOLE, *, pixelated: bool = False
) -> np.ndarray:
    """Return a map at the size of a picture, ``(H, W)`` float32; 0 outside the frame.

    Args:
        values: ``(h, w)``, the map of what the network sees.
        size: height and width of the picture.
        frame: the part of the picture that the network sees.
        pixelated: whether cells keep sharp edges; otherwise values are interpolated between their
            centres.
    """
    rows, columns = _find_box(size, frame)
    spread = np.zeros(size, np.float32)
    part = rows.stop - rows.start, columns.stop - columns.start
    if pixelated:
        spread[rows, columns] = resize_cells(values.astype(np.float32), part)
    else:
        spread[rows, columns] = resize(values.astype(np.float32), part, "bilinear")
    return spread


def overlay_map(
    picture: np.ndarray, values: np.ndarray, frame: Frame = WHOLE, *, high: float,
    pixelated: bool = False,
) -> np.ndarray:  # fmt: skip
    """Draw heat over a picture, uint8 ``(H, W, 3)``: the higher the map, the more it covers.

    Args:
        picture: uint8 ``(H, W, 3)``; it is untouched where the map is 0 or below.
        values: ``(h, w)``, the map of what the network sees.
        frame: that part of the picture.
        high: the value that gets the strongest heat.
        pixelated: see ``spread_map``.
    """
    unit = rescale(np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0), 0, high)
    cover = spread_map(unit, (picture.shape[0], picture.shape[1]), frame, pixelated=pixelated)
    return blend(picture, colourise(cover, HEAT), cover.clip(0, 1))


def overlay_signed_map(
    picture: np.ndarray, values: np.ndarray, frame: Frame = WHOLE, *, high: float
) -> np.ndarray:
    """Draw red (above 0) and blue (below 0) over a picture in pale grey, uint8 ``(H, W, 3)``.

    Args:
        picture: uint8 ``(H, W, 3)``; its brightness remains, from a medium grey to white.
        values: ``(h, w)``, finite, the map of what the network sees; enlarged by interpolation.
        frame: that part of the picture.
        high: the magnitude in full colour; larger magnitudes cover more of the picture.
    """
    luma = (picture @ np.array([0.299, 0.587, 0.114])).astype(np.float32)
    grey = np.repeat(_DARKEST + (1 - _DARKEST / 255) * luma[..., None], 3, axis=2)
    unit = (values / (high or 1.0)).clip(-1, 1)
    cover = spread_map(unit, (picture.shape[0], picture.shape[1]), frame).clip(-1, 1)
    return blend(grey, colourise_signed(cover, 1), np.abs(cover))
