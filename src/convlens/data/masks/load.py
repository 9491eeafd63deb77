"""The masks of images, of whatever kind: laid out as their images are, read once, kept on disk.

Legend: N images, H height, W width of the result; h, w those of an image file.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL
from PIL import Image, ImageOps

from convlens.data.index.files import Files
from convlens.data.pixels.cache import Writer, fingerprint_files, load_or_build
from convlens.data.pixels.decode import (
    ORIENTATION,
    ImageError,
    Recipe,
    describe_error,
    read_size_and_orientation,
    resize_image,
)
from convlens.data.pixels.decode import VERSION as DECODING


@dataclass(frozen=True)
class Picture:
    """What a mask has to fit.

    Attributes:
        stored: (w, h) of the pixels as they lie in the file.
        turn: the EXIF orientation, by which they are turned to stand upright.
    """

    stored: tuple[int, int]
    turn: int

    @property
    def upright(self) -> tuple[int, int]:
        """(w, h) of the turned image."""
        return self.stored[::-1] if self.turn in (5, 6, 7, 8) else self.stored


@dataclass(frozen=True)
class MaskKind:
    """A kind of mask files.

    Attributes:
        version: its name and the version of the masks a file gives: another one when these change,
            and caches are rebuilt.
        read: (file, image) -> mask, (h, w) bool; the EXIF orientation by which it is turned, 1
            for one that is upright already; a remark, or "".
        remarks: remark to the line a person should read, of the ``count`` masks that have it and
            the ``first`` of their files.
        way_out: ends the error about a file that gives no mask.
        needed: whether a file that gives none is an error whatever ``on_error`` says.
    """

    version: tuple[str, int]
    read: Callable[[Path, Picture], tuple[np.ndarray, int, str]]
    remarks: Mapping[str, str]
    way_out: str
    needed: bool


@dataclass(frozen=True)
class Masks:
    """The masks of N images.

    Attributes:
        masks: (N, H, W) bool, True on the object; a read-only memory map or an array.
        masked: (N,) bool; False where there is no mask, which then is False all over.
        notes: lines a person should read: masks left out.
    """

    masks: np.ndarray
    masked: np.ndarray
    notes: list[str]


def read_masks(
    kind: MaskKind,
    pictures: Sequence[Path],
    files: Sequence[Path | None],
    *,
    size: int,
    resize: str,
    cache_dir: Path | None,
    on_error: str,
) -> Masks:
    """The masks of N images from N files, None where there is none; H = W = ``size``.

    A mask goes the way of its image: turned as the image's EXIF says, unless it is upright
    already; then ``resize`` (squash, crop or pad, with False around a padded image), nearest
    neighbour. Where there is no file, it costs no room on disk (the array's file is sparse).

    cache_dir  memory-mapped, made anew when a path, size or modification time of a mask or its
               image changed; None: an array, nothing written
    on_error   "raise": the first mask that cannot be used ends it; "skip": it is left out

    Raises UserError: a file that gives no mask for its image.
    """
    recipe = Recipe(size, size, channels=1, resize=resize, interpolation="nearest")
    rows = [row for row, file in enumerate(files) if file is not None]

    def build(writer: Writer) -> dict:
        array = writer.create("masks", (len(pictures), size, size), np.dtype(bool))
        if rows:
            print(f"reading {len(rows)} masks to {size}x{size}", file=sys.stderr)

        def work(row: int) -> tuple[int, str]:
            try:
                mask, remark = _read(kind, pictures[row], files[row], recipe)
            except ImageError as error:
                if kind.needed or on_error == "raise":
                    raise
                return row, error.reason
            array.put(row, mask[None])
            return row, remark

        with warnings.catch_warnings(), ThreadPoolExecutor() as pool:
            warnings.filterwarnings("ignore", module="PIL")  # odd metadata is not about pixels
            try:
                remarks = [(row, remark) for row, remark in pool.map(work, rows) if remark]
            finally:
                pool.shutdown(cancel_futures=True)
        return {"remarks": remarks}

    paths = Files.of(path for row in rows for path in (pictures[row], files[row]))
    made_by = (*kind.version, on_error, DECODING, PIL.__version__)
    asked, state = fingerprint_files(paths, *made_by, [size, size], resize, len(pictures), rows)
    entry = load_or_build(cache_dir, f"masks-{asked}", state, build)
    remarks = entry.notes["remarks"]
    broken = [(row, why) for row, why in remarks if why not in kind.remarks]
    masked = np.array([file is not None for file in files])
    masked[[row for row, _ in broken]] = False
    notes = []
    if broken:
        row, why = broken[0]
        notes.append(f"{len(broken)} masks left out, the first: {files[row]} ({why})")
    for remark, line in kind.remarks.items():
        if found := [row for row, why in remarks if why == remark]:
            notes.append(line.format(count=len(found), first=files[found[0]]))
    return Masks(entry.arrays["masks"], masked, notes)


def _read(kind: MaskKind, picture: Path, file: Path, recipe: Recipe) -> tuple[np.ndarray, str]:
    """(H, W) bool and a remark. Raises ImageError, naming the file, if it gives no mask."""
    shape = Picture(*read_size_and_orientation(picture))
    try:
        mask, turn, remark = kind.read(file, shape)
    except MemoryError:
        raise  # the machine's failing, not the file's
    except PIL.UnidentifiedImageError:
        raise ImageError(file, "its content is no PNG", kind.way_out) from None
    except Exception as error:  # Pillow's readers raise almost anything on damaged data
        raise ImageError(file, describe_error(error), kind.way_out) from None
    image = Image.fromarray(mask.astype(np.uint8))
    image.getexif()[ORIENTATION] = turn
    return resize_image(ImageOps.exif_transpose(image), recipe)[..., 0].astype(bool), remark
