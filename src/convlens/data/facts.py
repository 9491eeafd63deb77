"""Facts about the images of a run: counts, copies, broken files, sizes of the originals.

Legend: N images, K classes.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from convlens.config.schema import DataConfig
from convlens.data.datamodule import PictureData
from convlens.data.index.digests import UNREAD
from convlens.data.pixels.dataset import Dataset, Images

REASONS, FIRST = 10, 5  # most reasons and broken files that are listed
CONFLICT_COLUMNS = ("file", "class", "split", "other_file", "other_class", "other_split", "same")
OBLONG = 1.1  # an image counts as oblong if its longer side exceeds the shorter by this factor


def collect_facts(data: PictureData) -> dict[str, Any]:
    """Return facts about the decoded images, JSON-able (``data.json``, docs/runs.md).

    Returns:
        ``name``; ``classes``, K names; ``images``, split to K counts, and ``totals``, split to the
        number of images, which is less than their sum if images have several classes; ``notes``,
        the lines about the data in the log; ``skipped``, files that could not be decoded:
        ``count``, ``reasons`` (reason without its numbers, and count) and ``first`` (file and
        reason); ``copies``, see ``count_copies``, ``conflicts``, see ``list_conflicts``, and
        ``originals``, see ``measure_originals``: all None unless the images are files.
    """
    dataset = data.dataset
    parts = list(dataset.splits.values())
    # "48 bytes not processed" and "52 bytes not processed" are one reason
    reasons = Counter(re.sub(r"\d[\d,.]*", "…", reason) for _, reason in dataset.skipped)
    has_files = data.index.listing is not None
    return {
        "name": data.spec.name,
        "classes": list(data.class_names),
        "images": {split: counts.tolist() for split, counts in data.index.with_class.items()},
        "totals": {split: int(counts.sum()) for split, counts in data.index.counts.items()},
        "notes": data.notes,
        "skipped": {
            "count": len(dataset.skipped),
            "reasons": reasons.most_common(REASONS),
            "first": dataset.skipped[:FIRST],
        },
        "copies": count_copies(parts) if has_files else None,
        "conflicts": {
            "count": len(dataset.conflicts),
            "first": list(list_conflicts(dataset))[:FIRST],
        }
        if has_files
        else None,
        "originals": measure_originals(parts, data.spec) if has_files else None,
    }


def count_copies(parts: Sequence[Images]) -> dict[str, int]:
    """Count files with the same bytes.

    Args:
        parts: the images of each split.

    Returns:
        ``repeated``: files that repeat another one; ``in_splits`` and ``in_classes``: different
        images that are in several splits or several classes.
    """
    digests = np.concatenate([part.digests for part in parts])
    known = digests != UNREAD
    split = np.repeat(np.arange(len(parts)), list(map(len, parts)))[known]
    labels = np.concatenate([part.labels for part in parts])[known]
    images, which = np.unique(digests[known], return_inverse=True)
    counts = {"repeated": len(which) - len(images)}
    for key, group in (("in_splits", split), ("in_classes", labels)):
        low, high = np.full(len(images), np.iinfo(np.int64).max), np.full(len(images), -1)
        np.minimum.at(low, which, group)
        np.maximum.at(high, which, group)
        counts[key] = int((low < high).sum())
    return counts


def list_conflicts(dataset: Dataset) -> Iterator[tuple[str, ...]]:
    """Yield images that look the same and have different labels, as ``CONFLICT_COLUMNS``."""
    for each in dataset.conflicts:
        cells: list[str] = []
        for split, row in (each.first, each.second):
            images = dataset.splits[split]
            cells += [str(images.names[row]), dataset.class_names[images.labels[row]], split]
        yield (*cells, "bytes" if each.same_bytes else "looks")


def measure_originals(parts: Sequence[Images], spec: DataConfig) -> dict[str, Any]:
    """Describe the sizes of the files before they were resized.

    Args:
        parts: the images of each split, with ``sizes``.
        spec: the config group ``data``.

    Returns:
        ``smallest``, ``median`` and ``largest``, [w, h] in pixels of the images at these places in
        the order of their area; ``enlarged``, how many have fewer pixels than the network sees, in
        width or height; ``size`` and ``resize`` of the config; ``oblong``, how many have sides that
        differ by more than a tenth; ``median_ratio`` and ``largest_ratio``, longer by shorter side.
    """
    sizes = np.concatenate([part.sizes for part in parts]).astype(np.int64)
    order = sizes[np.argsort(sizes.prod(axis=1), kind="stable")]
    short, long = sizes.min(axis=1), sizes.max(axis=1)
    ratios = long / short
    return {
        "smallest": order[0].tolist(),
        "median": order[(len(order) - 1) // 2].tolist(),
        "largest": order[-1].tolist(),
        # padded images are scaled by their longer side, all others also by the shorter one
        "enlarged": int(((long if spec.resize == "pad" else short) < spec.size).sum()),
        "size": spec.size,
        "resize": spec.resize,
        "oblong": int((ratios > OBLONG).sum()),
        "median_ratio": float(np.median(ratios)),
        "largest_ratio": float(ratios.max()),
    }
