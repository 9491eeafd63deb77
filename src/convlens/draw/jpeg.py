"""Pictures as file bytes, as TensorBoard and the run folder store them."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image


def _encode(picture: np.ndarray, kind: str, **options: int) -> bytes:
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        raise ValueError(f"a picture is uint8 (H, W, 3), not {picture.dtype} {picture.shape}")
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(buffer, kind, **options)
    return buffer.getvalue()


def encode_jpeg(picture: np.ndarray, quality: int = 90) -> bytes:
    """``picture``, uint8 ``(H, W, 3)``, as JPEG bytes; ``quality`` 1 (worst) to 100.

    Colour is stored at full resolution (4:4:4): halved, as is usual, thin red frames and
    letters smear.
    """
    return _encode(picture, "JPEG", quality=quality, subsampling=0)


def encode_png(picture: np.ndarray) -> bytes:
    """Return ``picture``, uint8 ``(H, W, 3)``, as PNG bytes.

    PNG is exact, 10 to 40 times slower to write than JPEG.
    """
    return _encode(picture, "PNG")


def read_jpeg_size(encoded: bytes) -> tuple[int, int]:
    """Width and height of a JPEG or PNG file's bytes, in pixels; only its header is read.

    Raises:
        OSError: the bytes are no image.
    """
    with Image.open(io.BytesIO(encoded)) as picture:
        return picture.size


def shrink_jpeg(encoded: bytes, longest_edge: int, quality: int) -> bytes:
    """The same JPEG with fewer bytes: no edge longer than ``longest_edge`` pixels, lower quality.

    Args:
        encoded: a JPEG file's bytes.
        quality: 1 (worst) to 100.

    Returns:
        JPEG bytes; ``encoded`` itself where that is not smaller.

    Raises:
        OSError: the bytes are no whole image.
    """
    with Image.open(io.BytesIO(encoded)) as picture:
        smaller = picture.convert("RGB")
    smaller.thumbnail((longest_edge, longest_edge), Image.Resampling.LANCZOS)
    found = encode_jpeg(np.asarray(smaller), quality)
    return min(found, encoded, key=len)
