"""``data.decode=fast``: as Pillow decodes, to one grey level, and only where it gains time."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convlens.core.errors import UserError
from convlens.data.pixels import fast
from convlens.data.pixels.decode import ImageError, Recipe, decode_image, decode_with_size
from convlens.data.pixels.load import pillow_settings
from support.pictures_made import ORIENTATION, photo, saved

pytest.importorskip("torchcodec", reason="make setup installs torchcodec")
PHOTOGRAPHS = Path(__file__).parents[2] / "photographs"
FAST = Recipe(150, 150, decode="fast")
SIZE = (480, 360)  # of an image that is decoded fast


@pytest.fixture
def calls(monkeypatch):
    """The files that torchcodec decodes."""
    seen, decode = [], fast.decode_jpeg
    monkeypatch.setattr(
        fast, "decode_jpeg", lambda path, *how: seen.append(path) or decode(path, *how)
    )
    return seen


def both(path: Path, recipe: Recipe = FAST) -> tuple[np.ndarray, np.ndarray]:
    """Decode a file fast and exactly; the original's size must be the same."""
    (quick, size), (exact, true_size) = (
        decode_with_size(path, replace(recipe, decode=how)) for how in ("fast", "exact")
    )
    assert size == true_size and quick.shape == exact.shape and quick.dtype == np.uint8
    return quick.astype(int), exact.astype(int)


@pytest.mark.parametrize(
    "how",
    [
        {}, {"quality": 30}, {"quality": 100, "subsampling": 0}, {"subsampling": 1},
        {"progressive": True}, {"optimize": True}, {"keep_rgb": True},
    ],
    ids=str,
)  # fmt: skip
def test_pixels_are_at_most_one_grey_level_off(tmp_path, calls, how):
    for seed, goal in enumerate([(150, 150), (96, 224), (360, 480), (500, 700)]):
        path = saved(tmp_path / f"{seed}.jpg", photo(*SIZE, seed), **how)
        quick, exact = both(path, Recipe(*goal))
        assert abs(quick - exact).max() <= 1 and abs(quick - exact).mean() < 0.05
    assert len(calls) == 4


@pytest.mark.parametrize("name", ["cat.jpg", "coffee.jpg"])
def test_a_photograph_is_at_most_one_grey_level_off(name, tmp_path, calls):
    image = Image.open(PHOTOGRAPHS / name).convert("RGB").resize((800, 600))
    quick, exact = both(saved(tmp_path / name, image, quality=90))
    assert abs(quick - exact).max() <= 1 and calls


@pytest.mark.parametrize("how", [{}, {"progressive": True}, {"subsampling": 0}], ids=str)
def test_unscaled_pixels_equal_those_of_pillow(tmp_path, how):
    path = saved(tmp_path / "a.jpg", photo(501, 333), **how)
    found = fast.decode_jpeg(path, 333, 501)
    np.testing.assert_array_equal(found, np.asarray(Image.open(path)))


@pytest.mark.parametrize(
    ("name", "image", "options"),
    [
        ("small.jpg", photo(200, 150), {}),
        ("large.jpg", photo(1000, 900), {}),
        ("grey.jpg", photo(*SIZE).convert("L"), {}),
        ("cmyk.jpg", photo(*SIZE).convert("CMYK"), {}),
        ("rgb.png", photo(*SIZE), {}),
        ("rgb.webp", photo(*SIZE), {}),
    ],
)
def test_all_other_files_are_decoded_exactly(tmp_path, calls, name, image, options):
    quick, exact = both(saved(tmp_path / name, image, **options))
    assert (quick == exact).all() and not calls


@pytest.mark.parametrize(
    "values",
    [
        {"resize": "crop"},
        {"resize": "pad"},
        {"channels": 1},
        {"interpolation": "nearest"},
        {"interpolation": "bicubic"},
    ],
    ids=str,
)
def test_all_other_recipes_are_decoded_exactly(tmp_path, calls, values):
    quick, exact = both(saved(tmp_path / "a.jpg", photo(*SIZE)), replace(FAST, **values))
    assert (quick == exact).all() and not calls


@pytest.mark.parametrize("orientation", range(9))
def test_a_turned_photograph_is_upright(tmp_path, calls, orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    quick, exact = both(saved(tmp_path / "a.jpg", photo(*SIZE), exif=exif))
    assert abs(quick - exact).max() <= 1 and bool(calls) == (orientation in (0, 1))


def test_a_truncated_file_is_refused_as_always(tmp_path, calls):
    stream = io.BytesIO()
    photo(*SIZE).save(stream, "JPEG")
    whole, path = stream.getvalue(), tmp_path / "a.jpg"
    for end in [*range(20, len(whole) - 2, len(whole) // 40), len(whole) - 2, len(whole) - 1]:
        path.write_bytes(whole[:end])
        results = []
        for how in ("exact", "fast"):
            try:
                results.append(decode_image(path, replace(FAST, decode=how)).astype(int))
            except ImageError as error:
                results.append(error.reason)
        exact, quick = results
        if isinstance(exact, str):
            assert quick == exact
        else:
            assert abs(quick - exact).max() <= 1
    assert calls


def test_a_size_above_the_limit_is_refused_before_it_is_decoded(tmp_path, calls):
    path = saved(tmp_path / "a.jpg", photo(*SIZE))
    data = path.read_bytes()
    place = data.index(b"\xff\xc0") + 5  # height and width in the start of frame
    path.write_bytes(data[:place] + b"\xff\xff\xff\xff" + data[place + 4 :])
    with pillow_settings(), pytest.raises(ImageError, match="65535x65535 pixels are more than"):
        decode_image(path, FAST)
    assert not calls


def test_only_fast_decoding_has_caches_of_its_own():
    exact = Recipe(150, 150)
    assert "decode" not in exact.key()  # as before the key existed
    assert FAST.key().items() > exact.key().items()
    assert {"decode", "torchcodec", "torch"} == FAST.key().keys() - exact.key().keys()


def test_without_torchcodec_the_key_is_refused_in_a_line(monkeypatch):
    monkeypatch.setattr(fast, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"data.decode=fast needs torchcodec: install it with .*"):
        Recipe(150, 150, decode="fast")
    Recipe(150, 150)
