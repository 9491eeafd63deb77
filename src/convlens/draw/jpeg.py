"""Encode pictures as JPEG or PNG bytes, for TensorBoard and the run folder."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image


def _encode(picture: np.ndarray, kind: str, **options: int) -> bytes:
    """Return a picture as the bytes of a file.

    Raises:
        ValueError: The picture is not uint8 ``(H, W, 3)``.
    """
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        raise ValueError(f"a picture must be uint8 (H, W, 3), not {picture.dtype} {picture.shape}")
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(buffer, kind, **options)
    return buffer.getvalue()


def encode_jpeg(
    picture: np.ndarray, quality: int | None = None, *, photographs: bool = False
) -> bytes:
    """Return a picture as JPEG bytes.

    Colour is stored at full resolution (4:4:4), because the usual half resolution washes out cells
    and thin lines of another colour than what surrounds them.

    Args:
        picture: uint8 ``(H, W, 3)``.
        quality: 1 (worst) to 100; None for 82, or 80 for photographs.
        photographs: whether it shows photographs, alone or under smooth maps: their colour is
            stored at half the resolution (4:2:0), which takes a quarter off the bytes.
    """
    quality = quality or (80 if photographs else 82)
    return _encode(picture, "JPEG", quality=quality, subsampling=2 if photographs else 0)


def encode_png(picture: np.ndarray) -> bytes:
    """Return ``picture``, uint8 ``(H, W, 3)``, as PNG bytes.

    PNG is exact, but 10 to 40 times slower to write than JPEG.
    """
    return _encode(picture, "PNG")


def read_jpeg_size(encoded: bytes) -> tuple[int, int]:
    """Return width and height of an encoded picture in pixels; only the header is read.

    Args:
        encoded: Bytes of a JPEG or PNG file.

    Raises:
        OSError: The bytes are not an image.
    """
    with Image.open(io.BytesIO(encoded)) as picture:
        return picture.size


def shrink_jpeg(encoded: bytes, longest_edge: int, quality: int) -> bytes:
    """Reduce the size and quality of a JPEG, so that it has fewer bytes.

    Args:
        encoded: Bytes of a JPEG file.
        longest_edge: Maximum edge of the result in pixels.
        quality: 1 (worst) to 100.

    Returns:
        JPEG bytes, or ``encoded`` if these are fewer bytes.

    Raises:
        OSError: The bytes are not a complete image.
    """
    with Image.open(io.BytesIO(encoded)) as picture:
        smaller = picture.convert("RGB")
    smaller.thumbnail((longest_edge, longest_edge), Image.Resampling.LANCZOS)
    reduced = encode_jpeg(np.asarray(smaller), quality)
    return min(reduced, encoded, key=len)
