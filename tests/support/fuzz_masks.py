"""Masks of images: PNG files and Pascal VOC's XML, damaged or made to expand."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from convlens.data.pixels.load import pillow_settings
from support.fuzz_pictures import SEEDS, chunk, peak_megabytes
from support.fuzz_surface import (
    Surface,
    expect,
    judged,
    mutated,
    mutations,
    png_checksums_right,
    silent,
)
from support.masks_made import own_masks

MEGABYTES = 300
XML = (
    b"<annotation><size><width>31</width><height>24</height></size><object><name>cat</name>"
    b"<bndbox><xmin>2</xmin><ymin>3</ymin><xmax>20</xmax><ymax>20</ymax></bndbox></object>"
    b"</annotation>"
)
NUMBERS = (b"-1", b"0", b"1e400", b"nan", b"inf", b"1e9", b"", b"x", b"9" * 500, b"0x10", b"2,5")
WHOLE = (
    b'<!DOCTYPE a [<!ENTITY x "xxxx">]><annotation>&x;</annotation>',
    b'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotation>&x;</annotation>',
    b"<annotation>" + b"<object>" * 20_000, b"<a" * 1000, b"", b"<annotation/>", b"\xff\xfe<\0a\0",
    b'<?xml version="1.0" encoding="x-none"?>' + XML, XML * 2, XML.replace(b"31", b"99999999"),
)  # fmt: skip

xml = st.tuples(st.just("xml"), mutations)
number = st.tuples(
    st.just("number"), st.sampled_from((b"2", b"3", b"20", b"31", b"24")), st.sampled_from(NUMBERS)
)
whole = st.tuples(st.just("whole"), st.sampled_from(WHOLE))
drawn = st.tuples(
    st.just("drawn"), st.sampled_from(("png", "png_alpha", "png_palette", "png_16", "png_1")),
    mutations, st.booleans(),
)  # fmt: skip
intact = st.tuples(st.just("drawn"), st.sampled_from(("png", "png_1")), st.just([]), st.just(False))
ways = st.sampled_from(("squash", "crop", "pad"))


def start(folder: Path):
    picture = folder / "picture.png"
    picture.write_bytes(SEEDS["png_alpha"])
    with pillow_settings():
        pass
    peak = peak_megabytes()

    def file_of(value: tuple) -> tuple[str, bytes]:
        match value:
            case ("xml", ops):
                return ".xml", mutated(XML, ops, XML)
            case ("number", old, new):
                return ".xml", XML.replace(b">" + old + b"<", b">" + new + b"<")
            case ("whole", content):
                return ".xml", content
            case ("drawn", name, ops, repaired):
                data = mutated(SEEDS[name], ops, chunk(b"tRNS", b"\0" * 6))
                return ".png", png_checksums_right(data) if repaired else data
        raise ValueError(value)

    def case(value: tuple) -> str:
        resize, chosen = value
        suffix, content = file_of(chosen)
        mask = folder / f"mask{suffix}"
        mask.write_bytes(content)

        def work() -> None:
            with contextlib.redirect_stderr(io.StringIO()):  # its two lines of progress
                read = own_masks([picture], [mask], size=16, resize=resize)
            expect(read.masks.shape == (1, 16, 16) and read.masks.dtype == np.bool_, "no mask")

        with silent():
            outcome = judged(work)
        grown = peak_megabytes() - peak
        expect(grown < MEGABYTES, f"the process grew by {grown:.0f} MB")
        return outcome

    return case


SURFACE = Surface(
    "masks", st.tuples(ways, st.one_of(xml, number, whole, drawn, intact)), start, 100
)
