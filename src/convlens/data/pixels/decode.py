"""One image file to one uint8 array.

Legend: H height, W width, C channels (1 grey, 3 RGB).

This module decides what a file means: EXIF orientation is applied; CMYK and other colour spaces
become RGB; 16-bit grey is scaled to 8 bits; transparent pixels show a background (white by
default); an animation's first frame counts. Damaged files raise errors that name the file; they
never become grey images.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import PIL
from PIL import Image, ImageOps

from convlens.config.schema import DataConfig
from convlens.core.errors import UserError, nearest
from convlens.data.index.kinds import FOREIGN, FORMATS, WAY_OUT, detect_file_kind
from convlens.data.pixels import fast

VERSION = 1  # of the pixels of a file: raise it when decoding changes, so that caches are rebuilt
RESIZES = ("squash", "crop", "pad")
DECODES = ("exact", "fast")
INTERPOLATIONS = {
    "bilinear": Image.Resampling.BILINEAR,
    "nearest": Image.Resampling.NEAREST,
    "bicubic": Image.Resampling.BICUBIC,
}
# Pillow's own limit against decompression bombs: 179 million pixels, 716 MB in Pillow's RGB.
MAX_PIXELS = 178_956_970
# The longest side of a JPEG or GIF. A PNG of 1x100,000,000 pixels takes a kilobyte on disk, but its
# table of rows and resizing it take gigabytes.
MAX_SIDE = 65_535
# Scans of a JPEG: a progressive one has about ten. Each one visits all pixels again, so hundreds of
# empty scans in a small file keep a processor busy for minutes.
MAX_SCANS = 100
# Images with more pixels are decoded one at a time, so that threads together do not need gigabytes.
LARGE = 1 << 24
_ONE_LARGE = threading.Lock()
ORIENTATION = 0x0112  # EXIF tag: 1 upright, 2 to 4 mirrored or upside down, 5 to 8 on its side
_ON_ITS_SIDE = (5, 6, 7, 8)
BACKGROUND, PADDING = 255, 0  # grey levels: under transparent images, around padded ones
_STRIP = 1 << 22  # pixels converted at a time when a conversion needs copies
# Large JPEGs are decoded at 1/2, 1/4 or 1/8, but to no less than this many times the target size.
# At 3 the image differs from a full decode by less than one grey level on average (tested).
REDUCING_GAP = 3


class ImageError(UserError):
    """A file that cannot be decoded; ``reason`` says why, without the file's name."""

    def __init__(self, path: Path, reason: str, way_out: str = ""):
        super().__init__(f"cannot read {path}: {reason}{way_out}")
        self.path, self.reason = path, " ".join(reason.split())


@dataclass(frozen=True)
class Recipe:
    """How a file becomes an (H, W, C) array.

    Attributes:
        height: height of the result in pixels.
        width: width of the result in pixels.
        channels: 1 (ITU-R 601 luma) or 3 (RGB).
        resize: "squash": to the size, whatever the proportions; "crop": the largest centred part
            with the target's proportions; "pad": the whole image, centred on black.
        interpolation: "bilinear", "bicubic" (both antialiased when shrinking) or "nearest" (as
            Keras loads from folders).
        decode: "exact": with Pillow; "fast": some JPEGs with torchcodec (see ``pixels.fast``).
    """

    height: int
    width: int
    channels: int = 3
    resize: str = "squash"
    interpolation: str = "bilinear"
    decode: str = "exact"

    def __post_init__(self) -> None:
        choices = (("resize", RESIZES), ("interpolation", INTERPOLATIONS), ("decode", DECODES))
        for key, known in choices:
            value = getattr(self, key)
            if value not in known:
                raise UserError(f"unknown data.{key}={value}: {nearest(value, known)}")
        if self.channels not in (1, 3):
            raise UserError(f"data.channels={self.channels}: choose 1 (grey) or 3 (RGB)")
        if min(self.height, self.width) < 1:
            raise UserError(f"data.size={self.height}x{self.width}: choose at least one pixel")
        if self.decode == "fast":
            fast.check_installed()

    def key(self) -> dict[str, object]:
        """Return everything that a file's pixels depend on."""
        fixed = {"background": BACKGROUND, "padding": PADDING, "max_pixels": MAX_PIXELS}
        key = asdict(self) | fixed
        if self.decode == "fast":
            return key | fast.get_versions()
        del key["decode"]  # caches of earlier versions stay valid
        return key


def make_recipe(data: DataConfig) -> Recipe:
    """Return the recipe that the config group ``data`` describes."""
    return Recipe(
        data.size, data.size, data.channels, data.resize, data.interpolation,
        data.decode or "exact",
    )  # fmt: skip


def decode_image(path: str | os.PathLike, recipe: Recipe) -> np.ndarray:
    """Decode one file to (H, W, C) uint8.

    Raises:
        ImageError: the file cannot be decoded; the error names it.
    """
    return decode_with_size(path, recipe)[0]


def decode_with_size(path: str | os.PathLike, recipe: Recipe) -> tuple[np.ndarray, tuple[int, int]]:
    """Decode one file to (H, W, C) uint8, and return (w, h) of the upright original in pixels.

    Raises:
        ImageError: the file cannot be decoded; the error names it.
    """
    path = Path(path)
    try:
        with open_image(path) as image:
            _check_scans(path, image)
            large = image.width * image.height > LARGE
            with _ONE_LARGE if large else contextlib.nullcontext():
                if _is_fast(image, recipe):
                    with contextlib.suppress(RuntimeError):  # damaged: Pillow says how
                        return fast.decode_jpeg(path, recipe.height, recipe.width), image.size
                return _convert(image, recipe)
    except MemoryError:
        raise  # the machine lacks memory; the file may be fine
    except Exception as error:
        # On damaged data Pillow's readers raise almost anything: OSError, SyntaxError, ValueError,
        # IndexError, struct.error, zlib.error and more. Convert any of them to an ImageError.
        raise ImageError(path, _describe_failure(path, error)) from None


def open_image(path: str | os.PathLike, formats: Sequence[str] = FORMATS) -> Image.Image:
    """Open an image file in one of ``formats`` and within the size limits; decode nothing.

    Raises:
        ValueError: the header claims too many pixels; no memory was allocated for them.
        Exception: of any type, from Pillow's readers, if the file is not an image.
    """
    with open(path, "rb") as file:
        claimed = _read_webp_size(file.read(30))
    if claimed is not None:
        _check_size(*claimed)
    image = Image.open(path, formats=formats)
    try:
        _check_size(*image.size)
    except ValueError:
        image.close()
        raise
    return image


def read_size_and_orientation(path: str | os.PathLike) -> tuple[tuple[int, int], int]:
    """Return ((w, h) of the stored pixels, EXIF orientation) of an image file; decode nothing.

    Raises:
        ImageError: the file is not an image or is above the size limits; the error names it.
    """
    try:
        with open_image(path) as image:
            return get_size_and_orientation(image)
    except Exception as error:  # Pillow's readers raise almost anything on damaged data
        raise ImageError(Path(path), describe_error(error)) from None


def get_size_and_orientation(image: Image.Image) -> tuple[tuple[int, int], int]:
    """Return ((w, h) of the stored pixels, EXIF orientation) of an image that is not loaded yet."""
    turn = _read_orientation(image)
    # Pillow reports the upright size of a TIFF, but the stored size of any other format
    upright = image.format == "TIFF" and turn in _ON_ITS_SIDE
    return image.size[::-1] if upright else image.size, turn


def describe_error(error: Exception) -> str:
    """Return what is wrong with a file, from the exception that reading it raised."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _read_webp_size(head: bytes) -> tuple[int, int] | None:
    """Return width and height from the first 30 bytes of a WebP file; None for other files.

    When Pillow opens a WebP file it allocates two whole images before it reports the size: two
    gigabytes for 16,000x16,000 (container: RFC 9649).
    """
    if head[:4] != b"RIFF" or head[8:12] != b"WEBP":
        return None
    kind = head[12:16]
    bits = int.from_bytes(head[21:30], "little")
    if kind == b"VP8X":
        return (bits >> 24 & 0xFFFFFF) + 1, (bits >> 48) + 1
    if kind == b"VP8L":
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return (bits >> 40 & 0x3FFF, bits >> 56 & 0x3FFF) if kind == b"VP8 " else None


def _check_size(width: int, height: int) -> None:
    """Raise ValueError if the header claims too many pixels, before memory is allocated."""
    if width * height > MAX_PIXELS:
        raise ValueError(f"{width}x{height} pixels are more than {MAX_PIXELS:,}: shrink it")
    if max(width, height) > MAX_SIDE:
        raise ValueError(f"{width}x{height} pixels: no side may exceed {MAX_SIDE:,}: shrink it")


def _check_scans(path: Path, image: Image.Image) -> None:
    """Raise ValueError for a JPEG with very many scans."""
    if image.format != "JPEG" or not image.info.get("progressive"):
        return
    scans = path.read_bytes().count(b"\xff\xda")  # in compressed data 0xff is followed by 0
    if scans > MAX_SCANS:
        raise ValueError(f"it has {scans} scans, more than {MAX_SCANS}: save it again")


def convert_image(image: Image.Image, recipe: Recipe) -> np.ndarray:
    """Convert an image that Pillow has opened or created to (H, W, C) uint8."""
    return _convert(image, recipe)[0]


def _convert(image: Image.Image, recipe: Recipe) -> tuple[np.ndarray, tuple[int, int]]:
    width, height = image.size  # a draft is smaller
    if recipe.interpolation != "nearest":  # nearest picks single pixels, so it needs all of them
        image.draft(image.mode, (_get_goal(recipe),) * 2)
    image.load()
    turn = _read_orientation(image)
    if turn not in (0, 1):  # one with a broken EXIF block stays as it is
        image = ImageOps.exif_transpose(image)
    pixels = resize_image(_to_plain_mode(image, recipe.channels), recipe)
    return pixels, ((height, width) if turn in _ON_ITS_SIDE else (width, height))


def _is_fast(image: Image.Image, recipe: Recipe) -> bool:
    """Return whether an opened image is decoded by torchcodec."""
    is_wanted = recipe.decode == "fast" and fast.can_scale(
        recipe.channels, recipe.resize, recipe.interpolation
    )
    return is_wanted and fast.gains(image, _get_goal(recipe)) and _read_orientation(image) in (0, 1)


def _get_goal(recipe: Recipe) -> int:
    """Return the least side of a JPEG of which only a part of the pixels is decoded."""
    return REDUCING_GAP * max(recipe.height, recipe.width)


def _describe_failure(path: Path, error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "the file is missing"
    if isinstance(error, PIL.UnidentifiedImageError):
        kind = detect_file_kind(path)
        if kind == "empty":
            return "the file is empty"
        if kind in FORMATS:
            return f"it begins like a {kind} file but is damaged"
        way_out = f": {WAY_OUT}" if kind in FOREIGN else ""
        return (
            f"its content ({kind}) is not in a supported image format ({', '.join(FORMATS)})"
            f"{way_out}"
        )
    return describe_error(error)


def _read_orientation(image: Image.Image) -> int:
    with contextlib.suppress(Exception):  # a broken EXIF block does not affect the pixels
        return image.getexif().get(ORIENTATION, 1)
    return 1


def _to_plain_mode(image: Image.Image, channels: int) -> Image.Image:
    """Convert to mode L or RGB: eight bits, opaque."""
    if image.mode.startswith("I;16"):
        image = _convert_in_strips(image, "L", _to_eight_bits)
    elif image.mode in ("I", "F"):
        raise ValueError("32 bits per channel have no known range: save it with 8 or 16 bits")
    if image.has_transparency_data:
        image = _convert_in_strips(image, "RGB", _to_opaque)
    mode = "L" if channels == 1 else "RGB"
    if mode == "L" and image.mode not in ("L", "1", "RGB"):
        image = image.convert("RGB")  # CMYK, LAB … have no direct conversion to luma
    return image if image.mode == mode else image.convert(mode)


def _convert_in_strips(
    image: Image.Image, mode: str, convert: Callable[[Image.Image], Image.Image]
) -> Image.Image:
    """Apply ``convert`` to the whole image in strips, so that its copies need little memory."""
    rows = max(1, _STRIP // image.width)
    if rows >= image.height:
        return convert(image)
    result = Image.new(mode, image.size)
    for top in range(0, image.height, rows):
        box = (0, top, image.width, min(top + rows, image.height))
        strip = image.crop(box)
        strip.info = image.info  # the palette's transparency
        result.paste(convert(strip), box)
    return result


def _to_eight_bits(image: Image.Image) -> Image.Image:
    wide = np.asarray(image).astype(np.uint32)
    return Image.fromarray(((wide + 128) // 257).astype(np.uint8))  # 65535 -> 255, rounded


def _to_opaque(image: Image.Image) -> Image.Image:
    background = Image.new("RGBA", image.size, (*(BACKGROUND,) * 3, 255))
    return Image.alpha_composite(background, image.convert("RGBA")).convert("RGB")


def resize_image(image: Image.Image, recipe: Recipe) -> np.ndarray:
    """Resize to (H, W, C) as the recipe says."""
    method = INTERPOLATIONS[recipe.interpolation]
    goal = (recipe.width, recipe.height)
    width, height = image.size
    if recipe.resize == "crop":
        scale = min(width / recipe.width, height / recipe.height)
        left, top = (width - recipe.width * scale) / 2, (height - recipe.height * scale) / 2
        result = image.resize(goal, method, (left, top, width - left, height - top))
    elif recipe.resize == "pad":
        scale = min(recipe.width / width, recipe.height / height)
        inner = (max(1, round(width * scale)), max(1, round(height * scale)))
        result = Image.new(image.mode, goal, PADDING)
        corner = ((recipe.width - inner[0]) // 2, (recipe.height - inner[1]) // 2)
        result.paste(image.resize(inner, method), corner)
    else:
        result = image.resize(goal, method)
    return np.asarray(result).reshape(recipe.height, recipe.width, recipe.channels)
