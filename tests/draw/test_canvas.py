"""The pieces of panels: conversion, resizing, tiling, colour, lettering, files."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image
from PIL.JpegImagePlugin import get_sampling

from convlens.draw import text
from convlens.draw.canvas import (
    PAD,
    Label,
    add_title,
    hstack,
    text_band,
    tile,
    vstack,
    write_labels,
)
from convlens.draw.colour import colour_bar, colour_table, colourise, format_number
from convlens.draw.jpeg import encode_jpeg, encode_png
from convlens.draw.palette import BACKGROUND
from convlens.draw.photograph import overlay_map
from convlens.draw.picture import compute_legible_size, resize, to_uint8
from support.places import ROOT

NAMES = [
    "dog",
    "Größe é",
    "狗",
    "🐶" * 3,
    "<b>bold</b>&amp;",
    "$x_1$",
    "x" * 200,
    "",
    "a\nb\t\x00c",
]
NAMES += ["\ud800 lone", "שלום עולם", "مرحبا", "many words " * 30, "e\u0301", "\u202e turned"]


def random_image(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def assert_margin_is_empty(image: np.ndarray, margin: int = PAD - 2) -> None:
    """Nothing is cut off: all around the panel there is background only."""
    background = np.array(BACKGROUND)
    for edge in (image[:margin], image[-margin:], image[:, :margin], image[:, -margin:]):
        assert (edge == background).all()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", ["float", "half", "bfloat16", "uint8", "numpy", "numpy uint8"])
def test_a_picture_of_any_kind_becomes_the_same_image(channels, kind):
    levels = np.arange(channels * 20, dtype=np.uint8).reshape(channels, 4, 5) * 4
    floats = torch.from_numpy(levels / 255.0).float()
    picture = {
        "float": floats.requires_grad_(),
        "half": floats.half(),
        "bfloat16": floats.bfloat16(),
        "uint8": torch.from_numpy(levels),
        "numpy": floats.detach().numpy().astype(np.float64),
        "numpy uint8": levels,
    }[kind]
    image = to_uint8(picture)
    expected = np.moveaxis(np.broadcast_to(levels, (3, 4, 5)), 0, 2).astype(int)
    assert image.dtype == np.uint8 and image.shape == (4, 5, 3)
    assert np.abs(image.astype(int) - expected).max() <= (1 if kind == "bfloat16" else 0)


def test_values_outside_the_range_are_clipped_and_nan_is_black():
    image = to_uint8(torch.tensor([[[-1.0, 2.0, float("nan"), float("inf")]]]))
    assert image[0, :, 0].tolist() == [0, 255, 0, 255]


@pytest.mark.parametrize("shape", [(2, 4, 4), (4, 4, 3), (1, 3, 4, 4), (5,), (3, 0, 4)])
def test_a_shape_that_is_no_picture_is_refused(shape):
    with pytest.raises(ValueError, match="an image must be"):
        to_uint8(np.zeros(shape, np.float32))


def test_integers_other_than_uint8_are_refused():
    with pytest.raises(ValueError, match="int64"):
        to_uint8(torch.zeros(1, 2, 2, dtype=torch.int64))


@pytest.mark.parametrize("factor", [1, 2, 7])
def test_nearest_by_a_whole_factor_repeats_pixels(factor):
    image = random_image(5, 3)
    larger = resize(image, (5 * factor, 3 * factor))
    assert (larger == image.repeat(factor, 0).repeat(factor, 1)).all()


def test_bilinear_is_torchs_bilinear():
    values = np.random.default_rng(0).random((7, 9)).astype(np.float32)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(values)[None, None], (40, 52), mode="bilinear", align_corners=False
    )[0, 0]
    assert np.abs(resize(values, (40, 52), "bilinear") - expected.numpy()).max() < 1e-5


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        ((28, 28), (168, 168)),
        ((64, 64), (192, 192)),
        ((150, 150), (150, 150)),
        ((299, 299), (299, 299)),
        ((640, 480), (320, 240)),
        ((1, 1), (144, 144)),
    ],
)
def test_small_pictures_grow_by_a_whole_factor_and_large_ones_shrink(size, shown):
    assert compute_legible_size(*size) == shown


def test_stacks_and_tiles_put_images_where_they_belong():
    first, second, third = random_image(4, 6), random_image(2, 3, 1), random_image(3, 5, 2)
    row, column = hstack([first, second], gap=2), vstack([first, second], gap=2)
    assert row.shape == (4, 11, 3) and (row[:2, 8:] == second).all()
    assert column.shape == (8, 6, 3) and (column[6:, :3] == second).all()
    assert (row[2:, 8:] == BACKGROUND).all() and (row[:, 6:8] == BACKGROUND).all()
    tiled = tile([first, second, third], columns=2, pad=1)
    assert tiled.shape == (9, 13, 3)
    assert (tiled[5:8, :5] == third).all() and (tiled[5:, 7:] == BACKGROUND).all()
    with pytest.raises(ValueError, match="empty"):
        hstack([])
    with pytest.raises(ValueError, match="tile"):
        tile([], 3)


@pytest.mark.parametrize("name", NAMES)
def test_any_title_stays_inside_the_canvas_and_leaves_the_image_alone(name):
    image = random_image(30, 40)
    for subtitle, alert in ((None, None), (name, name)):
        panel = add_title(image, name, subtitle, alert=alert)
        assert (panel[-PAD - 30 : -PAD, PAD : PAD + 40] == image).all()
        assert_margin_is_empty(panel)


@pytest.mark.parametrize("width", [1, 5, 20, 60, 300])
@pytest.mark.parametrize("name", NAMES)
def test_shortened_and_wrapped_text_fits(name, width):
    for bold in (False, True):
        short = text.shorten(name, width, text.BODY, bold)
        assert not short or text.text_width(short, text.BODY, bold) <= width
        lines = text.wrap(name, width, text.BODY, bold, most=2)
        assert len(lines) <= 2
        assert all(not x or text.text_width(x, text.BODY, bold) <= width for x in lines)
    band = text_band(width, name, name, size=text.BODY)
    assert band.shape == (2 * text.line_height(), width, 3)


def test_text_that_fits_is_left_as_it_is_and_other_text_says_that_it_was_cut():
    assert text.shorten("golden retriever", 200) == "golden retriever"
    assert text.shorten("golden retriever", 60).endswith("…")
    assert text.wrap("golden retriever", 70) == ["golden", "retriever"]
    assert text.wrap("one two three four five six", 40, most=2)[-1].endswith("…")


def test_characters_without_a_glyph_stay_distinguishable():
    assert text.printable("狗") == "\\u72d7" != text.printable("猫")
    assert text.printable("é\n\x07ü") == "é ü"


def test_letters_lie_within_the_measured_width():
    for name in ("fjord", "WWW", "dog 0.93, predicted", "(j|Q)"):
        width = text.text_width(name)
        band = write_labels(np.full((30, width + 40, 3), 255, np.uint8), [Label(20, 15, name)])
        inked = np.flatnonzero((band != 255).any(axis=(0, 2)))
        assert inked.min() >= 19 and inked.max() <= 20 + width


def test_band_text_is_visible():
    for centre in (False, True):
        assert text_band(200, "hello", centre=centre).std() > 5


def test_colours_come_from_the_table_and_nan_is_grey():
    values = np.array([[0.0, 0.5, 1.0, 2.0, -1.0, np.nan]])
    colours = colourise(values, "viridis")
    expected = matplotlib.colormaps["viridis"]([0.0, 128 / 255, 1.0, 1.0, 0.0], bytes=True)
    assert (colours[0, :5] == expected[:, :3]).all()
    assert len(set(colours[0, 5].tolist())) <= 3 and colours.dtype == np.uint8
    assert (colourise(torch.full((2, 2), 3.0), "viridis", 3, 3) == colour_table("viridis")[0]).all()
    assert (colourise(torch.full((2, 2), 6.0), low=4, high=8) == colour_table("viridis")[128]).all()


def test_the_bar_runs_through_the_table_and_gives_way_to_its_words():
    bar = colour_bar(200, "0", "1")
    row = bar[bar.shape[0] // 2]
    assert (row == colour_table("viridis")[0]).all(1).any() and (
        row == colour_table("viridis")[255]
    ).all(1).any()
    assert colour_bar(70, "-1.23e-05", "1.23e+06").shape[1] == 70
    assert format_number(0) == "0" and format_number(0.12345) == "0.123"


@pytest.mark.parametrize("shape", [(1, 1), (16, 16), (37, 121)])
def test_files_decode_to_the_same_size_and_nearly_the_same_pixels(shape):
    y, x = np.mgrid[: shape[0], : shape[1]]
    smooth = np.stack([x % 200 + 20, y % 200 + 20, (x + y) % 200 + 20], -1).astype(np.uint8)
    from_png = np.asarray(Image.open(io.BytesIO(encode_png(smooth))))
    assert (from_png == smooth).all()
    decoded = np.asarray(Image.open(io.BytesIO(encode_jpeg(smooth))).convert("RGB"))
    assert decoded.shape == smooth.shape
    assert np.abs(decoded.astype(int) - smooth).mean() < 3


def test_thin_red_lines_survive_the_jpeg():
    image = np.full((40, 40, 3), 68, np.uint8)
    image[:, 20] = (214, 40, 57)
    decoded = np.asarray(Image.open(io.BytesIO(encode_jpeg(image))).convert("RGB")).astype(int)
    assert (decoded[:, 20, 0] - decoded[:, 20, 1] > 120).all()
    assert (np.abs(decoded[:, 15, 0] - decoded[:, 15, 1]) < 30).all()


@pytest.mark.parametrize("name", ["cat", "coffee"])
def test_photographs_keep_their_looks_in_fewer_bytes(name):
    """Under smooth heat, colour at half the resolution is nearly the same; cells need all of it."""
    with Image.open(ROOT / "tests" / "photographs" / f"{name}.jpg") as opened:
        picture = np.asarray(opened.convert("RGB").resize((320, 240)))
    rng = np.random.default_rng(0)
    heat = overlay_map(picture, rng.random((7, 7)), high=1.0)
    cells = overlay_map(picture, rng.random((70, 70)), high=1.0, pixelated=True)

    def differ(image, **more) -> tuple[int, float, int]:
        encoded = encode_jpeg(image, **more)
        opened = Image.open(io.BytesIO(encoded))
        error = np.abs(np.asarray(opened.convert("RGB")).astype(int) - image).mean()
        return len(encoded), error, get_sampling(opened)

    (whole, error, full), (small, less, half) = differ(heat), differ(heat, photographs=True)
    assert (full, half) == (0, 2) and small < 0.85 * whole
    assert error < 3 and less < 4
    assert differ(cells, photographs=True)[1] > 1.3 * differ(cells)[1]


def test_only_images_are_encoded():
    for wrong in (np.zeros((4, 4)), np.zeros((4, 4, 3)), np.zeros((4, 4, 4), np.uint8)):
        with pytest.raises(ValueError, match="uint8"):
            encode_jpeg(wrong)


def test_importing_draw_loads_neither_matplotlib_nor_torch_nor_another_room():
    modules = [f"convlens.draw.{file.stem}" for file in Path(text.__file__).parent.glob("*.py")]
    code = "import sys\n" + "\n".join(f"import {name}" for name in modules)
    code += "\nloaded = {m.split('.')[0] for m in sys.modules}"
    code += "\nassert not loaded & {'torch', 'matplotlib', 'lightning', 'hydra'}, loaded"
    code += "\nrooms = {m.split('.')[1] for m in sys.modules if m.startswith('convlens.')}"
    code += "\nassert rooms <= {'draw', 'core'}, rooms"
    subprocess.run([sys.executable, "-c", code], check=True)
