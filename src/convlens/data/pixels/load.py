"""Decode image files to one uint8 array: once, in parallel, memory-mapped on disk.

Legend: N images, H height, W width, C channels (1 grey, 3 RGB).
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import logging
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import PIL
from PIL import Image, ImageFile
from PIL import _imaging as core

from convlens.core.errors import UserError
from convlens.core.progress import is_on_terminal, progress_bar
from convlens.core.system import count_cores
from convlens.data.index.digests import file_digest
from convlens.data.index.files import Files
from convlens.data.pixels.cache import Writer, fingerprint_files, load_or_build
from convlens.data.pixels.decode import VERSION, ImageError, Recipe, decode_with_size
from convlens.data.pixels.lookalikes import GRID, compute_signature

CHUNK = 16  # images per task of a thread
# version of the arrays in a cache entry: 2 added signatures to the images, 3 the originals' sizes
_STORED = 3


@dataclass(frozen=True, eq=False)
class Pixels:
    """N decoded images.

    Attributes:
        images: (N, H, W, C) uint8 in the order of the files: a read-only memory map or an array.
        good: (N,) bool; False if the file could not be decoded (its pixels are zeros).
        errors: (file, reason) of each file that could not be decoded.
        made_from: two digests: of the request, and of the request with sizes and times of the
            files.
        digests: (N,) int64, ``file_digest`` of each file; None if the images come from the cache.
        signatures: (N, 16) float16, ``lookalikes.compute_signature`` of each image.
        sizes: (N, 2) uint16, width and height of each upright original in pixels; zeros if it could
            not be decoded.
    """

    images: np.ndarray
    good: np.ndarray
    errors: list[tuple[Path, str]]
    made_from: tuple[str, str]
    digests: np.ndarray | None
    signatures: np.ndarray
    sizes: np.ndarray


def decode_images(
    files: Files, recipe: Recipe, *, cache_dir: Path | None, on_error: str, progress: bool = True
) -> Pixels:
    """Decode and resize ``files`` to (N, H, W, C) uint8, or map them from an earlier run.

    Pillow releases Python's lock while it decodes and resizes, so threads (one per available core)
    are faster than processes, which have to start and to copy.

    Args:
        files: N files.
        recipe: how a file becomes an array.
        cache_dir: folder of a memory-mapped cache, so that data may be larger than memory. It is
            rebuilt when a path, size, modification time, key of the recipe or Pillow changes.
            None: return an array and write nothing.
        on_error: "raise": stop at the first damaged file; "skip": list it in the result.
        progress: show a bar on a terminal's stderr, two lines elsewhere; False for silence.

    Raises:
        UserError: a file cannot be decoded, or none can; there is no space.
    """
    count, digests = len(files), np.zeros(len(files), np.int64)

    def build(writer: Writer) -> dict:
        shape = (count, recipe.height, recipe.width, recipe.channels)
        rows = writer.create("images", shape, np.uint8)
        signatures = writer.create("looks", (count, GRID**2), np.float16)
        sizes = writer.create("sizes", (count, 2), np.uint16)

        def keep(index: int, image: np.ndarray, size: tuple[int, int]) -> None:
            rows.put(index, image[None])
            signatures.put(index, compute_signature(image)[None])
            sizes.put(index, np.array([size], np.uint16))

        return {"errors": _decode_all(files, recipe, keep, digests, on_error, progress)}

    parts = VERSION, _STORED, PIL.__version__, recipe.key(), on_error
    request, state = fingerprint_files(files, *parts)
    made_from = f"pixels-{request}", state
    entry = load_or_build(cache_dir, *made_from, build)
    errors = entry.notes["errors"]
    good = np.ones(count, bool)
    good[[index for index, _ in errors]] = False
    return Pixels(
        entry.arrays["images"], good, [(files[index], reason) for index, reason in errors],
        made_from, digests if digests.any() else None, entry.arrays["looks"],
        entry.arrays["sizes"],
    )  # fmt: skip


def _decode_all(
    files: Files,
    recipe: Recipe,
    put: Callable[[int, np.ndarray, tuple[int, int]], None],
    digests: np.ndarray,
    on_error: str,
    progress: bool,
) -> list[tuple[int, str]]:
    """Decode every file, and return (index, reason) of those that could not be decoded.

    ``put(index, image, size)`` keeps an image and the (w, h) of its original. This also fills
    ``digests``, while a file's bytes are still in the system's cache.
    """
    workers = min(count_cores(), -(-len(files) // CHUNK))
    stop = threading.Event()
    failures: list[tuple[int, str]] = []  # all threads append to it

    def work(first: int) -> int:
        chunk = range(first, min(first + CHUNK, len(files)))
        for index in chunk:
            if stop.is_set():
                break
            try:
                put(index, *decode_with_size(files[index], recipe))
            except ImageError as error:
                failures.append((index, error.reason))
                if on_error == "raise":
                    stop.set()
            digests[index] = file_digest(files[index])
        return len(chunk)

    what = f"{len(files)} images to {recipe.height}x{recipe.width}, {workers} threads"
    with (
        pillow_settings(),
        show_progress("decoding", "decoded", what, len(files), progress) as advance,
    ):
        # queue enough tasks to keep the threads busy, not one per chunk of a million files
        firsts = iter(range(0, len(files), CHUNK))
        pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
        try:
            waiting = {pool.submit(work, first) for first in islice(firsts, 2 * workers)}
            while waiting and not stop.is_set():
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                for task in done:
                    advance(task.result())
                waiting |= {pool.submit(work, first) for first in islice(firsts, len(done))}
        finally:  # on a damaged file, a full disk or Ctrl-C the other threads stop at once
            stop.set()
            pool.shutdown(cancel_futures=True)
    failures.sort()
    if failures:
        path, reason = files[failures[0][0]], failures[0][1]
        if on_error == "raise":
            way_out = "; replace or remove it, or skip such files with data.on_error=skip"
            raise ImageError(path, reason, way_out)
        if len(failures) == len(files):
            raise UserError(f"none of {len(files)} files is an image, the first: {path} "
                            f"({reason}); check the files in {path.parent}")  # fmt: skip
    return failures


@contextlib.contextmanager
def pillow_settings() -> Iterator[None]:
    """Set Pillow's global switches, and restore them afterwards.

    Our own size check replaces Pillow's: it names the file and a key. Truncated images are never
    accepted. Warnings about odd metadata do not concern the pixels, and errors report damaged
    files, so Pillow's log is silenced. These switches belong to the whole process, so they are set
    here, around all threads.
    """
    before = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES
    Image.init()  # loads the readers once instead of in every thread
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
    """Silence libtiff, which would print its own messages about damaged files to the screen.

    The switch is found through Pillow's library. If libtiff is linked in another way (Windows), it
    is not found, and the messages appear.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(core.__file__).TIFFSetErrorHandler(None)


@contextlib.contextmanager
def show_progress(
    verb: str, past_verb: str, what: str, total: int, is_visible: bool
) -> Iterator[Callable[[int], None]]:
    """Show a progress bar on stderr, or two plain lines if stderr is no terminal.

    Args:
        verb: such as "decoding".
        past_verb: such as "decoded", for the last line.
        what: the object of the verb.
        total: number of steps.
        is_visible: False shows nothing.

    Yields:
        A function that advances the progress by a number of steps.
    """
    in_bars = is_on_terminal()
    in_lines, start = is_visible and not in_bars, time.monotonic()
    if in_lines:
        print(f"{verb} {what}", file=sys.stderr)
    with progress_bar(f"{verb} {what}", total, visible=is_visible and in_bars) as work:
        yield work.advance
    if in_lines:
        print(f"{past_verb} in {time.monotonic() - start:.1f} s", file=sys.stderr)
