"""``data.decode=fast``: JPEGs in less time, with pixels that may be one grey level off.

torchcodec decodes with libjpeg-turbo, as Pillow does, to equal pixels (tested). torch resizes with
vector instructions, which round otherwise than Pillow. Only upright baseline JPEGs in colour are
decoded so, from 0.13 megapixels to the size from which Pillow decodes a part of the pixels only.
There it is 1.4 to 1.6 times as fast. Elsewhere it is less than 1.3 times as fast
(`benchmarks/decoding.py`), or would differ more (bicubic: by two grey levels).
"""

from __future__ import annotations

import importlib
from importlib.metadata import version
from pathlib import Path

import numpy as np
from PIL import Image

from convlens.core.errors import UserError

SMALLEST = 1 << 17  # pixels of the smallest image that gains; opening it and its checks cost more


def check_installed() -> None:
    """Check that torchcodec is installed and fits torch; importing both takes seconds.

    Raises:
        UserError: it does not, or is too old.
    """
    try:
        _ = importlib.import_module("torchcodec.decoders").decode_jpeg
    # OSError, RuntimeError: its library does not load; AttributeError: it is older than 0.16
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"data.decode=fast needs torchcodec ({reason}): install it with "
            f"`pip install 'convlens[decode]'`, or leave this key out"
        ) from error


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
        and not image.info.get("progressive")
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
