"""Load masks of any kind: rotated and resized like their images, read once, cached on disk.

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
from convlens.data.index.folders import count_noun
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
class ImageShape:
    """What a mask has to fit.

    Attributes:
        stored: (w, h) of the pixels in the file.
        turn: the EXIF orientation, which rotates them upright.
        path: the image file.
    """

    stored: tuple[int, int]
    turn: int
    path: Path

    @property
    def upright(self) -> tuple[int, int]:
        """(w, h) of the upright image."""
        return self.stored[::-1] if self.turn in (5, 6, 7, 8) else self.stored


@dataclass(frozen=True)
class MaskKind:
    """A kind of mask files.

    Attributes:
        version: name of the kind, version of its masks and whatever else they depend on, JSON-able;
            raise the version when they change, so that caches are rebuilt.
        read: (file, image) -> mask, (h, w) bool; the EXIF orientation by which to rotate it, 1
            if it is upright; a remark, or "".
        remarks: remark -> line to report to the user, with the ``count`` of masks that have it and
            the ``first`` of their files.
        way_out: ends the error about a file that contains no mask.
        needed: whether such a file is an error whatever ``on_error`` says.
    """

    version: tuple[object, ...]
    read: Callable[[Path, ImageShape], tuple[np.ndarray, int, str]]
    remarks: Mapping[str, str]
    way_out: str
    needed: bool


@dataclass(frozen=True)
class Masks:
    """The masks of N images.

    Attributes:
        masks: (N, H, W) bool, True on the object; a read-only memory map or an array.
        masked: (N,) bool; False if an image has no mask; its row of ``masks`` is then all False.
        notes: lines to report to the user, such as masks left out.
    """

    masks: np.ndarray
    masked: np.ndarray
    notes: list[str]


def read_masks(
    kind: MaskKind,
    images: Sequence[Path],
    files: Sequence[Path | None],
    *,
    size: int,
    resize: str,
    cache_dir: Path | None,
    on_error: str,
) -> Masks:
    """Read the masks of N images from N files (None for no mask); H = W = ``size``.

    A mask is treated like its image: rotated as the image's EXIF says, unless it is upright;
    then resized by ``resize`` (squash, crop or pad, with False around a padded image), nearest
    neighbour. A mask without a file takes no disk space (the array's file is sparse).

    Args:
        kind: the kind of mask files.
        images: N image files.
        files: N mask files.
        size: height and width of the masks in pixels.
        resize: "squash", "crop" or "pad".
        cache_dir: folder of a memory-mapped cache, rebuilt when a path, size or modification time
            of a mask or its image changes; None: return an array and write nothing.
        on_error: "raise": stop at the first mask that cannot be used; "skip": leave it out.

    Raises:
        UserError: a file contains no mask for its image.
    """
    recipe = Recipe(size, size, channels=1, resize=resize, interpolation="nearest")
    rows = [row for row, file in enumerate(files) if file is not None]

    def build(writer: Writer) -> dict:
        array = writer.create("masks", (len(images), size, size), np.dtype(bool))
        if rows:
            print(f"reading {len(rows)} masks to {size}x{size}", file=sys.stderr)

        def work(row: int) -> tuple[int, str]:
            try:
                mask, remark = read_mask(kind, images[row], files[row], recipe)
            except ImageError as error:
                if kind.needed or on_error == "raise":
                    raise
                return row, error.reason
            array.put(row, mask[None])
            return row, remark

        with warnings.catch_warnings(), ThreadPoolExecutor() as pool:
            # odd metadata does not affect the pixels
            warnings.filterwarnings("ignore", module="PIL")
            try:
                remarks = [(row, remark) for row, remark in pool.map(work, rows) if remark]
            finally:
                pool.shutdown(cancel_futures=True)
        return {"remarks": remarks}

    paths = Files.of(path for row in rows for path in (images[row], files[row]))
    made_by = (*kind.version, on_error, DECODING, PIL.__version__)
    request, state = fingerprint_files(paths, *made_by, [size, size], resize, len(images), rows)
    entry = load_or_build(cache_dir, f"masks-{request}", state, build)
    remarks = entry.notes["remarks"]
    broken = [(row, reason) for row, reason in remarks if reason not in kind.remarks]
    masked = np.array([file is not None for file in files])
    masked[[row for row, _ in broken]] = False
    notes = []
    if broken:
        row, reason = broken[0]
        what = count_noun(len(broken), "mask", "masks")
        notes.append(f"{what} left out, the first: {files[row]} ({reason})")
    for remark, line in kind.remarks.items():
        if matching := [row for row, reason in remarks if reason == remark]:
            notes.append(line.format(count=len(matching), first=files[matching[0]]))
    return Masks(entry.arrays["masks"], masked, notes)


def read_mask(kind: MaskKind, path: Path, file: Path, recipe: Recipe) -> tuple[np.ndarray, str]:
    """Return a mask, (H, W) bool, and a remark.

    Args:
        kind: the kind of mask file.
        path: the image.
        file: its mask file.
        recipe: how the image is resized; with one channel and ``nearest``.

    Raises:
        ImageError: the file contains no mask; the error names it.
    """
    shape = ImageShape(*read_size_and_orientation(path), path)
    try:
        mask, turn, remark = kind.read(file, shape)
    except MemoryError:
        raise  # the machine lacks memory; the file may be fine
    except PIL.UnidentifiedImageError:
        raise ImageError(file, "its content is not PNG", kind.way_out) from None
    except Exception as error:  # Pillow's readers raise almost anything on damaged data
        raise ImageError(file, describe_error(error), kind.way_out) from None
    image = Image.fromarray(mask.astype(np.uint8))
    image.getexif()[ORIENTATION] = turn
    return resize_image(ImageOps.exif_transpose(image), recipe)[..., 0].astype(bool), remark
