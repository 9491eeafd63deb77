"""Threshold samples: training images whose labels are certainly wrong, to find a cut for others.

They get a class of their own that no image belongs to, so that a network can only memorise them.
Training images with a lower mean margin than nearly all of them are probably mislabelled (Pleiss et
al. 2020, arXiv:2001.10528, section 4). Only ``convlens.experiment.audit`` trains such networks.

Legend: N training images, K classes.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from convlens.core.errors import UserError
from convlens.data.index.generators import make_generator
from convlens.data.index.listing import Listing

CLASS_NAME = "threshold sample"
PARTS = (1, 2)
_STREAM = 11  # of random numbers, which depend on the seed and this


def draw_threshold_samples(labels: np.ndarray, classes: int, part: int, seed: int) -> np.ndarray:
    """Return the positions of the N / (K + 1) threshold samples of a part, rounded, ascending.

    The samples of the two parts have no image in common. An image of each class never is one, so
    that no class becomes empty.

    Args:
        labels: (N,) the classes of the training images.
        classes: K.
        part: 1 or 2.
        seed: decides which images.
    """
    order = make_generator(seed, _STREAM).permutation(len(labels))
    kept = order[np.unique(labels[order], return_index=True)[1]]
    free = order[~np.isin(order, kept)]
    count = min(round(len(labels) / (classes + 1)), len(free) // len(PARTS))
    return np.sort(free[(part - 1) * count : part * count])


def add_threshold_class(listing: Listing, part: int, seed: int) -> Listing:
    """Return the listing with one more class, ``CLASS_NAME``, of the training images of a part.

    Args:
        listing: divided into splits, with one class per image.
        part: 1 or 2.
        seed: decides which images.

    Raises:
        UserError: images may have several classes, or there are too few.
    """
    names = listing.class_names
    if listing.present is not None or CLASS_NAME in names or listing.splits is None:
        raise UserError(
            f"data.threshold_samples={part}: needs one class per image, none {CLASS_NAME!r}"
        )
    train = np.flatnonzero(listing.splits == "train")
    chosen = draw_threshold_samples(listing.labels[train], len(names), part, seed)
    if not len(chosen):
        raise UserError(
            f"data.threshold_samples={part}: {len(train)} training images of {len(names)} classes "
            f"are too few to choose some"
        )
    labels = listing.labels.copy()
    labels[train[chosen]] = len(names)
    return replace(listing, labels=labels, class_names=(*names, CLASS_NAME))
