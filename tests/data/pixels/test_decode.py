"""Decoding: right pixels from every kind of file, damage named in one line."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageFile

from convlens.core.errors import UserError
from convlens.data.index.files import Files
from convlens.data.pixels import decode as decode_module
from convlens.data.pixels import load as load_module
from convlens.data.pixels.decode import ImageError, Recipe
from convlens.data.pixels.load import decode_images
from support.pictures_made import ORIENTATION, made, one, photo, saved

# ---------------------------------------------------------------------------- what a file means


@pytest.mark.parametrize("interpolation", ["bilinear", "nearest", "bicubic"])
@pytest.mark.parametrize("channels", [1, 3])
def test_equal_to_plain_pillow(photos, interpolation, channels):
    found = made(photos, size=(20, 30), interpolation=interpolation, channels=channels)
    method = Image.Resampling[interpolation.upper()]
    for path, picture in zip(photos, found.images, strict=True):
        plain = Image.open(path).convert({1: "L", 3: "RGB"}[channels]).resize((30, 20), method)
        np.testing.assert_array_equal(picture, np.asarray(plain).reshape(20, 30, channels))
    assert found.images.shape == (40, 20, 30, channels) and found.images.dtype == np.uint8
    assert found.good.all() and not found.errors and found.digests is not None


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, orientation):
    truth = photo(64, 48)
    undo = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE",
            6: "ROTATE_90", 7: "TRANSVERSE", 8: "ROTATE_270"}  # fmt: skip
    stored = truth.transpose(Image.Transpose[undo[orientation]]) if orientation > 1 else truth
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    path = saved(tmp_path / "a.png", stored, exif=exif)
    np.testing.assert_array_equal(one(path, (48, 64)), np.asarray(truth))


def test_unreadable_exif_leaves_the_picture_as_it_lies(tmp_path):
    path = saved(tmp_path / "a.jpg", photo(32, 32), exif=b"Exif\0\0garbage that is no TIFF")
    assert one(path).shape == (16, 16, 3)


def test_16_bit_grey_is_scaled_not_clipped(tmp_path):
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    for name in ("a.png", "a.tif"):
        path = saved(tmp_path / name, Image.fromarray(ramp))
        found = one(path, channels=1)[..., 0]
        np.testing.assert_array_equal(found, np.arange(256).reshape(16, 16))
        assert (one(path)[..., 1] == found).all()


def test_32_bit_pixels_are_refused(tmp_path):
    path = saved(tmp_path / "a.tif", Image.fromarray(np.ones((4, 4), np.float32)))
    with pytest.raises(ImageError, match="32 bits per channel"):
        one(path)


def test_cmyk_becomes_rgb(tmp_path):
    red = Image.new("RGB", (32, 32), (200, 30, 40))
    path = saved(tmp_path / "a.jpg", red.convert("CMYK"), quality=100)
    assert np.abs(one(path).astype(int) - (200, 30, 40)).max() <= 3
    assert one(path, channels=1).shape == (16, 16, 1)


@pytest.mark.parametrize("kind", ["RGBA", "LA", "palette", "colour key"])
def test_transparency_shows_white(tmp_path, kind):
    grey = np.full((16, 16, 4), 90, np.uint8)
    grey[:, :8, 3], grey[:, 8:, 3] = 0, 255
    image, options = Image.fromarray(grey), {}
    if kind == "LA":
        image = image.convert("LA")
    elif kind == "palette":
        indices = np.zeros((16, 16), np.uint8)
        indices[:, 8:] = 1
        image, options = Image.fromarray(indices), {"transparency": 0}
        image.putpalette([10, 10, 10, 90, 90, 90])
    elif kind == "colour key":
        solid = np.full((16, 16, 3), 90, np.uint8)
        solid[:, :8] = (255, 0, 255)
        image, options = Image.fromarray(solid), {"transparency": (255, 0, 255)}
    found = one(saved(tmp_path / "a.png", image, **options))
    assert (found[:, :8] == 255).all() and (found[:, 8:] == 90).all()


def test_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "lime", "blue")]
    for name in ("a.gif", "a.webp", "a.tiff"):
        options = {"lossless": True} if name.endswith("webp") else {}
        saved(tmp_path / name, frames[0], save_all=True, append_images=frames[1:], **options)
        assert (one(tmp_path / name) == (255, 0, 0)).all()


def test_bitmap_and_one_bit(tmp_path):
    stripes = Image.fromarray((np.indices((16, 16)).sum(0) % 2 * 255).astype(np.uint8))
    for name, image in (("a.bmp", stripes), ("b.png", stripes.convert("1"))):
        path = saved(tmp_path / name, image)
        np.testing.assert_array_equal(one(path, channels=1)[..., 0], np.asarray(stripes))


def test_crop_takes_the_centre_and_pad_keeps_all(tmp_path):
    picture = np.zeros((20, 60, 3), np.uint8)
    picture[:, 20:40] = 255
    path = saved(tmp_path / "a.png", Image.fromarray(picture))
    assert (one(path, 20, resize="crop", interpolation="nearest") == 255).all()
    padded = one(path, 60, resize="pad")
    np.testing.assert_array_equal(padded[20:40], picture)
    assert (padded[:20] == 0).all() and (padded[40:] == 0).all()
    tall = saved(tmp_path / "b.png", Image.fromarray(picture.transpose(1, 0, 2)))
    np.testing.assert_array_equal(one(tall, 60, resize="pad")[:, 20:40],
                                  picture.transpose(1, 0, 2))  # fmt: skip
    line = saved(tmp_path / "c.png", photo(300, 1))
    assert one(line, 16, resize="pad").any() and one(line, 16, resize="crop").shape == (16, 16, 3)


def test_large_jpegs_take_the_short_way_unharmed(tmp_path):
    """Decoding at reduced scale: under a grey level away, and not done for "nearest"."""
    path = saved(tmp_path / "a.jpg", photo(2400, 1800), quality=92)
    full = np.asarray(Image.open(path).resize((150, 150), Image.Resampling.BILINEAR)).astype(int)
    quick = one(path, 150).astype(int)
    assert (quick != full).any()  # it was taken
    assert np.abs(quick - full).mean() < 1 and np.abs(quick - full).max() <= 12
    nearest = one(path, 150, interpolation="nearest")
    plain = Image.open(path).resize((150, 150), Image.Resampling.NEAREST)
    np.testing.assert_array_equal(nearest, np.asarray(plain))


# ---------------------------------------------------------------------------------------- damage


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("truncated.jpg", "truncated"),
        ("truncated.png", "truncated|broken"),
        ("garbled.png", "."),
        ("text.jpg", "not in a supported image format"),
        ("page.jpg", "not in a supported image format"),
        ("script.jpg", "not in a supported image format"),
        ("empty.jpg", "the file is empty"),
        ("gone.jpg", "the file is missing"),
        ("folder.jpg", "directory"),
    ],
)
def test_damaged_files_are_named_in_one_line(photos, damaged, name, reason):
    files = [*photos[:20], damaged[name], *photos[20:]]
    with pytest.raises(UserError, match=reason) as caught:
        made(files)
    message = str(caught.value)
    assert message.startswith(f"cannot read {damaged[name]}: ") and "\n" not in message
    assert "data.on_error=skip" in message


def test_skip_goes_on_and_counts(photos, damaged, tmp_path):
    files = [damaged["text.jpg"], *photos, damaged["truncated.jpg"], damaged["gone.jpg"]]
    for again in (False, True):
        found = made(files, cache_dir=tmp_path / "c", on_error="skip")
        assert (found.digests is None) is again
        assert np.flatnonzero(~found.good).tolist() == [0, 41, 42]
        assert [path for path, _ in found.errors] == [files[0], files[41], files[42]]
        assert "truncated" in found.errors[1][1]
        assert not found.images[~found.good].any()
        np.testing.assert_array_equal(found.images[found.good], made(photos).images)


def test_skipping_everything_is_no_data_set(damaged):
    with pytest.raises(UserError, match="none of 2 files is an image"):
        made([damaged["text.jpg"], damaged["empty.jpg"]], on_error="skip")


@pytest.mark.parametrize("place", [0, 700])
def test_first_error_stops_at_once(photos, damaged, monkeypatch, place):
    files = photos * 200
    files[place] = damaged["text.jpg"]
    count = []
    resize = decode_module.resize_image
    monkeypatch.setattr(load_module, "count_cores", lambda: 4)
    monkeypatch.setattr(decode_module, "resize_image", lambda *a: count.append(1) or resize(*a))
    for _ in range(5):  # whichever thread is first
        count.clear()
        with pytest.raises(UserError, match="cannot read"):
            made(files)
        assert len(count) < place + 500


def test_decompression_bombs_are_refused_by_name(tmp_path, monkeypatch):
    bomb = saved(tmp_path / "bomb.png", Image.new("1", (20000, 10000)))
    assert bomb.stat().st_size < 100_000
    with pytest.raises(UserError, match=r"bomb\.png: 20000x10000 pixels are more than"):
        made([bomb])
    small = saved(tmp_path / "small.png", Image.new("1", (200, 100)))
    monkeypatch.setattr(decode_module, "MAX_PIXELS", 19_999)
    with pytest.raises(UserError, match="more than 19,999"):
        made([small])
    monkeypatch.setattr(decode_module, "MAX_PIXELS", 20_000)
    assert made([small]).good.all()


def test_pillows_switches_are_put_back_and_half_pictures_never_accepted(damaged, monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)  # as some libraries do
    before = Image.MAX_IMAGE_PIXELS
    with pytest.raises(UserError, match="truncated"):
        made([damaged["truncated.jpg"]])
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True and before == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize(
    ("key", "value", "answer"),
    [
        ("resize", "crp", "did you mean crop"),
        ("interpolation", "linear", "did you mean bilinear"),
        ("channels", 4, "choose 1"),
        ("size", 0, "at least one pixel"),
    ],
)
def test_bad_keys(photos, key, value, answer):
    with pytest.raises(UserError, match=answer):
        made(photos, **{"size": 16, key: value})


def test_more_than_the_machine_holds_is_refused_in_ram(photos):
    with pytest.raises(UserError, match=r"use data\.cache=disk"):
        made(photos * 1000, size=20_000)


def test_progress_goes_to_stderr(photos, capsys):
    decode_images(Files.of(photos), Recipe(16, 16), cache_dir=None, on_error="raise")
    out, err = capsys.readouterr()
    assert not out and "decoding 40 images to 16x16" in err and "decoded in" in err
    made(photos)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("size", [(1, 1), (37, 91), (1000, 700)])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
@pytest.mark.parametrize("kind", [{}, {"lossless": True}, {"exif": b"Exif\0\0II*\0\x08\0\0\0\0\0"}])
def test_size_of_a_webp_is_read_from_its_head_as_pillow_reads_it(tmp_path, size, mode, kind):
    """So that one that is too large is refused before Pillow makes room for it."""
    for more in ({}, {"save_all": True, "append_images": [Image.new(mode, size, "red")]}):
        Image.new(mode, size, "blue").save(tmp_path / "a.webp", **kind, **more)
        assert decode_module._read_webp_size((tmp_path / "a.webp").read_bytes()[:30]) == size
    assert decode_module._read_webp_size(b"\x89PNG\r\n\x1a\n" + bytes(22)) is None
