"""``data.decode=fast``: JPEGs in less time, with pixels that may be one grey level off.

torchcodec decodes with libjpeg-turbo, as Pillow does, to equal pixels (tested). torch resizes with
vector instructions, which round otherwise than Pillow. Only upright JPEGs in colour are decoded so,
from 0.13 megapixels to the size from which Pillow needs to decode a part of the pixels only: all
others take as long, or longer (`benchmarks/decoding.py`), or would differ more (bicubic: by two).
"""

from __future__ import annotations

from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

from convlens.core.errors import UserError

SMALLEST = 1 << 17  # pixels of the smallest image that gains; opening it and its checks cost more


def check_installed() -> None:
    """Check that torchcodec can be imported.

    Raises:
        UserError: it is not installed.
    """
    if find_spec("torchcodec") is None:
        raise UserError(
            "data.decode=fast needs torchcodec: install it with "
            "`.venv/bin/uv pip install -c requirements.lock -e '.[decode]'`, or set "
            "data.decode=exact"
        )


def can_scale(channels: int, resize: str, interpolation: str) -> bool:
    """Return whether images that a recipe describes so can be decoded here."""
    return channels == 3 and resize == "squash" and interpolation == "bilinear"


def gains(image: Image.Image, goal: int) -> bool:
    """Return whether decoding an opened image here is faster than with Pillow.

    Args:
        image: opened by Pillow, not loaded.
        goal: Pillow decodes a part of a JPEG's pixels only if both of its sides, halved, are at
            least so many pixels; this is faster still.
    """
    return (
        (image.format, image.mode) == ("JPEG", "RGB")
        and image.width * image.height >= SMALLEST
        and min(image.size) < 2 * goal
    )


def get_versions() -> dict[str, str]:
    """Return the versions of the libraries, on which the pixels depend."""
    return {name: version(name) for name in ("torch", "torchcodec")}


def decode_jpeg(path: Path, height: int, width: int) -> np.ndarray:
    """Decode a JPEG in colour and scale it (bilinear, antialiased), whatever its proportions.

    Args:
        path: a JPEG of three channels.
        height: height of the result in pixels.
        width: width of the result in pixels.

    Returns:
        (height, width, 3) uint8.

    Raises:
        RuntimeError: the file is damaged.
    """
    # imported here: they take seconds, and few runs ask for them
    import torch
    from torchcodec.decoders import decode_jpeg as decode

    image = decode(path.read_bytes(), mode="RGB")[None].contiguous(
        memory_format=torch.channels_last
    )
    scaled = torch.nn.functional.interpolate(
        image, (height, width), mode="bilinear", antialias=True
    )
    return scaled[0].permute(1, 2, 0).contiguous().numpy()
