"""``data=shapes``: the embedded data set, which is drawn (``convlens.data.sources.shapes``)."""

from __future__ import annotations

from functools import partial

import numpy as np

from convlens.config.schema import DataConfig
from convlens.core.errors import UserError
from convlens.data.index.digests import make_numbered_digests
from convlens.data.index.labels import SPLITS
from convlens.data.index.splits import assign_splits
from convlens.data.pixels.cache import cache_arrays
from convlens.data.pixels.dataset import Dataset, Images
from convlens.data.sources import planted, shapes
from convlens.data.sources.places import resolve_cache
from convlens.data.sources.source import Index, read_split_fractions


def index_shapes(spec: DataConfig, seed: int) -> Index:
    """Return the index of the embedded data set; its test images have no mark and no wrong label.

    Args:
        spec: the config group ``data``.
        seed: decides the drawings and the split.

    Raises:
        UserError: a key is outside its range.
    """
    total, classes, (low, high) = spec.pictures, spec.classes, shapes.SIZES
    if total < 3 * classes:
        raise UserError(
            f"data.pictures={total}: need at least 3 per class (data.classes={classes})"
        )
    if not 2 <= classes <= len(shapes.CLASS_NAMES):
        raise UserError(
            f"data.classes={classes}: shapes has 2 to {len(shapes.CLASS_NAMES)} classes"
        )
    if not low <= spec.size <= high:
        raise UserError(f"data.size={spec.size}: shapes are drawn with {low} to {high} pixels")
    objects = spec.objects or 1  # earlier runs lack this key
    if objects > 1 and classes < 3:
        raise UserError(f"data.classes={classes}: two objects need 3 classes or more")
    if objects > 1 and spec.shortcut:
        raise UserError("data.shortcut marks the class of one object: set data.objects=1")
    if objects > 1 and spec.label_noise:
        raise UserError("data.label_noise changes the class of one object: set data.objects=1")
    kind = spec.shortcut_kind or "corner"  # earlier runs lack this key
    if spec.shortcut and kind == "watermark" and spec.size < planted.SMALLEST_TEXT:
        raise UserError(
            f"data.shortcut_kind=watermark needs data.size={planted.SMALLEST_TEXT} or more"
        )
    names = shapes.CLASS_NAMES[:classes]
    assigned = assign_splits(np.arange(total) % classes, seed=seed, **read_split_fractions(spec))
    sizes = {split: int((assigned == split).sum()) for split in SPLITS}
    settings = {"seed": seed, "classes": classes, "size": spec.size, "channels": spec.channels}

    def label(split: str, stream: int) -> np.ndarray:
        labels = np.arange(sizes[split]) % classes
        if not spec.label_noise or split == "test":
            return labels
        return planted.flip_labels(labels, spec.label_noise, classes, seed, stream)

    def draw(stream: int, split: str) -> Images:
        count = sizes[split]
        # an image's identity does not depend on how many are drawn, nor on a mark
        drawing = {"drawing": shapes.VERSION, "split": split, **settings}
        if objects > 1:
            drawing["objects"] = objects
        make = partial(shapes.draw_shapes, count, stream=stream, objects=objects, **settings)
        arrays = cache_arrays({**drawing, "count": count}, make, resolve_cache(spec))
        images, drawn = arrays["images"], np.asarray(arrays["labels"])
        several = {}
        if spec.shortcut and split != "test":
            images = np.array(images)
            marking = {"seed": seed, "stream": stream, "kind": kind}
            several["marked"] = planted.paint_shortcut(
                images, drawn, spec.shortcut, names, **marking
            )
        titles = [f"shapes/{split}/{number}" for number in range(count)]
        digests = make_numbered_digests(count, drawing)
        if "present" in arrays:
            several["present"] = np.asarray(arrays["present"])
            several["objects"] = lambda image, label: arrays["objects"][image] == 1 + label
        if spec.label_noise:
            several["drawn"] = drawn
        return Images(
            images, label(split, stream), titles, arrays["masks"], digests=digests, **several
        )

    def load() -> Dataset:
        return Dataset({split: draw(i, split) for i, split in enumerate(SPLITS)}, names)

    counts = {
        split: np.bincount(label(split, stream), minlength=classes)
        for stream, split in enumerate(SPLITS)
    }
    if objects == 1:
        return Index(names, counts, load, masked=sizes)
    with_class = {
        split: shapes.list_classes(count, classes, seed, stream).sum(axis=0)
        for stream, (split, count) in enumerate(sizes.items())
    }
    return Index(names, counts, load, masked=sizes, with_class=with_class)
