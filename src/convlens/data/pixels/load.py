"""Picture files to one uint8 array: decoded once, in parallel, kept memory-mapped on disk.

Legend: N pictures, H height, W width, C channels (1 grey, 3 RGB).
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import logging
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import PIL
from PIL import Image, ImageFile
from PIL import _imaging as core

from convlens.core.errors import UserError
from convlens.core.progress import on_terminal, progress_bar
from convlens.data.index.digests import Digest, file_digest
from convlens.data.index.files import Files, size_and_time
from convlens.data.pixels.cache import Writer, stored
from convlens.data.pixels.decode import MAX_PIXELS, VERSION, PictureError, Recipe, decode_picture
from convlens.data.pixels.looks import GRID, look

CHUNK = 16  # pictures a thread takes at a time
_STORED = 2  # raised when an entry holds other arrays: pictures, and since 2 their looks


@dataclass(frozen=True, eq=False)
class Pixels:
    """N decoded pictures.

    images      (N, H, W, C) uint8 in the order of the files: a read-only memory map or an array
    good        (N,) bool; False where the file gave no picture (its pixels are zeros)
    errors      (file, reason) of those
    from_cache  nothing was decoded
    path        the .npy file behind ``images``; None in RAM
    made_from   digests of what was asked for, and of that with sizes and times of the files
    digests     (N,) int64, ``file_digest`` of each file; None where nothing was read
    looks       (N, 16) float16, ``looks.look`` of each picture
    """

    images: np.ndarray
    good: np.ndarray
    errors: tuple[tuple[Path, str], ...]
    from_cache: bool
    path: Path | None
    made_from: tuple[str, str]
    digests: np.ndarray | None
    looks: np.ndarray


def decoded(
    files: Sequence[str | os.PathLike],
    *,
    size: int | tuple[int, int],
    cache_dir: str | os.PathLike | None = None,
    resize: str = "squash",
    channels: int = 3,
    interpolation: str = "bilinear",
    background: int = 255,
    padding: int = 0,
    max_pixels: int = MAX_PIXELS,
    cache: str = "disk",
    on_error: str = "raise",
    workers: int | None = None,
    progress: bool = True,
) -> Pixels:
    """Decode and resize ``files`` to (N, H, W, C) uint8, or map them from an earlier run.

    size       H = W, or (H, W), in pixels; see ``Recipe`` for it and the keys down to max_pixels
    cache      "disk": written row by row to ``cache_dir`` and memory-mapped, so data may be larger
               than RAM. Built anew when a path, size, modification time or key of the recipe (or
               Pillow) changed. "ram": an array, nothing written
    on_error   "raise": the first damaged file ends it; "skip": it is listed in the result
    workers    threads; None takes the cores this process may use. Pillow decodes and resizes
               outside Python's lock, so threads beat processes' start-up and copying
    progress   a bar on a terminal's stderr, two lines elsewhere; False for silence

    Raises UserError, one line: a file that gives no picture, no good one among all, no room.
    """
    height, width = (size, size) if isinstance(size, int) else size
    recipe = Recipe(height, width, channels, resize, interpolation, background, padding, max_pixels)
    if cache not in ("disk", "ram"):
        raise UserError(f"unknown data.cache={cache}: choose disk or ram")
    if on_error not in ("raise", "skip"):
        raise UserError(f"unknown data.on_error={on_error}: choose raise or skip")
    if cache == "disk" and cache_dir is None:
        raise ValueError('cache="disk" needs cache_dir')
    paths = files if isinstance(files, Files) else Files.of(files)
    if not paths:
        raise ValueError("no files to decode")
    shape = (len(paths), recipe.height, recipe.width, recipe.channels)

    digests = np.zeros(len(paths), np.int64)

    def decode_into(put: Callable[[int, np.ndarray], None]) -> list[tuple[int, str]]:
        return _decode_all(paths, recipe, put, digests, on_error, workers, progress)

    name, fingerprint = _fingerprint(paths, recipe, on_error)
    if cache == "ram":
        _check_memory(shape)
        images, seen = np.zeros(shape, np.uint8), np.zeros((len(paths), GRID**2), np.float16)

        def keep(index: int, picture: np.ndarray) -> None:
            images[index], seen[index] = picture, look(picture)

        errors = decode_into(keep)
        return _pixels(paths, images, errors, False, None, (name, fingerprint), digests, seen)

    def build(writer: Writer) -> dict:
        rows = writer.create("images", shape, np.uint8)
        seen = writer.create("looks", (len(paths), GRID**2), np.float16)

        def keep(index: int, picture: np.ndarray) -> None:
            rows.put(index, picture[None])
            seen.put(index, look(picture)[None])

        return {"errors": decode_into(keep)}

    entry = stored(cache_dir, name, fingerprint, build)
    return _pixels(
        paths, entry.arrays["images"], entry.notes["errors"], entry.from_cache,
        entry.paths["images"], (name, fingerprint), digests if digests.any() else None,
        entry.arrays["looks"],
    )  # fmt: skip


def _decode_all(
    paths: Sequence[Path],
    recipe: Recipe,
    put: Callable[[int, np.ndarray], None],
    digests: np.ndarray,
    on_error: str,
    workers: int | None,
    progress: bool,
) -> list[tuple[int, str]]:
    """Decode everything through ``put(index, picture)``; the (index, reason) of what failed.

    ``digests`` is filled on the way, while a file's bytes are still at hand.
    """
    workers = min(workers or cores(), -(-len(paths) // CHUNK))
    stop = threading.Event()
    failures: list[tuple[int, PictureError]] = []  # appended to by all threads

    def work(first: int) -> int:
        chunk = range(first, min(first + CHUNK, len(paths)))
        for index in chunk:
            if stop.is_set():
                break
            try:
                put(index, decode_picture(paths[index], recipe))
            except PictureError as error:
                failures.append((index, error))
                if on_error == "raise":
                    stop.set()
            digests[index] = file_digest(paths[index])
        return len(chunk)

    what = f"{len(paths)} pictures to {recipe.height}x{recipe.width}, {workers} threads"
    with pillow_settings(), bar("decoding", "decoded", what, len(paths), progress) as advance:
        # as many tasks waiting as keep the threads busy, not one for every chunk of a million files
        firsts = iter(range(0, len(paths), CHUNK))
        pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
        try:
            waiting = {pool.submit(work, first) for first in islice(firsts, 2 * workers)}
            while waiting and not stop.is_set():
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                for task in done:
                    advance(task.result())
                waiting |= {pool.submit(work, first) for first in islice(firsts, len(done))}
        finally:  # a damaged file, a full disk or Ctrl-C: the other threads end at once
            stop.set()
            pool.shutdown(cancel_futures=True)
    failures.sort(key=lambda failure: failure[0])
    if failures and on_error == "raise":
        error = failures[0][1]
        way_out = "; replace or remove it, or go on without such files with data.on_error=skip"
        raise PictureError(error.path, error.reason, way_out)
    if len(failures) == len(paths):
        error = failures[0][1]
        raise UserError(f"none of {len(paths)} files is a picture, such as {error.path}: "
                        f"{error.reason}; look at the files in {error.path.parent}")  # fmt: skip
    return [(index, error.reason) for index, error in failures]


@contextlib.contextmanager
def pillow_settings() -> Iterator[None]:
    """Pillow's switches as this module needs them, put back afterwards.

    Its bomb check is replaced by ours (which names the file and has a key); half a picture is never
    accepted; warnings about odd metadata do not concern the pixels, and what its log says of
    damaged files is said by us. Set here, around all threads: it belongs to the whole process.
    """
    before = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES
    Image.init()  # loads the readers once, not in every thread
    _silence_libtiff()
    log, level = logging.getLogger("PIL"), logging.getLogger("PIL").level
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")
        Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = None, False
        log.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = before
            log.setLevel(level)


@functools.cache
def _silence_libtiff() -> None:
    """Damaged TIFF files are refused in our words; libtiff would write its own onto the screen.

    Its switch is found through Pillow's library, which it came with. Where it is linked in another
    way (Windows) nothing is found, and its lines are seen.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(core.__file__).TIFFSetErrorHandler(None)


@contextlib.contextmanager
def bar(
    doing: str, done: str, what: str, total: int, shown: bool
) -> Iterator[Callable[[int], None]]:
    """A progress bar on stderr; two plain lines where that is no terminal."""
    in_lines, start = shown and not on_terminal(), time.monotonic()
    if in_lines:
        print(f"{doing} {what}", file=sys.stderr)
    with progress_bar(f"{doing} {what}", total, shown=shown) as advance:
        yield advance
    if in_lines:
        print(f"{done} in {time.monotonic() - start:.1f} s", file=sys.stderr)


def cores() -> int:
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _check_memory(shape: tuple[int, ...]) -> None:
    """Refuse what cannot fit before the system kills the process for it."""
    needed, there = int(np.prod(shape)), os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there:
        raise UserError(
            f"data.cache=ram needs {needed / 1e9:.1f} GB for {shape[0]} pictures and this machine "
            f"has {there / 1e9:.1f}: use data.cache=disk or a smaller data.size"
        )


def _fingerprint(paths: Files, recipe: Recipe, on_error: str) -> tuple[str, str]:
    """The name of a cache entry and what must be unchanged for it to hold.

    Sizes and times are not in the name, so that changed files replace their entry on disk.
    """
    identity = Digest(VERSION, _STORED, PIL.__version__, asdict(recipe), on_error)
    identity.add_all(paths.absolute())
    whole = identity.copy()
    whole.add_all(map(size_and_time, paths.located()))
    return f"pixels-{identity.hexdigest()}", whole.hexdigest()


def _pixels(
    paths: Sequence[Path],
    images: np.ndarray,
    errors: Sequence[Sequence],
    from_cache: bool,
    path: Path | None,
    made_from: tuple[str, str],
    digests: np.ndarray | None,
    looks: np.ndarray,
) -> Pixels:
    good = np.ones(len(paths), bool)
    good[[index for index, _ in errors]] = False
    named = tuple((paths[index], reason) for index, reason in errors)
    return Pixels(images, good, named, from_cache, path, made_from, digests, looks)
