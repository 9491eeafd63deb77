"""The pixel cache: never half-written, rebuilt when anything changed, safe between processes."""

from __future__ import annotations

import errno
import fcntl
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

from convlens.core.errors import UserError
from convlens.data.pixels import cache as cache_module
from convlens.data.pixels import load as pixels_module
from convlens.data.pixels.cache import cache_arrays
from support.pictures_made import made, one, photo

# ----------------------------------------------------------------------------------------- cache


@pytest.fixture
def disk(tmp_path):
    folder = tmp_path / "cache" / "deep"

    def run(files, size=16, **kwargs):
        return made(files, size, cache_dir=folder, **kwargs)

    run.folder = folder
    return run


def names(folder: Path) -> list[str]:
    return sorted(path.suffix for path in folder.iterdir())


def test_second_time_from_the_cache(photos, disk, monkeypatch):
    first = disk(photos)
    monkeypatch.setattr(pixels_module, "decode_with_size", None)  # calling it would fail
    second = disk(photos)
    assert first.digests is not None and second.digests is None
    np.testing.assert_array_equal(first.images, second.images)
    assert isinstance(second.images, np.memmap) and not second.images.flags.writeable
    path = Path(second.images.filename)
    assert path.samefile(first.images.filename) and path.parent == disk.folder
    np.testing.assert_array_equal(np.load(path), second.images)  # a plain .npy
    assert names(disk.folder) == [".json", ".npy", ".npy", ".npy"]


def test_any_number_of_workers_gives_the_same(photos, tmp_path, monkeypatch):
    expected = made(photos).images
    for count in (1, 2, 7):
        monkeypatch.setattr(pixels_module, "count_cores", lambda count=count: count)
        for folder in (None, tmp_path / str(count)):
            np.testing.assert_array_equal(made(photos, cache_dir=folder).images, expected)


def test_whatever_changes_rebuilds(photos, disk):
    disk(photos)
    stat = photos[3].stat()
    os.utime(photos[3], ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert disk(photos).digests is not None
    assert names(disk.folder) == [".json", ".npy", ".npy", ".npy"]  # in the place of the old one
    assert disk(photos).digests is None

    photo(50, 50, 99).save(photos[3], quality=50)  # another image, the time put back
    os.utime(photos[3], ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    changed = disk(photos)
    assert changed.digests is not None
    np.testing.assert_array_equal(changed.images[3], one(photos[3]))

    for other in (
        {"size": 17}, {"size": (16, 17)}, {"channels": 1}, {"resize": "pad"},
        {"interpolation": "nearest"}, {"on_error": "skip"},
    ):  # fmt: skip
        assert disk(photos, **other).digests is not None, other
        assert disk(photos, **other).digests is None
    assert disk(photos[::-1]).digests is not None
    assert disk(photos[:-1]).digests is not None
    assert disk(photos).digests is None


def test_relative_and_absolute_paths_are_the_same_files(photos, disk, monkeypatch):
    disk(photos)
    monkeypatch.chdir(photos[0].parent)
    assert disk([path.name for path in photos]).digests is None


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
    spoiled(kind, Path(first.images.filename), next(disk.folder.glob("*.json")))
    again = disk(photos)
    assert again.digests is not None and again.good.all()
    np.testing.assert_array_equal(again.images, truth)
    assert disk(photos).digests is None


def test_an_error_leaves_no_cache(photos, damaged, disk):
    with pytest.raises(UserError):
        disk([*photos, damaged["truncated.jpg"]])
    assert list(disk.folder.iterdir()) == []


def test_folder_that_cannot_be_made(photos, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write the cache folder .*file.*CONVLENS_CACHE"):
        made(photos, 16, cache_dir=tmp_path / "file" / "cache")


CHILD = """
import sys, time
from convlens.data.pixels import load as pixels
original = pixels.decode_with_size
def slow(*args):
    time.sleep({delay})
    return original(*args)
pixels.decode_with_size = slow
pixels.count_cores = lambda: 2
from pathlib import Path
files = pixels.Files.of(sorted(Path(sys.argv[1]).iterdir()))
found = pixels.decode_images(
    files, pixels.Recipe({size}, {size}), cache_dir=Path(sys.argv[2]), on_error="raise",
    progress=False,
)
print("from cache" if found.digests is None else "built", flush=True)
"""


def child(photos, folder, delay=0.0, size=16, **options) -> subprocess.Popen:
    code = CHILD.format(delay=delay, size=size)
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
    wait_for(lambda: len(list(disk.folder.glob("*.npy.tmp"))) == 3)
    building.send_signal(signal.SIGKILL)
    building.communicate()
    assert names(disk.folder) == [".tmp"] * 4
    assert disk(photos, size=8).digests is not None  # any later use of the folder cleans up
    assert names(disk.folder) == [".json", ".npy", ".npy", ".npy"]
    assert disk(photos).digests is not None


def test_killed_while_writing_then_the_same_again(photos, disk):
    building = child(photos, disk.folder, delay=0.2)
    wait_for(lambda: list(disk.folder.glob("*.npy.tmp")))
    building.kill()
    building.communicate()
    found = disk(photos)
    np.testing.assert_array_equal(found.images, made(photos).images)
    assert names(disk.folder) == [".json", ".npy", ".npy", ".npy"]


def test_temporary_files_of_the_living_are_left_alone(photos, disk):
    building = child(photos, disk.folder, delay=0.03)
    wait_for(lambda: list(disk.folder.glob("*.npy.tmp")))
    disk(photos, size=8)
    out, err = building.communicate(timeout=60)
    assert out == "built\n", err
    assert disk(photos).digests is disk(photos, size=8).digests is None


def test_two_processes_build_one_cache_once(photos, disk):
    both = [child(photos, disk.folder, delay=0.02) for _ in range(2)]
    outcomes = [process.communicate(timeout=60) for process in both]
    assert sorted(out for out, _ in outcomes) == ["built\n", "from cache\n"], outcomes
    np.testing.assert_array_equal(disk(photos).images, made(photos).images)
    assert names(disk.folder) == [".json", ".npy", ".npy", ".npy"]


def test_threads_of_one_process_too(photos, disk):
    results = []
    threads = [threading.Thread(target=lambda: results.append(disk(photos))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(found.digests is not None for found in results) == 1
    assert all((found.images == results[0].images).all() for found in results)


def test_file_system_without_locks(photos, disk, monkeypatch):
    def none(*args):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    assert disk(photos).digests is not None
    assert disk(photos).digests is None
    assert names(disk.folder) == [".json", ".npy", ".npy", ".npy"]


def test_full_disk_by_file_size_limit(photos, disk):
    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    process = child(photos, disk.folder, size=64, preexec_fn=limited)
    _, err = process.communicate(timeout=60)
    last = err.strip().splitlines()[-1]
    assert process.returncode == 1
    assert "UserError: no space for the cache in" in last
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
            made(photos, 300, cache_dir=mount)
        limit = cache_module.shutil.disk_usage
        cache_module.shutil.disk_usage = lambda _: limit("/")  # somebody else fills it meanwhile
        try:
            with pytest.raises(UserError, match=r"No space left on device.*data\.cache=ram"):
                made(photos, 300, cache_dir=mount)
        finally:
            cache_module.shutil.disk_usage = limit
        assert list(mount.iterdir()) == []
        assert len(made(photos, 16, cache_dir=mount).images) == 40
    finally:
        subprocess.run(["umount", "-l", mount], check=True)


def test_disk_that_is_too_small_is_told_before_decoding(photos, disk, monkeypatch):
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(cache_module.shutil, "disk_usage", lambda _: usage._replace(free=100))
    monkeypatch.setattr(pixels_module, "decode_with_size", None)
    with pytest.raises(UserError, match="no space for the cache"):
        disk(photos)


FLAT = """
import resource, sys
from pathlib import Path
from convlens.data.pixels.load import Files, Recipe, decode_images
files = sorted(Path(sys.argv[1]).iterdir())
keys = dict(cache_dir=Path(sys.argv[2]), on_error="raise", progress=False)
decode_images(Files.of(files), Recipe(16, 16), **keys)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
found = decode_images(Files.of(files * 10), Recipe(512, 512), **keys)
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(found.images.nbytes, (after - before) * 1024)
"""


def test_memory_stays_flat_however_large_the_cache(photos, tmp_path):
    command = [sys.executable, "-c", FLAT, str(photos[0].parent), str(tmp_path / "c")]
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
        found = cache_arrays(key, make, tmp_path)
        for name, array in make().items():
            np.testing.assert_array_equal(found[name], array)
            assert found[name].dtype == array.dtype
    assert len(calls) == 2 + 3 * 1
    with pytest.raises(ZeroDivisionError):
        cache_arrays({"seed": 2}, lambda: {"a": 1 / 0}, tmp_path)
    assert not list(tmp_path.glob("*.tmp"))


SEVENS = np.full((4, 2), 7, np.uint8)


def test_locks_that_do_not_reach_a_machine_that_was_faster(tmp_path, monkeypatch):
    """Two machines build one entry; the locks of each are granted whatever the other holds."""
    monkeypatch.setattr(fcntl, "flock", lambda *args: None)

    def faster(writer):
        writer.create("images", (4, 2), np.uint8).put(0, SEVENS)
        return {}

    def overtaken(writer):
        rows = writer.create("images", (4, 2), np.uint8)
        cache_module.load_or_build(
            tmp_path, "entry", "same", faster
        )  # the other machine, meanwhile
        rows.put(0, SEVENS)
        return {}

    with pytest.raises(UserError, match=r"set CONVLENS_CACHE to a local disk of each"):
        cache_module.load_or_build(tmp_path, "entry", "same", overtaken)
    assert names(tmp_path) == [".json", ".npy"]
    found = cache_module.load_or_build(tmp_path, "entry", "same", None)  # building would fail
    assert found.from_cache and (found.arrays["images"] == 7).all()


def test_locks_that_do_not_reach_a_machine_that_is_still_building(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", lambda *args: None)
    theirs = []

    def overtaken(writer):
        rows = writer.create("images", (4, 2), np.uint8)
        # the other machine begins, and takes these files for abandoned
        cache_module._sweep(tmp_path)
        theirs.append(cache_module.ArrayFile(rows.path, rows.shape, rows.dtype))
        rows.put(0, SEVENS)
        return {}

    with pytest.raises(UserError, match=r"set CONVLENS_CACHE to a local disk of each"):
        cache_module.load_or_build(tmp_path, "entry", "same", overtaken)
    theirs[0].close()
    assert theirs[0].is_there() and names(tmp_path) == [".tmp"]  # half made, and left alone
    assert not np.load(theirs[0].path, allow_pickle=False).any()
