"""``data=shapes``: the embedded set, drawn (:mod:`~convlens.data.sources.shapes`), not read."""

from __future__ import annotations

import numpy as np

from convlens.config.schema import DataConfig
from convlens.core.errors import UserError
from convlens.data.index.digests import numbered_digests
from convlens.data.index.labels import SPLITS
from convlens.data.index.splits import split as divide
from convlens.data.pixels.cache import cached_arrays
from convlens.data.pixels.pictures import Dataset, Pictures
from convlens.data.sources import shapes
from convlens.data.sources.places import cache_dir
from convlens.data.sources.source import Index, split_shares


def shapes_index(spec: DataConfig, seed: int) -> Index:
    """The embedded set: drawn, not read; the test pictures never carry the shortcut's marks."""
    total, classes = spec.pictures, spec.classes
    if total < 3 * classes:
        raise UserError(f"data.pictures={total}: at least 3 for each of data.classes={classes}")
    if not 2 <= classes <= len(shapes.CLASS_NAMES):
        raise UserError(
            f"data.classes={classes}: shapes can draw 2 to {len(shapes.CLASS_NAMES)} classes"
        )
    names = shapes.CLASS_NAMES[:classes]
    assigned = divide(np.arange(total) % classes, seed=seed, **split_shares(spec))
    sizes = {split: int((assigned == split).sum()) for split in SPLITS}

    def draw(stream: int, split: str) -> Pictures:
        def make() -> dict[str, np.ndarray]:
            drawn = shapes.draw_shapes(
                sizes[split], size=spec.size, channels=spec.channels, classes=classes,
                seed=seed, stream=stream,
            )  # fmt: skip
            return {"images": drawn.images, "labels": drawn.labels, "masks": drawn.masks}

        key = dict(
            drawing=shapes.VERSION, split=split, count=sizes[split], seed=seed, classes=classes,
            size=spec.size, channels=spec.channels,
        )  # fmt: skip
        arrays = make() if spec.cache == "ram" else cached_arrays(key, make, cache_dir())
        images = arrays["images"]
        if spec.shortcut and split != "test":
            images = np.array(images)
            shapes.paint_shortcut(images, arrays["labels"], spec.shortcut, classes, seed, stream)
        titles = [f"shapes/{split}/{number}" for number in range(sizes[split])]
        # a picture is what it is drawn from; how many are drawn changes nothing, nor does a mark
        drawing = {name: key[name] for name in key if name != "count"}
        return Pictures(
            images, np.asarray(arrays["labels"]), titles, arrays["masks"],
            digests=numbered_digests(sizes[split], drawing),
        )  # fmt: skip

    def load() -> Dataset:
        return Dataset({split: draw(i, split) for i, split in enumerate(SPLITS)}, names)

    counts = {s: np.bincount(np.arange(n) % classes, minlength=classes) for s, n in sizes.items()}
    return Index(names, counts, load, masked=sizes)
