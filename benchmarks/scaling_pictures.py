"""Create folders of small images for the scaling benchmark.

Every image is a different JPEG file of 16 x 16 pixels and about half a kilobyte. A seeded generator
draws its colours, and the brightness of its first pixels encodes its number. Files are in class
folders, ``<folder>/class_0012/0000345.jpg``.
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
    """Return the number of classes: ``most``, or fewer if a class had less than ten images.

    >>> classes_of(1000, 1000), classes_of(1_000_000, 1000)
    (100, 1000)
    """
    return max(2, min(most, pictures // 10))


def make(folder: Path, pictures: int, classes: int) -> None:
    """Write ``pictures`` files into ``classes`` folders, on all cores."""
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
