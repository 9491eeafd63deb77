"""Decoding: right pixels from every kind of file, damage named, the cache never half-written."""

from __future__ import annotations

import errno
import fcntl
import io
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from convlens.data import cache as cache_module
from convlens.data import decode as decode_module
from convlens.data import pixels as pixels_module
from convlens.data.pixels import PictureError, Recipe, cached_arrays, decode_picture, decoded
from convlens.errors import UserError

ORIENTATION = 0x0112


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    """Smooth colour with some texture, as photographs have."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    return Image.fromarray((smooth + rng.integers(-8, 9, smooth.shape)).clip(0, 255).astype("u1"))


def saved(path: Path, image: Image.Image, **options) -> Path:
    image.save(path, **options)
    return path


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    return [saved(folder / f"{n:02}.jpg", photo(40 + n, 60 - n, n), quality=95) for n in range(40)]


@pytest.fixture
def damaged(tmp_path):
    """Damaged files by what is wrong with them."""
    folder = tmp_path / "damaged"
    folder.mkdir()
    whole = io.BytesIO()
    photo(100, 80).save(whole, "JPEG")
    png = io.BytesIO()
    photo(100, 80).save(png, "PNG")
    contents = {
        "truncated.jpg": whole.getvalue()[: len(whole.getvalue()) // 2],
        "truncated.png": png.getvalue()[: len(png.getvalue()) // 2],
        "garbled.png": png.getvalue()[:60] + b"?" * 40 + png.getvalue()[100:],
        "text.jpg": b"not a picture at all\n" * 20,
        "empty.jpg": b"",
        "page.jpg": b"<!DOCTYPE html><title>404</title>",
        "script.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    (folder / "gone.jpg").symlink_to(folder / "nowhere.jpg")
    (folder / "folder.jpg").mkdir()
    return {path.name: path for path in sorted(folder.iterdir())}


def ram(files, size=16, **kwargs):
    return decoded(files, size=size, cache="ram", progress=False, **kwargs)


def one(path, size=16, **kwargs) -> np.ndarray:
    height, width = (size, size) if isinstance(size, int) else size
    return decode_picture(path, Recipe(height, width, **kwargs))


# ---------------------------------------------------------------------------- what a file means


@pytest.mark.parametrize("interpolation", ["bilinear", "nearest", "bicubic"])
@pytest.mark.parametrize("channels", [1, 3])
def test_equal_to_plain_pillow(photos, interpolation, channels):
    found = ram(photos, size=(20, 30), interpolation=interpolation, channels=channels)
    method = Image.Resampling[interpolation.upper()]
    for path, picture in zip(photos, found.images, strict=True):
        plain = Image.open(path).convert({1: "L", 3: "RGB"}[channels]).resize((30, 20), method)
        np.testing.assert_array_equal(picture, np.asarray(plain).reshape(20, 30, channels))
    assert found.images.shape == (40, 20, 30, channels) and found.images.dtype == np.uint8
    assert found.good.all() and not found.errors and not found.from_cache and found.path is None


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
    with pytest.raises(PictureError, match="32 bits a channel"):
        one(path)


def test_cmyk_becomes_rgb(tmp_path):
    red = Image.new("RGB", (32, 32), (200, 30, 40))
    path = saved(tmp_path / "a.jpg", red.convert("CMYK"), quality=100)
    assert np.abs(one(path).astype(int) - (200, 30, 40)).max() <= 3
    assert one(path, channels=1).shape == (16, 16, 1)


@pytest.mark.parametrize("background", [0, 255])
@pytest.mark.parametrize("kind", ["RGBA", "LA", "palette", "colour key"])
def test_transparency_shows_the_background(tmp_path, kind, background):
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
    found = one(saved(tmp_path / "a.png", image, **options), background=background)
    assert (found[:, :8] == background).all() and (found[:, 8:] == 90).all()


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
    padded = one(path, 60, resize="pad", padding=7)
    np.testing.assert_array_equal(padded[20:40], picture)
    assert (padded[:20] == 7).all() and (padded[40:] == 7).all()
    tall = saved(tmp_path / "b.png", Image.fromarray(picture.transpose(1, 0, 2)))
    np.testing.assert_array_equal(one(tall, 60, resize="pad", padding=7)[:, 20:40],
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
        ("text.jpg", "no picture of a kind known here"),
        ("page.jpg", "no picture of a kind known here"),
        ("script.jpg", "no picture of a kind known here"),
        ("empty.jpg", "the file is empty"),
        ("gone.jpg", "the file is missing"),
        ("folder.jpg", "directory"),
    ],
)
def test_damaged_files_are_named_in_one_line(photos, damaged, name, reason):
    files = [*photos[:20], damaged[name], *photos[20:]]
    with pytest.raises(UserError, match=reason) as caught:
        ram(files)
    message = str(caught.value)
    assert message.startswith(f"cannot read {damaged[name]}: ") and "\n" not in message
    assert "data.on_error=skip" in message


def test_skip_goes_on_and_counts(photos, damaged, tmp_path):
    files = [damaged["text.jpg"], *photos, damaged["truncated.jpg"], damaged["gone.jpg"]]
    for again in (False, True):
        found = decoded(files, size=16, cache_dir=tmp_path / "c", on_error="skip", progress=False)
        assert found.from_cache is again
        assert np.flatnonzero(~found.good).tolist() == [0, 41, 42]
        assert [path for path, _ in found.errors] == [files[0], files[41], files[42]]
        assert "truncated" in found.errors[1][1]
        assert not found.images[~found.good].any()
        np.testing.assert_array_equal(found.images[found.good], ram(photos).images)


def test_skipping_everything_is_no_data_set(damaged):
    with pytest.raises(UserError, match="none of 2 files is a picture"):
        ram([damaged["text.jpg"], damaged["empty.jpg"]], on_error="skip")


@pytest.mark.parametrize("place", [0, 700])
def test_first_error_stops_at_once(photos, damaged, monkeypatch, place):
    files = photos * 200
    files[place] = damaged["text.jpg"]
    count = []
    resized = decode_module._resized
    monkeypatch.setattr(decode_module, "_resized", lambda *a: count.append(1) or resized(*a))
    for _ in range(5):  # whichever thread is first
        count.clear()
        with pytest.raises(UserError, match="cannot read"):
            ram(files, workers=4)
        assert len(count) < place + 500


def test_decompression_bombs_are_refused_by_name(tmp_path):
    bomb = saved(tmp_path / "bomb.png", Image.new("1", (20000, 10000)))
    assert bomb.stat().st_size < 100_000
    with pytest.raises(UserError, match=r"bomb\.png: 20000x10000 pixels are more than"):
        ram([bomb])
    small = saved(tmp_path / "small.png", Image.new("1", (200, 100)))
    with pytest.raises(UserError, match="more than 19,999"):
        ram([small], max_pixels=19_999)
    assert ram([small], max_pixels=20_000).good.all()


def test_pillows_switches_are_put_back_and_half_pictures_never_accepted(damaged, monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)  # as some libraries do
    before = Image.MAX_IMAGE_PIXELS
    with pytest.raises(UserError, match="truncated"):
        ram([damaged["truncated.jpg"]])
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True and before == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize(
    ("key", "value", "answer"),
    [
        ("resize", "crp", "did you mean crop"),
        ("interpolation", "linear", "did you mean bilinear"),
        ("channels", 4, "choose 1"),
        ("size", 0, "at least one pixel"),
        ("cache", "disc", "choose disk or ram"),
        ("on_error", "ignore", "choose raise or skip"),
    ],
)
def test_bad_keys(photos, tmp_path, key, value, answer):
    with pytest.raises(UserError, match=answer):
        decoded(photos, **{"size": 16, "cache_dir": tmp_path, key: value})


def test_more_than_the_machine_holds_is_refused_in_ram(photos):
    with pytest.raises(UserError, match=r"use data\.cache=disk"):
        ram(photos * 1000, size=20_000)


def test_progress_goes_to_stderr(photos, capsys):
    decoded(photos, size=16, cache="ram")
    out, err = capsys.readouterr()
    assert not out and "decoding 40 pictures to 16x16" in err and "decoded in" in err
    ram(photos)
    assert capsys.readouterr() == ("", "")


# ----------------------------------------------------------------------------------------- cache


@pytest.fixture
def disk(tmp_path):
    folder = tmp_path / "cache" / "deep"

    def run(files, size=16, **kwargs):
        return decoded(files, size=size, cache_dir=folder, progress=False, **kwargs)

    run.folder = folder
    return run


def names(folder: Path) -> list[str]:
    return sorted(path.suffix for path in folder.iterdir())


def test_second_time_from_the_cache(photos, disk, monkeypatch):
    first = disk(photos)
    monkeypatch.setattr(pixels_module, "decode_picture", None)  # calling it would fail
    second = disk(photos)
    assert (first.from_cache, second.from_cache) == (False, True)
    np.testing.assert_array_equal(first.images, second.images)
    assert isinstance(second.images, np.memmap) and not second.images.flags.writeable
    assert second.path == first.path and second.path.parent == disk.folder
    np.testing.assert_array_equal(np.load(second.path), second.images)  # a plain .npy
    assert names(disk.folder) == [".json", ".npy"]


def test_any_number_of_workers_gives_the_same(photos, tmp_path):
    results = [
        decoded(photos, size=16, cache_dir=tmp_path / str(n), workers=n, progress=False).images
        for n in (1, 2, 7)
    ]
    for images in (*results, ram(photos, workers=3).images):
        np.testing.assert_array_equal(images, results[0])


def test_whatever_changes_rebuilds(photos, disk):
    disk(photos)
    stat = photos[3].stat()
    os.utime(photos[3], ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert not disk(photos).from_cache
    assert names(disk.folder) == [".json", ".npy"]  # in the place of the old one
    assert disk(photos).from_cache

    photo(50, 50, 99).save(photos[3], quality=50)  # another picture, the time put back
    os.utime(photos[3], ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    changed = disk(photos)
    assert not changed.from_cache
    np.testing.assert_array_equal(changed.images[3], one(photos[3]))

    for other in (
        {"size": 17}, {"size": (16, 17)}, {"channels": 1}, {"resize": "pad"}, {"padding": 1},
        {"interpolation": "nearest"}, {"on_error": "skip"}, {"background": 3},
    ):  # fmt: skip
        assert not disk(photos, **other).from_cache, other
        assert disk(photos, **other).from_cache
    assert not disk(photos[::-1]).from_cache
    assert not disk(photos[:-1]).from_cache
    assert disk(photos).from_cache


def test_relative_and_absolute_paths_are_the_same_files(photos, disk, monkeypatch):
    disk(photos)
    monkeypatch.chdir(photos[0].parent)
    assert disk([path.name for path in photos]).from_cache


def spoiled(kind: str, array: Path, sidecar: Path) -> None:
    content = json.loads(sidecar.read_text())
    if kind == "cut":
        os.truncate(array, array.stat().st_size - 1)
    elif kind == "longer":
        array.write_bytes(array.read_bytes() + b"?")
    elif kind == "other bytes":
        with open(array, "r+b") as file:
            file.seek(5000)
            file.write(b"????")
    elif kind == "array gone":
        array.unlink()
    elif kind == "sidecar gone":
        sidecar.unlink()
    elif kind == "sidecar cut":
        sidecar.write_text(sidecar.read_text()[:-10])
    elif kind == "sidecar of something else":
        sidecar.write_text("[1, 2]")
    else:
        content["notes"]["errors"] = [[0, "invented"]]
        sidecar.write_text(json.dumps(content))


@pytest.mark.parametrize(
    "kind",
    ["cut", "longer", "other bytes", "array gone", "sidecar gone", "sidecar cut",
     "sidecar of something else", "sidecar changed"],
)  # fmt: skip
def test_a_spoiled_cache_is_rebuilt_not_trusted(photos, disk, kind):
    first = disk(photos)
    truth = np.array(first.images)
    spoiled(kind, first.path, next(disk.folder.glob("*.json")))
    again = disk(photos)
    assert not again.from_cache and again.good.all()
    np.testing.assert_array_equal(again.images, truth)
    assert disk(photos).from_cache


def test_an_error_leaves_no_cache(photos, damaged, disk):
    with pytest.raises(UserError):
        disk([*photos, damaged["truncated.jpg"]])
    assert list(disk.folder.iterdir()) == []


def test_folder_that_cannot_be_made(photos, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write the cache folder .*file.*CONVLENS_CACHE"):
        decoded(photos, size=16, cache_dir=tmp_path / "file" / "cache", progress=False)


# A child process imports pixels.py without what else the package data/ imports (torch: seconds).
LIGHT = f"""
import sys, types
sys.modules["convlens.data"] = types.ModuleType("convlens.data")
sys.modules["convlens.data"].__path__ = [{str(Path(pixels_module.__file__).parent)!r}]
"""

CHILD = """
import time
from convlens.data import pixels
original = pixels.decode_picture
def slow(*args):
    time.sleep({delay})
    return original(*args)
pixels.decode_picture = slow
from pathlib import Path
files = sorted(Path(sys.argv[1]).iterdir())
found = pixels.decoded(files, size={size}, cache_dir=sys.argv[2], progress=False, workers=2)
print("from cache" if found.from_cache else "built", flush=True)
"""


def child(photos, folder, delay=0.0, size=16, **options) -> subprocess.Popen:
    code = LIGHT + CHILD.format(delay=delay, size=size)
    return subprocess.Popen(
        [sys.executable, "-c", code, str(photos[0].parent), str(folder)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options,
    )  # fmt: skip


def wait_for(condition, seconds=40.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


def test_killed_while_writing(photos, disk):
    """kill -9 leaves temporary files only; they are never read, and the next run removes them."""
    building = child(photos, disk.folder, delay=0.2)
    wait_for(lambda: list(disk.folder.glob("*.npy.tmp")))
    building.send_signal(signal.SIGKILL)
    building.communicate()
    assert names(disk.folder) == [".tmp", ".tmp"]
    assert not disk(photos, size=8).from_cache  # any later use of the folder cleans up
    assert names(disk.folder) == [".json", ".npy"]
    assert not disk(photos).from_cache


def test_killed_while_writing_then_the_same_again(photos, disk):
    building = child(photos, disk.folder, delay=0.2)
    wait_for(lambda: list(disk.folder.glob("*.npy.tmp")))
    building.kill()
    building.communicate()
    found = disk(photos)
    np.testing.assert_array_equal(found.images, ram(photos).images)
    assert names(disk.folder) == [".json", ".npy"]


def test_temporary_files_of_the_living_are_left_alone(photos, disk):
    building = child(photos, disk.folder, delay=0.03)
    wait_for(lambda: list(disk.folder.glob("*.npy.tmp")))
    disk(photos, size=8)
    out, err = building.communicate(timeout=60)
    assert out == "built\n", err
    assert disk(photos).from_cache and disk(photos, size=8).from_cache


def test_two_processes_build_one_cache_once(photos, disk):
    both = [child(photos, disk.folder, delay=0.02) for _ in range(2)]
    outcomes = [process.communicate(timeout=60) for process in both]
    assert sorted(out for out, _ in outcomes) == ["built\n", "from cache\n"], outcomes
    np.testing.assert_array_equal(disk(photos).images, ram(photos).images)
    assert names(disk.folder) == [".json", ".npy"]


def test_threads_of_one_process_too(photos, disk):
    results = []
    threads = [threading.Thread(target=lambda: results.append(disk(photos))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(not found.from_cache for found in results) == 1
    assert all((found.images == results[0].images).all() for found in results)


def test_file_system_without_locks(photos, disk, monkeypatch):
    def none(*args):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    assert not disk(photos).from_cache
    assert disk(photos).from_cache
    assert names(disk.folder) == [".json", ".npy"]


def test_full_disk_by_file_size_limit(photos, disk):
    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    process = child(photos, disk.folder, size=64, preexec_fn=limited)
    _, err = process.communicate(timeout=60)
    last = err.strip().splitlines()[-1]
    assert process.returncode == 1
    assert "UserError: no room for the cache in" in last
    assert str(disk.folder) in last and "data.cache=ram" in last
    assert list(disk.folder.iterdir()) == []


def test_full_disk_on_a_real_one(photos, tmp_path):
    """A file system of 1 MiB: the array fits by its count of bytes free, then does not."""
    mount = tmp_path / "small"
    mount.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", mount], capture_output=True
    ).returncode:
        pytest.skip("no permission to mount a file system")
    try:
        with pytest.raises(UserError, match=r"GB needed.*data\.cache=ram"):
            decoded(photos, size=300, cache_dir=mount, progress=False)
        limit = cache_module.shutil.disk_usage
        cache_module.shutil.disk_usage = lambda _: limit("/")  # somebody else fills it meanwhile
        try:
            with pytest.raises(UserError, match=r"No space left on device.*data\.cache=ram"):
                decoded(photos, size=300, cache_dir=mount, progress=False)
        finally:
            cache_module.shutil.disk_usage = limit
        assert list(mount.iterdir()) == []
        assert len(decoded(photos, size=16, cache_dir=mount, progress=False).images) == 40
    finally:
        subprocess.run(["umount", "-l", mount], check=True)


def test_disk_that_is_too_small_is_told_before_decoding(photos, disk, monkeypatch):
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(cache_module.shutil, "disk_usage", lambda _: usage._replace(free=100))
    monkeypatch.setattr(pixels_module, "decode_picture", None)
    with pytest.raises(UserError, match="no room for the cache"):
        disk(photos)


FLAT = """
import resource
from pathlib import Path
from convlens.data.pixels import decoded
files = sorted(Path(sys.argv[1]).iterdir())
decoded(files, size=16, cache_dir=sys.argv[2], progress=False)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
found = decoded(files * 10, size=512, cache_dir=sys.argv[2], progress=False)
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(found.images.nbytes, (after - before) * 1024)
"""


def test_memory_stays_flat_however_large_the_cache(photos, tmp_path):
    command = [sys.executable, "-c", LIGHT + FLAT, str(photos[0].parent), str(tmp_path / "c")]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    size, grown = map(int, result.stdout.split())
    assert size > 300e6 and grown < 60e6


def test_cached_arrays(tmp_path):
    calls = []

    def make():
        calls.append(1)
        return {"a": np.arange(12).reshape(3, 4), "mask": np.eye(3, dtype=bool),
                "none": np.zeros((0, 2))}  # fmt: skip

    for key in ({"seed": 0}, {"seed": 0}, {"seed": 1}):
        found = cached_arrays(key, make, tmp_path)
        for name, array in make().items():
            np.testing.assert_array_equal(found[name], array)
            assert found[name].dtype == array.dtype
    assert len(calls) == 2 + 3 * 1
    with pytest.raises(ZeroDivisionError):
        cached_arrays({"seed": 2}, lambda: {"a": 1 / 0}, tmp_path)
    assert not list(tmp_path.glob("*.tmp"))
