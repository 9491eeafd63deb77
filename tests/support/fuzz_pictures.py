"""Image files: randomly damaged ones, unusual but valid ones, and false headers."""

from __future__ import annotations

import io
import resource
import struct
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
from hypothesis import strategies as st
from PIL import Image

from convlens.data.pixels.decode import INTERPOLATIONS, RESIZES, Recipe, decode_image
from convlens.data.pixels.load import pillow_settings
from support.fuzz_surface import (
    Surface,
    expect,
    judged,
    mutated,
    mutations,
    png_checksums_right,
    silent,
)

# What decoding one file may add to the process: 716 MB are MAX_PIXELS as Pillow has them, a
# conversion needs them twice.
MEGABYTES = 1500


def _encoded(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _orientation(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = value
    exif[0x010E] = "described"
    return exif


def seeds() -> dict[str, bytes]:
    """Return a valid image file of every common kind."""
    rng = np.random.default_rng(0)
    colour = Image.fromarray(rng.integers(0, 256, (24, 31, 3), dtype=np.uint8))
    grey, palette, alpha = colour.convert("L"), colour.quantize(16), colour.convert("RGBA")
    alpha.putalpha(grey)
    wide = Image.fromarray(rng.integers(0, 65536, (24, 31)).astype(np.uint16))
    frames = [colour, colour.rotate(90), grey.convert("RGB")]
    moving = {"save_all": True, "append_images": frames[1:]}
    return {
        "jpeg": _encoded(colour, "JPEG", exif=_orientation(6)),
        "jpeg_progressive": _encoded(colour, "JPEG", progressive=True, icc_profile=b"\0" * 200),
        "jpeg_grey": _encoded(grey, "JPEG", comment=b"hello"),
        "jpeg_cmyk": _encoded(colour.convert("CMYK"), "JPEG"),
        "png": _encoded(colour, "PNG", exif=_orientation(8)),
        "png_alpha": _encoded(alpha, "PNG"),
        "png_palette": _encoded(palette, "PNG", transparency=3),
        "png_16": _encoded(wide, "PNG"),
        "png_1": _encoded(colour.convert("1"), "PNG"),
        "apng": _encoded(colour, "PNG", **moving),
        "gif": _encoded(palette, "GIF"),
        "gif_moving": _encoded(frames[0], "GIF", **moving),
        "webp": _encoded(alpha, "WEBP"),
        "webp_lossless": _encoded(colour, "WEBP", lossless=True, exif=_orientation(3)),
        "webp_moving": _encoded(frames[0], "WEBP", **moving),
        "bmp": _encoded(colour, "BMP"),
        "bmp_palette": _encoded(palette, "BMP"),
        "tiff": _encoded(colour, "TIFF"),
        "tiff_deflate": _encoded(alpha, "TIFF", compression="tiff_deflate"),
        "tiff_jpeg": _encoded(colour, "TIFF", compression="jpeg"),
        "tiff_lzw_16": _encoded(wide, "TIFF", compression="tiff_lzw"),
        "tiff_pages": _encoded(grey, "TIFF", save_all=True, append_images=[grey]),
        "tiff_lab": _encoded(colour.convert("LAB"), "TIFF"),
        "tiff_float": _encoded(grey.convert("F"), "TIFF"),
    }


SEEDS = seeds()

recipes = st.builds(
    Recipe,
    st.sampled_from((1, 7, 16, 33)), st.sampled_from((1, 16, 50)), st.sampled_from((1, 3)),
    st.sampled_from(RESIZES), st.sampled_from(tuple(INTERPOLATIONS)),
)  # fmt: skip

names = st.sampled_from(sorted(SEEDS))
damaged = st.tuples(st.just("damaged"), names, mutations, names, st.booleans())
whole = st.tuples(
    st.just("whole"), st.sampled_from(("JPEG", "PNG", "BMP", "WEBP", "GIF", "TIFF")),
    st.sampled_from(("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F", "LAB", "YCbCr")),
    st.sampled_from((1, 2, 5, 64, 3000)), st.sampled_from((1, 3, 17, 3000)), st.integers(0, 12),
)  # fmt: skip
lying = st.tuples(
    st.just("lying"), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1),
    st.sampled_from((1, 2, 4, 8, 16, 3)), st.integers(0, 7),
)  # fmt: skip


def file_of(value: tuple) -> bytes:
    """Return the bytes of a drawn image file."""
    match value:
        case ("damaged", name, ops, other, repaired):
            data = mutated(SEEDS[name], ops, SEEDS[other])
            return png_checksums_right(data) if repaired and data[:4] == b"\x89PNG" else data
        case ("whole", kind, mode, width, height, turn):
            image = Image.new("RGB", (width, height), (10, 200, 90))
            try:
                image = image.convert("L").convert(mode) if mode[0] in "IF" else image.convert(mode)
                return _encoded(image, kind, exif=_orientation(turn))
            except (
                OSError,
                ValueError,
                SystemError,
            ):  # this kind of file does not support the mode
                return b""
        case ("lying", width, height, depth, colour):
            head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
            return png(head, zlib.compress(bytes(1000)))
    raise ValueError(value)


def png(head: bytes, body: bytes, more: bytes = b"") -> bytes:
    """Build a PNG from a header, further chunks, and compressed rows."""
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + more + chunk(b"IDAT", body) + chunk(
        b"IEND", b""
    )  # fmt: skip


def chunk(kind: bytes, content: bytes) -> bytes:
    whole = kind + content
    return struct.pack(">I", len(content)) + whole + struct.pack(">I", zlib.crc32(whole))


def start(folder: Path):
    path = folder / "picture"
    with pillow_settings():  # load the readers
        pass
    peak = peak_megabytes()

    def case(value: tuple) -> str:
        recipe, drawn = value
        path.write_bytes(file_of(drawn))

        def work() -> None:
            first = decode_image(path, recipe)
            wanted = (recipe.height, recipe.width, recipe.channels)
            expect(first.shape == wanted and first.dtype == np.uint8, f"{first.shape}")
            expect(np.array_equal(first, decode_image(path, recipe)), "not the same twice")

        with silent(), pillow_settings(), warnings.catch_warnings():
            # as in a run: Pillow's warnings are hidden; any other is a failure
            warnings.filterwarnings("error", module="(?!PIL)")
            # a header may claim up to MAX_PIXELS, which are decoded twice
            outcome = judged(work, 20 if drawn[0] == "lying" else 5)
        grown = peak_megabytes() - peak
        expect(grown < MEGABYTES, f"the process grew by {grown:.0f} MB")
        return outcome

    return case


def peak_megabytes() -> float:
    """Return the peak memory of this process."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (1e6 if sys.platform == "darwin" else 1e3)


SURFACE = Surface(
    "image files", st.tuples(recipes, st.one_of(damaged, damaged, damaged, whole, lying)), start
)
