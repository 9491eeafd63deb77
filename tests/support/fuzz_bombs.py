"""Decompression bombs: small files that claim or contain gigabytes."""

from __future__ import annotations

import functools
import io
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path

from hypothesis import strategies as st
from PIL import Image

from convlens.data.pixels.decode import MAX_PIXELS, MAX_SIDE, Recipe, decode_image
from convlens.data.pixels.load import pillow_settings
from support import fuzz_pictures
from support.fuzz_pictures import chunk, peak_megabytes, png
from support.fuzz_surface import REFUSED, Surface, expect, judged, silent

SMALL = 120  # MB that a refused bomb may add to the process


def _header(width: int, height: int, depth: int = 8, colour: int = 2) -> bytes:
    return struct.pack(">IIBBBBB", width & 0xFFFFFFFF, height & 0xFFFFFFFF, depth, colour, 0, 0, 0)


@functools.cache
def _zeros(megabytes: int) -> bytes:
    packed, block = zlib.compressobj(9), bytes(1 << 20)
    return b"".join(packed.compress(block) for _ in range(megabytes)) + packed.flush()


def png_claims(width: int, height: int) -> bytes:
    return png(_header(width, height), _zeros(1))


def jpeg_claims(width: int, height: int) -> bytes:
    data = bytearray(fuzz_pictures.SEEDS["jpeg"])
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", height & 0xFFFF, width & 0xFFFF)
    return bytes(data)


def gif_claims(width: int, height: int) -> bytes:
    data = bytearray(fuzz_pictures.SEEDS["gif"])
    data[6:10] = struct.pack("<HH", width & 0xFFFF, height & 0xFFFF)
    return bytes(data)


def webp_claims(width: int, height: int) -> bytes:
    bits = (width - 1 & 0x3FFF) | (height - 1 & 0x3FFF) << 14
    body = b"VP8L" + struct.pack("<I", 5) + b"\x2f" + struct.pack("<I", bits) + b"\0"
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def bmp_claims(width: int, height: int) -> bytes:
    data = bytearray(fuzz_pictures.SEEDS["bmp"])
    data[18:26] = struct.pack("<II", width & 0x7FFFFFFF, height & 0x7FFFFFFF)
    return bytes(data)


def tiff_claims(width: int, height: int) -> bytes:
    data = bytearray(fuzz_pictures.SEEDS["tiff_deflate"])
    (at,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, at)
    for entry in range(at + 2, at + 2 + 12 * count, 12):
        (tag,) = struct.unpack_from("<H", data, entry)
        if tag in (256, 257):
            value = (width, height)[tag - 256] & 0xFFFFFFFF
            data[entry + 2 : entry + 12] = struct.pack("<HII", 4, 1, value)
    return bytes(data)


def png_metadata(kind: bytes, megabytes: int) -> bytes:
    """Return a PNG of one pixel with a chunk that unpacks to megabytes."""
    packed = _zeros(megabytes)
    content = {
        b"zTXt": b"Comment\0\0" + packed,
        b"iCCP": b"profile\0\0" + packed,
        b"iTXt": b"Comment\0\1\0\0\0" + packed,
        b"eXIf": b"MM\0*" + bytes(1 << 20),
    }[kind]
    rows = zlib.compress(bytes(4))
    return png(_header(1, 1), rows, chunk(kind, content))


def many_frames(count: int) -> bytes:
    """Return a GIF whose first frame is repeated."""
    file = io.BytesIO()
    Image.new("P", (64, 64)).save(file, "GIF")
    data = file.getvalue()
    start = data.index(b",")
    return data[:start] + data[start:-1] * count + b";"


def many_scans(width: int, height: int, count: int) -> bytes:
    """Return a progressive JPEG whose last scan, over all pixels, is repeated."""
    file = io.BytesIO()
    Image.new("L", (64, 64)).save(file, "JPEG", progressive=True)
    data = bytearray(file.getvalue())
    at = data.index(b"\xff\xc2") + 5
    data[at : at + 4] = struct.pack(">HH", height, width)
    first = data.rindex(b"\xff\xda")
    last = bytes(data[first:-2])
    return bytes(data[:-2]) + last * count + b"\xff\xd9"


CLAIMS: dict[str, Callable[[int, int], bytes]] = {
    "png": png_claims, "jpeg": jpeg_claims, "gif": gif_claims, "webp": webp_claims,
    "bmp": bmp_claims, "tiff": tiff_claims,
}  # fmt: skip
# sizes above the limits, by pixels or by a side
huge = st.one_of(
    st.tuples(st.integers(20_000, 2**32 - 1), st.integers(20_000, 2**32 - 1)),
    st.tuples(st.integers(MAX_SIDE + 1, 2**31), st.integers(1, 4)),
    st.tuples(st.integers(1, 4), st.integers(MAX_SIDE + 1, 2**31)),
)  # fmt: skip
sizes = st.tuples(st.just("claims"), st.sampled_from(sorted(CLAIMS)), huge)
chunks = st.tuples(
    st.just("metadata"), st.sampled_from((b"zTXt", b"iCCP", b"iTXt", b"eXIf")), st.integers(1, 40)
)
frames = st.tuples(st.just("frames"), st.integers(1, 3000), st.just(0))
scans = st.tuples(st.just("scans"), st.integers(1, 2000), st.sampled_from((64, 4000, 13000)))


def file_of(value: tuple) -> bytes:
    match value:
        case ("claims", kind, (width, height)):
            return CLAIMS[kind](width, height)
        case ("metadata", kind, megabytes):
            return png_metadata(kind, megabytes)
        case ("frames", count, _):
            return many_frames(count)
        case ("scans", count, side):
            return many_scans(side, side, count if side < 1000 else max(count, 101))
    raise ValueError(value)


def too_large(content: bytes) -> bool:
    """Return whether the header, read by another reader, exceeds the limits."""
    with pillow_settings():
        try:
            with Image.open(io.BytesIO(content)) as image:
                width, height = image.size
        except Exception:
            return False
    return width * height > MAX_PIXELS or max(width, height) > MAX_SIDE


def start(folder: Path):
    path = folder / "bomb"

    def case(value: tuple) -> str:
        content = file_of(value)
        path.write_bytes(content)
        peak, began = peak_megabytes(), time.perf_counter()
        with silent(), pillow_settings():
            # a claim within the limits is decoded: up to 179 million pixels
            outcome = judged(lambda: decode_image(path, Recipe(16, 16)), 20)
        seconds, grown = time.perf_counter() - began, peak_megabytes() - peak
        expect(grown < fuzz_pictures.MEGABYTES, f"the process grew by {grown:.0f} MB")
        # the other reader comes last: for a WebP file it allocates two images
        if too_large(content):
            expect(seconds < 2, f"refused after {seconds:.1f} s")
            expect(outcome == REFUSED, "above the limit and not refused")
            expect(grown < SMALL, f"refused, but the process grew by {grown:.0f} MB")
        return outcome

    return case


SURFACE = Surface(
    "decompression bombs", st.one_of(sizes, sizes, sizes, chunks, frames, scans), start, 60
)
