"""One image file to one uint8 array.

Legend: H height, W width, C channels (1 grey, 3 RGB).

What a file means is settled here, once: EXIF orientation is applied; CMYK and the like become RGB;
16-bit grey is scaled to 8 bits; what is transparent shows a background (white by default); of
animations the first frame counts. Damaged files are errors that name the file, never grey images.
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

VERSION = 1  # of the pixels a file gives: raise it when decoding changes, and caches are rebuilt
RESIZES = ("squash", "crop", "pad")
INTERPOLATIONS = {
    "bilinear": Image.Resampling.BILINEAR,
    "nearest": Image.Resampling.NEAREST,
    "bicubic": Image.Resampling.BICUBIC,
}
# Pillow's own bound for refusing decompression bombs: 179 million pixels, 716 MB as Pillow has RGB.
MAX_PIXELS = 178_956_970
# The longest side that a JPEG or GIF can have. A PNG of 1x100,000,000 pixels is a kilobyte on disk,
# and its table of rows and resizing it take gigabytes.
MAX_SIDE = 65_535
# Scans of a JPEG: a progressive one has about ten. Each goes over all pixels again, whatever it
# holds: hundreds of empty ones in a small file keep a processor busy for minutes.
MAX_SCANS = 100
# Above this many pixels one image is decoded at a time, so that threads do not add up gigabytes.
LARGE = 1 << 24
_ONE_LARGE = threading.Lock()
ORIENTATION = 0x0112  # EXIF tag: 1 as it lies, 2 to 4 mirrored or upside down, 5 to 8 on its side
BACKGROUND, PADDING = 255, 0  # grey levels: under transparent images, around padded ones
_STRIP = 1 << 22  # pixels that are converted at a time where a conversion needs copies
# Large JPEGs are decoded at 1/2, 1/4 or 1/8, but to no less than this many times the wanted size.
# At 3 the image differs from a full decode by less than one grey level on average (tested).
REDUCING_GAP = 3


class ImageError(UserError):
    """A file that gives no image; ``reason`` says why, without the file's name."""

    def __init__(self, path: Path, reason: str, way_out: str = ""):
        super().__init__(f"cannot read {path}: {reason}{way_out}")
        self.path, self.reason = path, " ".join(reason.split())


@dataclass(frozen=True)
class Recipe:
    """How a file becomes an (H, W, C) array.

    height, width  of the result, in pixels
    channels       1 (ITU-R 601 luma) or 3 (RGB)
    resize         "squash" to the size whatever the proportions; "crop": the largest centred part
                   of the wanted proportions; "pad": the whole image, centred on black
    interpolation  "bilinear", "bicubic" (both antialiased when shrinking) or "nearest" (as Keras
                   loads from folders)
    """

    height: int
    width: int
    channels: int = 3
    resize: str = "squash"
    interpolation: str = "bilinear"

    def __post_init__(self) -> None:
        for key, known in (("resize", RESIZES), ("interpolation", INTERPOLATIONS)):
            value = getattr(self, key)
            if value not in known:
                raise UserError(f"unknown data.{key}={value}: {nearest(value, known)}")
        if self.channels not in (1, 3):
            raise UserError(f"data.channels={self.channels}: choose 1 (grey) or 3 (RGB)")
        if min(self.height, self.width) < 1:
            raise UserError(f"data.size={self.height}x{self.width}: choose at least one pixel")

    def key(self) -> dict[str, object]:
        """All that the pixels of a file hang on."""
        fixed = {"background": BACKGROUND, "padding": PADDING, "max_pixels": MAX_PIXELS}
        return asdict(self) | fixed


def make_recipe(data: DataConfig) -> Recipe:
    """How images come to the network that a config group ``data`` describes."""
    return Recipe(data.size, data.size, data.channels, data.resize, data.interpolation)


def decode_image(path: str | os.PathLike, recipe: Recipe) -> np.ndarray:
    """One file as (H, W, C) uint8. Raises ImageError, naming it, if it gives no image."""
    path = Path(path)
    try:
        with open_image(path) as image:
            _check_scans(path, image)
            large = image.width * image.height > LARGE
            with _ONE_LARGE if large else contextlib.nullcontext():
                return convert_image(image, recipe)
    except MemoryError:
        raise  # the machine's failing, not the file's
    except Exception as error:
        # Pillow's readers raise almost anything on damaged data: OSError, SyntaxError, ValueError,
        # IndexError, struct.error, zlib.error and more. All of them mean this file.
        raise ImageError(path, _reason(path, error)) from None


def open_image(path: str | os.PathLike, formats: Sequence[str] = FORMATS) -> Image.Image:
    """An image file, opened and not decoded: of one of ``formats`` and within the limits.

    Raises:
        ValueError: the header claims too many pixels; nothing was decoded, no room was made.
        Exception: of any kind, from Pillow's readers, where it is no image.
    """
    with open(path, "rb") as file:
        claimed = _webp_size(file.read(30))
    if claimed is not None:
        _check_size(*claimed)
    image = Image.open(path, formats=formats)
    try:
        _check_size(*image.size)
    except ValueError:
        image.close()
        raise
    return image


def read_size_and_orientation(picture: str | os.PathLike) -> tuple[tuple[int, int], int]:
    """((w, h) of the stored pixels, EXIF orientation) of an image file; nothing is decoded.

    Raises ImageError, naming the file, if it gives no image or is above the limits of one.
    """
    try:
        with open_image(picture) as image:
            turn = _orientation(image)
            # Pillow gives a TIFF's size as it will stand, of every other kind as it lies
            upright = image.format == "TIFF" and turn in (5, 6, 7, 8)
            return image.size[::-1] if upright else image.size, turn
    except Exception as error:  # Pillow's readers raise almost anything on damaged data
        raise ImageError(Path(picture), describe_error(error)) from None


def describe_error(error: Exception) -> str:
    """What is wrong with a file, by what reading it raised."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _webp_size(head: bytes) -> tuple[int, int] | None:
    """Width and height by the first 30 bytes of a WebP file; None for any other.

    Pillow makes room for two whole images when it opens one, before it tells the size: two
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
    """Refuse by what the header says, before anything is decoded or room is made (ValueError)."""
    if width * height > MAX_PIXELS:
        raise ValueError(f"{width}x{height} pixels are more than {MAX_PIXELS:,}: shrink it")
    if max(width, height) > MAX_SIDE:
        raise ValueError(f"{width}x{height} pixels: no side may be above {MAX_SIDE:,}: shrink it")


def _check_scans(path: Path, image: Image.Image) -> None:
    """Refuse a JPEG that would be gone over again and again."""
    if image.format != "JPEG" or not image.info.get("progressive"):
        return
    scans = path.read_bytes().count(b"\xff\xda")  # in compressed data 0xff is followed by 0
    if scans > MAX_SCANS:
        raise ValueError(f"it has {scans} scans, above {MAX_SCANS}: save it anew")


def convert_image(image: Image.Image, recipe: Recipe) -> np.ndarray:
    """An image that Pillow has opened or made, as (H, W, C) uint8."""
    if recipe.interpolation != "nearest":  # which picks pixels: all must be there
        goal = REDUCING_GAP * max(recipe.height, recipe.width)
        image.draft(image.mode, (goal, goal))
    image.load()
    return resize_image(_plain(_upright(image), recipe.channels), recipe)


def _reason(path: Path, error: Exception) -> str:
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


def _upright(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation; an image whose EXIF block is garbage is as it lies."""
    return ImageOps.exif_transpose(image) if _orientation(image) not in (0, 1) else image


def _orientation(image: Image.Image) -> int:
    with contextlib.suppress(Exception):  # anything, again; the pixels are fine
        return image.getexif().get(ORIENTATION, 1)
    return 1


def _plain(image: Image.Image, channels: int) -> Image.Image:
    """Mode L or RGB, eight bits, opaque."""
    if image.mode.startswith("I;16"):
        image = _by_strips(image, "L", _eight_bits)
    elif image.mode in ("I", "F"):
        raise ValueError("32 bits a channel have no known range: save it with 8 or 16 bits")
    if image.has_transparency_data:
        image = _by_strips(image, "RGB", _opaque)
    mode = "L" if channels == 1 else "RGB"
    if mode == "L" and image.mode not in ("L", "1", "RGB"):
        image = image.convert("RGB")  # CMYK, LAB … have no direct way to luma
    return image if image.mode == mode else image.convert(mode)


def _by_strips(
    image: Image.Image, mode: str, convert: Callable[[Image.Image], Image.Image]
) -> Image.Image:
    """``convert`` of the whole image, some rows at a time: its copies need little room."""
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


def _eight_bits(image: Image.Image) -> Image.Image:
    wide = np.asarray(image).astype(np.uint32)
    return Image.fromarray(((wide + 128) // 257).astype(np.uint8))  # 65535 -> 255, rounded


def _opaque(image: Image.Image) -> Image.Image:
    below = Image.new("RGBA", image.size, (*(BACKGROUND,) * 3, 255))
    return Image.alpha_composite(below, image.convert("RGBA")).convert("RGB")


def resize_image(image: Image.Image, recipe: Recipe) -> np.ndarray:
    """(H, W, C) by the recipe's way of resizing."""
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
