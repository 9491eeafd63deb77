"""Folders of small pictures for the scaling benchmark, made on the spot.

Every picture is a JPEG file of its own content, 16 x 16 pixels and about half a kilobyte: colours
drawn by a seeded generator, and the picture's number in its first pixels' brightness. They lie in
class folders, ``<folder>/class_0012/000345.jpg``.
"""

import os
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image
from rounds import available_cores

EDGE = 16  # pixels
QUALITY = 80


def classes_of(pictures: int, most: int) -> int:
    """Classes of a folder: ``most``, but at least ten pictures in each, for each split wants some.

    >>> classes_of(1000, 1000), classes_of(1_000_000, 1000)
    (100, 1000)
    """
    return max(2, min(most, pictures // 10))


def make(folder: Path, pictures: int, classes: int) -> None:
    """Write ``pictures`` files in ``classes`` folders, on every core."""
    folder.mkdir(parents=True)
    ends = [pictures * number // classes for number in range(classes + 1)]
    jobs = [
        (folder / f"class_{number:04}", range(start, stop))
        for number, (start, stop) in enumerate(pairwise(ends))
    ]
    with ProcessPoolExecutor(len(available_cores())) as pool:
        for _ in pool.map(_make_class, jobs, chunksize=max(1, min(16, classes // 8))):
            pass


def _make_class(job: tuple[Path, range]) -> None:
    folder, numbers = job
    folder.mkdir()
    rng = np.random.default_rng((numbers.start, len(numbers)))
    coarse = rng.integers(0, 256, (len(numbers), EDGE // 4, EDGE // 4, 3), dtype=np.uint8)
    whole = coarse.repeat(4, axis=1).repeat(4, axis=2)
    for number, pixels in zip(numbers, whole, strict=True):
        bits = np.unpackbits(np.frombuffer(number.to_bytes(4, "big"), np.uint8))
        pixels[:2] = 255 * bits.reshape(2, EDGE, 1)
        with open(os.path.join(folder, f"{number:07}.jpg"), "wb", buffering=0) as file:
            Image.fromarray(pixels).save(file, "JPEG", quality=QUALITY)
