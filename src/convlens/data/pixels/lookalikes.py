"""Images that look the same though their bytes differ: another size, compression or format.

Legend: N images, H height, W width, C channels (1 grey, 3 RGB).

A *look* is the mean grey of each part of a 4 × 4 grid: 16 numbers that shrinking and compressing
hardly move (by 2 of 255 in 99 of 100 photographs, by 3 at most, measured at halves and quarters of
the size and JPEG qualities of 75 to 95), and that differ by tens between photographs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product

import numpy as np

from convlens.data.pixels.dataset import Images

GRID = 4
_FINE = 16  # the grid on which candidates are compared
_FAR = 3.5  # grey levels by which a part of a twin may differ
# Of the image's own contrast, on the fine grid. Twins differ by a few hundredths, others by more
# than half.
_UNLIKE = 0.2
_PLAIN = 2.0  # grey levels: what varies less is blank, and looks like all that is blank
_CELL = 0.75  # grey levels: the side of a cell in which neighbours are looked for
_NEIGHBOURS = 64  # looked at in a cell: of a film's frames there may be thousands
_AT_A_TIME = 1 << 19  # pairs that are held
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R 601


def compute_signature(picture: np.ndarray, grid: int = GRID) -> np.ndarray:
    """(grid * grid,) float32 mean grey levels of the parts of an (H, W, C) uint8 image."""
    height, width, channels = picture.shape
    rows = _means(height, grid) @ picture.reshape(height, -1).astype(np.float32)
    parts = _means(width, grid) @ rows.reshape(grid, width, channels)  # (grid, grid, C)
    return (parts[..., 0] if channels == 1 else parts @ _LUMA).ravel()


@functools.lru_cache(maxsize=32)
def _means(size: int, grid: int) -> np.ndarray:
    """(grid, size) float32 that takes the means of ``grid`` parts of ``size`` numbers."""
    edges = np.linspace(0, size, grid + 1).round().astype(int)
    part = np.searchsorted(edges, np.arange(size), side="right") - 1
    return ((part == np.arange(grid)[:, None]) / np.diff(edges)[:, None]).astype(np.float32)


def describe_lookalikes(
    looks: np.ndarray, parts: Mapping[str, Images], class_names: Sequence[str]
) -> list[str]:
    """One line on images that look like one in another split, and one on those of two classes.

    looks  (N, 16), of the images of all ``parts``, one behind the other. Files of the same bytes
           are not spoken of here.
    """
    pictures = list(parts.values())
    starts = np.cumsum([0, *map(len, pictures)])
    split = np.repeat(np.arange(len(pictures)), np.diff(starts))
    labels = np.concatenate([part.labels for part in pictures])
    digests = np.concatenate([part.digests for part in pictures])

    def apart(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        other = (split[first] != split[second]) | (labels[first] != labels[second])
        return other & (digests[first] != digests[second])

    def pixels(row: int) -> np.ndarray:
        return pictures[split[row]].pixels(np.array([row - starts[split[row]]]))[0]

    def name(row: int) -> str:
        return pictures[split[row]].names[row - starts[split[row]]]

    pairs, lines = find_lookalikes(looks, apart, pixels), []
    across = [pair for pair in pairs if split[pair[0]] != split[pair[1]]]
    if across:
        first, second = across[0]
        names = list(parts)
        lines.append(
            f"{_pictures({second for _, second in across})} of another split in another "
            f"size, compression or format, such as {name(first)} ({names[split[first]]}) and "
            f"{name(second)} ({names[split[second]]}); results are too good"
        )
    contrary = [pair for pair in pairs if labels[pair[0]] != labels[pair[1]]]
    if contrary:
        first, second = contrary[0]
        lines.append(
            f"{_pictures({second for _, second in contrary})} of another class in another "
            f"size, compression or format, such as {name(first)} ({class_names[labels[first]]}) "
            f"and {name(second)} ({class_names[labels[second]]}); their labels conflict"
        )
    return lines


def _pictures(rows: set[int]) -> str:
    return "1 image repeats one" if len(rows) == 1 else f"{len(rows)} images repeat images"


def find_lookalikes(
    looks: np.ndarray,
    apart: Callable[[np.ndarray, np.ndarray], np.ndarray],
    pixels: Callable[[int], np.ndarray],
) -> list[tuple[int, int]]:
    """Pairs (first, second) of images that look the same, the first the lower index, sorted.

    looks   (N, 16), of each image
    apart   for two arrays of indices, which pairs matter, (n,) bool
    pixels  gives an image, (H, W, C) uint8
    """
    found = set()
    for first, second in _candidates(np.asarray(looks, np.float32)):
        keep = apart(first, second)
        first, second = first[keep], second[keep]
        near = np.abs(looks[first].astype(np.float32) - looks[second]).max(axis=1, initial=0)
        for pair in zip(first[near <= _FAR].tolist(), second[near <= _FAR].tolist(), strict=True):
            if _alike(*map(pixels, pair)):
                found.add((min(pair), max(pair)))
    return sorted(found)


def _alike(one: np.ndarray, other: np.ndarray) -> bool:
    grid = min(_FINE, *one.shape[:2])
    first, second = compute_signature(one, grid), compute_signature(other, grid)
    return np.abs(first - second).mean() <= _UNLIKE * np.abs(first - first.mean()).mean()


def _candidates(looks: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of indices that lie near each other in three means: of all, across, and down."""
    rows = np.flatnonzero(looks.std(axis=1) > _PLAIN)
    half = np.repeat([1.0, -1.0], GRID // 2)
    views = np.stack([np.ones((GRID, GRID)), np.tile(half, (GRID, 1)), np.tile(half, (GRID, 1)).T])
    places = looks[rows] @ (views.reshape(3, -1).T.astype(np.float32) / GRID**2)
    cells = np.floor(places / _CELL).astype(np.int64) + 512  # within 0 … 1023
    steps = np.array([1 << 20, 1 << 10, 1])
    keys = cells @ steps
    order = np.argsort(keys, kind="stable")
    keys, rows = keys[order], rows[order]
    here = np.arange(len(keys))
    for offset in product((-1, 0, 1), repeat=3):
        if offset < (0, 0, 0):
            continue  # its opposite finds the same pairs
        wanted = keys + np.array(offset) @ steps
        start = np.searchsorted(keys, wanted) if any(offset) else here + 1
        count = np.clip(np.searchsorted(keys, wanted, side="right") - start, 0, _NEIGHBOURS)
        ends = np.cumsum(count)
        for low in range(0, int(ends[-1]) if len(ends) else 0, _AT_A_TIME):
            pair = np.arange(low, min(low + _AT_A_TIME, int(ends[-1])))
            first = np.searchsorted(ends, pair, side="right")
            second = start[first] + pair - (ends[first] - count[first])
            yield rows[first], rows[second]
