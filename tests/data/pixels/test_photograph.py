"""Photographs of image files: at their own proportions, with the part that the network sees."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from convlens.core.photograph import WHOLE
from convlens.data.pixels.decode import ImageError, Recipe, convert_image, decode_image
from convlens.data.pixels.load import pillow_settings
from convlens.data.pixels.photograph import (
    convert_photograph,
    make_photograph,
    read_photograph,
    read_photographs,
)
from support.pictures_made import photo

SIZES = [(300, 200), (200, 300), (1000, 400), (400, 1000), (50, 30), (1, 1), (7, 900)]


def save(folder: Path, image: Image.Image, name: str = "image.png", **options) -> Path:
    image.save(folder / name, **options)
    return folder / name


def read(path: Path, recipe: Recipe):
    with pillow_settings():
        return read_photograph(path, recipe)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("resize", ["squash", "crop"])
def test_proportions_are_kept_and_small_images_stay_as_they_are(tmp_path, size, resize):
    image = photo(*size)
    found = read(save(tmp_path, image), Recipe(64, 64, resize=resize))
    shrink = min(1, 640 / max(size))
    goal = tuple(max(1, round(side * shrink)) for side in size)
    theirs = np.asarray(image.resize(goal, Image.Resampling.BILINEAR)) if shrink < 1 else image
    assert (found.picture == np.asarray(theirs)).all() and found.picture.dtype == np.uint8
    verb = {"squash": "squashed", "crop": "cropped"}[resize]
    assert found.seen == f"{size[0]}×{size[1]} {verb} to 64×64"


def test_an_image_of_the_networks_size_is_seen_as_it_is(tmp_path):
    found = read(save(tmp_path, photo(40, 30)), Recipe(30, 40))
    assert found.seen == "" and found.frame == WHOLE


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["image.jpg", "image.tiff"])
def test_photographs_are_upright(tmp_path, orientation, name):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path, photo(60, 40), name, exif=exif)
    found = read(path, Recipe(32, 32, resize="crop"))
    turns = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}  # EXIF's meaning as Pillow's transpositions
    upright = Image.open(path).convert("RGB") if name.endswith("jpg") else photo(60, 40)
    if orientation in turns:
        upright = upright.transpose(Image.Transpose(turns[orientation]))
    assert (found.picture == np.asarray(upright)).all()
    lies = orientation < 5
    assert found.seen.startswith("60×40" if lies else "40×60")
    assert found.frame == pytest.approx((1 / 6, 0, 5 / 6, 1) if lies else (0, 1 / 6, 1, 5 / 6))


@pytest.mark.parametrize("size", [(300, 200), (200, 300), (640, 100), (64, 64), (90, 33)])
@pytest.mark.parametrize("goal", [(32, 32), (32, 64), (64, 32)])
def test_the_frame_of_a_crop_is_what_the_network_gets(tmp_path, size, goal):
    """Cut out by Pillow and resized, it is the network's image."""
    recipe = Recipe(*goal, resize="crop")
    image = photo(*size)
    path = save(tmp_path, image)
    found = read(path, recipe)
    left, top, right, bottom = found.frame
    box = (left * size[0], top * size[1], right * size[0], bottom * size[1])
    cut = image.resize(goal[::-1], Image.Resampling.BILINEAR, box)
    seen = convert_image(Image.open(path), recipe)
    assert np.abs(np.asarray(cut).astype(int) - seen).max() <= 1
    shown = found.picture.shape
    aspect = (right - left) * shown[1] / ((bottom - top) * shown[0])
    assert aspect == pytest.approx(goal[1] / goal[0], rel=0.02)


@pytest.mark.parametrize("size", [(300, 200), (200, 300), (900, 100), (64, 64)])
@pytest.mark.parametrize("goal", [(32, 32), (32, 64)])
def test_padding_is_part_of_the_picture(tmp_path, size, goal):
    path = save(tmp_path, Image.new("RGB", size, (200, 100, 50)))
    found = read(path, Recipe(*goal, resize="pad"))
    assert found.frame == WHOLE
    height, width = found.picture.shape[:2]
    assert width / height == pytest.approx(goal[1] / goal[0], rel=0.02)
    # the bars are where the network gets them
    seen = decode_image(path, Recipe(*goal, resize="pad"))
    shares = [(image == 0).all(-1).mean() for image in (found.picture, seen)]
    assert shares[0] == pytest.approx(shares[1], abs=0.04)
    assert (found.picture[height // 2, width // 2] == (200, 100, 50)).all()
    if size != (64, 64):
        assert f"padded to {goal[1]}×{goal[0]}" in found.seen


def test_grey_networks_get_grey_photographs(tmp_path):
    image = photo(60, 40)
    found = read(save(tmp_path, image), Recipe(28, 28, channels=1))
    grey = np.asarray(image.convert("L"))
    assert found.picture.shape == (40, 60, 3) and (found.picture == grey[..., None]).all()


def test_images_of_pillow_give_what_their_files_give(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    recipe = Recipe(64, 64, resize="crop")
    for name, options in (("a.png", {}), ("b.jpg", {"exif": exif}), ("c.tiff", {"exif": exif})):
        path = save(tmp_path, photo(90, 60), name, **options)
        pixels, found = convert_photograph(Image.open(path), recipe)
        from_file = read(path, recipe)
        assert (pixels == decode_image(path, recipe)).all(), name
        assert (found.picture == from_file.picture).all(), name
        assert (found.frame, found.seen) == (from_file.frame, from_file.seen), name


def test_large_photographs_are_shown_sharply(tmp_path):
    """A JPEG that the network's image needs at a lower resolution only has pixels enough."""
    path = save(tmp_path, photo(4000, 3000), "large.jpg")
    _, found = convert_photograph(Image.open(path), Recipe(224, 224))
    assert found.picture.shape == (480, 640, 3) and "4000×3000" in found.seen
    whole = Image.open(path).resize((640, 480), Image.Resampling.BILINEAR)
    assert np.abs(np.asarray(whole).astype(int) - found.picture).mean() < 1


def test_a_file_that_broke_is_shown_as_the_network_got_it(tmp_path, caplog):
    good, broken = save(tmp_path, photo(60, 40), "good.png"), tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    found = read_photographs([good, broken], images, Recipe(16, 16))
    assert found[0].picture.shape == (40, 60, 3)
    assert (found[1].picture == make_photograph(images[1]).picture).all()
    assert "broken.png" in caplog.text and "as the network gets it" in caplog.text
    with pytest.raises(ImageError, match=r"broken\.png"):
        read(broken, Recipe(16, 16))


def test_tensors_become_photographs_of_the_same_pixels():
    image = torch.tensor([[[0.0, 1.0], [0.5, float("nan")]]])
    found = make_photograph(image)
    assert found.picture.tolist() == [[[0] * 3, [255] * 3], [[128] * 3, [0] * 3]]
    assert found.frame == WHOLE and found.seen == ""
