"""Images that look the same though their bytes differ: another size, compression or format.

Legend: N images, H height, W width, C channels (1 grey, 3 RGB).

A *signature* is the mean grey of each cell of a 4 × 4 grid: 16 numbers. Shrinking and compressing
hardly change them (by up to 2 of 255 in 99 of 100 photographs, by 3 at most; measured at halves and
quarters of the size and JPEG qualities of 75 to 95), but they differ by tens between photographs.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product

import numpy as np

from convlens.data.index.digests import UNREAD
from convlens.data.pixels.dataset import Conflict, Images

GRID = 4
_FINE = 16  # the grid on which candidates are compared
_FAR = 3.5  # most grey levels by which a cell of a lookalike may differ
# Fraction of the image's own contrast, on the fine grid. Lookalikes differ by a few hundredths,
# other images by more than half.
_UNLIKE = 0.2
_PLAIN = 2.0  # grey levels: an image that varies less is blank, and looks like any blank image
_CELL = 0.75  # grey levels: side of a cell in which neighbours are searched
_NEIGHBOURS = 64  # most neighbours compared in a cell: frames of a film may fill it with thousands
_AT_A_TIME = 1 << 19  # pairs in memory
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R 601


def compute_signature(image: np.ndarray, grid: int = GRID) -> np.ndarray:
    """Return (grid * grid,) float32: mean grey of each cell of an (H, W, C) uint8 image."""
    height, width, channels = image.shape
    rows = _build_averaging(height, grid) @ image.reshape(height, -1).astype(np.float32)
    parts = _build_averaging(width, grid) @ rows.reshape(grid, width, channels)  # (grid, grid, C)
    return (parts[..., 0] if channels == 1 else parts @ _LUMA).ravel()


@functools.lru_cache(maxsize=32)
def _build_averaging(size: int, grid: int) -> np.ndarray:
    """Return the (grid, size) float32 matrix that averages ``grid`` parts of ``size`` numbers."""
    edges = np.linspace(0, size, grid + 1).round().astype(int)
    part = np.searchsorted(edges, np.arange(size), side="right") - 1
    return ((part == np.arange(grid)[:, None]) / np.diff(edges)[:, None]).astype(np.float32)


def check_lookalikes(
    signatures: np.ndarray, parts: Mapping[str, Images], class_names: Sequence[str]
) -> tuple[list[str], list[Conflict]]:
    """Find lookalikes across splits, and lookalikes with different labels.

    Args:
        signatures: (N, 16), of the images of all ``parts`` in order.
        parts: the images of each split.
        class_names: K names.

    Returns:
        A line on each kind, without files with the same bytes, which ``convlens.data.index.twins``
        reports; and all pairs with different labels, with those files.
    """
    images = list(parts.values())
    starts = np.cumsum([0, *map(len, images)])
    split = np.repeat(np.arange(len(images)), np.diff(starts))
    labels = np.concatenate([part.labels for part in images])
    digests = np.concatenate([part.digests for part in images])

    def is_relevant(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        other = (split[first] != split[second]) | (labels[first] != labels[second])
        return other & (digests[first] != digests[second])

    def get_pixels(row: int) -> np.ndarray:
        return images[split[row]].pixels(np.array([row - starts[split[row]]]))[0]

    def get_name(row: int) -> str:
        return images[split[row]].names[row - starts[split[row]]]

    pairs, lines = find_lookalikes(signatures, is_relevant, get_pixels), []
    leaks = [pair for pair in pairs if split[pair[0]] != split[pair[1]]]
    if leaks:
        first, second = leaks[0]
        names = list(parts)
        lines.append(
            f"{_count_copies({second for _, second in leaks})} another split (other size, "
            f"compression or format): {get_name(first)} ({names[split[first]]}), "
            f"{get_name(second)} ({names[split[second]]}); results look better than they are"
        )
    conflicts = [pair for pair in pairs if labels[pair[0]] != labels[pair[1]]]
    if conflicts:
        first, second = conflicts[0]
        lines.append(
            f"{_count_copies({second for _, second in conflicts})} another class (other size, "
            f"compression or format): {get_name(first)} ({class_names[labels[first]]}), "
            f"{get_name(second)} ({class_names[labels[second]]}); labels conflict"
        )
    twins = _find_twins(digests, labels)
    names = list(parts)

    def locate(row: int) -> tuple[str, int]:
        return names[split[row]], int(row - starts[split[row]])

    return lines, [
        Conflict(*map(locate, pair), pair in twins) for pair in sorted({*conflicts, *twins})
    ]


def _find_twins(digests: np.ndarray, labels: np.ndarray) -> set[tuple[int, int]]:
    """Return pairs (first, second) of images with the same bytes and different labels.

    Of several such images, each is paired with the first that has another label.

    Args:
        digests: (N,) of the files.
        labels: (N,) the classes.
    """
    _, which = np.unique(digests, return_inverse=True)
    low, high = np.full(len(which), np.iinfo(np.int64).max), np.full(len(which), -1)
    np.minimum.at(low, which, labels)
    np.maximum.at(high, which, labels)
    mixed = np.flatnonzero((low < high)[which] & (digests != UNREAD))
    groups: dict[int, list[int]] = defaultdict(list)
    for row in mixed.tolist():
        groups[int(which[row])].append(row)
    pairs = set()
    for rows in groups.values():
        for row in rows:
            other = next(each for each in rows if labels[each] != labels[row])
            pairs.add((min(row, other), max(row, other)))
    return pairs


def _count_copies(rows: set[int]) -> str:
    return "1 image repeats one of" if len(rows) == 1 else f"{len(rows)} images repeat images of"


def find_lookalikes(
    signatures: np.ndarray,
    is_relevant: Callable[[np.ndarray, np.ndarray], np.ndarray],
    get_pixels: Callable[[int], np.ndarray],
) -> list[tuple[int, int]]:
    """Return sorted pairs (first, second) of images that look the same, the lower index first.

    Args:
        signatures: (N, 16), of each image.
        is_relevant: given two arrays of n indices, returns which pairs matter, (n,) bool.
        get_pixels: returns an image, (H, W, C) uint8.
    """
    pairs = set()
    for first, second in _find_candidates(np.asarray(signatures, np.float32)):
        keep = is_relevant(first, second)
        first, second = first[keep], second[keep]
        far = np.abs(signatures[first].astype(np.float32) - signatures[second])
        near = far.max(axis=1, initial=0) <= _FAR
        for pair in zip(first[near].tolist(), second[near].tolist(), strict=True):
            if _is_alike(*map(get_pixels, pair)):
                pairs.add((min(pair), max(pair)))
    return sorted(pairs)


def _is_alike(one: np.ndarray, other: np.ndarray) -> bool:
    grid = min(_FINE, *one.shape[:2])
    first, second = compute_signature(one, grid), compute_signature(other, grid)
    return np.abs(first - second).mean() <= _UNLIKE * np.abs(first - first.mean()).mean()


def _find_candidates(signatures: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield pairs of indices that are near in three means: overall, left - right, top - bottom."""
    rows = np.flatnonzero(signatures.std(axis=1) > _PLAIN)
    half = np.repeat([1.0, -1.0], GRID // 2)
    views = np.stack([np.ones((GRID, GRID)), np.tile(half, (GRID, 1)), np.tile(half, (GRID, 1)).T])
    places = signatures[rows] @ (views.reshape(3, -1).T.astype(np.float32) / GRID**2)
    cells = np.floor(places / _CELL).astype(np.int64) + 512  # within 0 … 1023
    steps = np.array([1 << 20, 1 << 10, 1])
    keys = cells @ steps
    order = np.argsort(keys, kind="stable")
    keys, rows = keys[order], rows[order]
    here = np.arange(len(keys))
    for offset in product((-1, 0, 1), repeat=3):
        if offset < (0, 0, 0):
            continue  # the opposite offset finds the same pairs
        target = keys + np.array(offset) @ steps
        start = np.searchsorted(keys, target) if any(offset) else here + 1
        count = np.clip(np.searchsorted(keys, target, side="right") - start, 0, _NEIGHBOURS)
        ends = np.cumsum(count)
        for low in range(0, int(ends[-1]) if len(ends) else 0, _AT_A_TIME):
            pair = np.arange(low, min(low + _AT_A_TIME, int(ends[-1])))
            first = np.searchsorted(ends, pair, side="right")
            second = start[first] + pair - (ends[first] - count[first])
            yield rows[first], rows[second]
