"""Train, validation and test: dividing images, each class in proportion.

Legend: N images, K classes. A *share* is a number: below 1 a fraction of all images that are
divided, from 1 on a count (a whole number), 0 for none. What is left is training data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from convlens.core.errors import UserError
from convlens.data.index.labels import SPLITS
from convlens.data.index.listing import Listing

Share = int | float


def assign_splits(
    labels: np.ndarray,
    *,
    validation: Share,
    test: Share,
    seed: int,
    class_names: Sequence[str] | None = None,
) -> np.ndarray:
    """Divide N images, each class in proportion: (N,) array of "train", "validation", "test".

    labels       (N,) integers
    validation   share of all N images (see the module); test likewise, not of what is left
    seed         >= 0; the result is a function of (labels, shares, seed), on every machine
    class_names  for error messages, indexed by label

    The totals are exact (fractions rounded half up); within them each class gets its part by
    largest remainders, but at least one image in train and one in every split asked for. So a
    class with fewer images than splits, or a split with fewer images than classes, is refused.

    Within a class the images are ranked by random keys; test takes the first, validation the
    next: a larger validation share does not change the test images, nor do other classes.

    >>> parts = assign_splits(np.array([0] * 6 + [1] * 4), validation=0.2, test=0.2, seed=0)
    >>> parts.tolist().count("test")
    2
    """
    labels = np.asarray(labels)
    if not isinstance(seed, int | np.integer) or isinstance(seed, bool) or seed < 0:
        raise UserError(f"seed={seed} does not seed a split: choose a whole number from 0 on")
    wanted = {
        "test": _count("test", test, len(labels)),
        "validation": _count("validation", validation, len(labels)),
    }
    classes, sizes = np.unique(labels, return_counts=True)
    parts = _parts(wanted, classes, sizes, class_names)
    assigned = np.full(len(labels), "train", dtype=np.array(SPLITS).dtype)
    rows_by_class = np.split(np.argsort(labels, kind="stable"), np.cumsum(sizes)[:-1])
    for label, rows, to_test, to_validation in zip(classes, rows_by_class, *parts, strict=True):
        # raw words, sorted: unlike shuffling, their stream never changes between numpy versions
        keys = np.random.PCG64(np.random.SeedSequence((seed, int(label)))).random_raw(len(rows))
        ranked = rows[np.argsort(keys, kind="stable")]
        assigned[ranked[:to_test]] = "test"
        assigned[ranked[to_test : to_test + to_validation]] = "validation"
    return assigned


def _count(name: str, share: Share, total: int) -> int:
    """How many images a share means."""
    number = isinstance(share, int | float | np.number) and not isinstance(share, bool)
    if not number or not 0 <= share < float("inf") or (share >= 1 and share != int(share)):
        raise UserError(
            f"{name}={share}: a fraction below 1, or a whole number of images, is expected"
        )
    # 1e-9: 0.29 * 50 is 14.499999999999998 and means 14.5
    return int(share) if share >= 1 else int(share * total + 0.5 + 1e-9)


def _parts(
    wanted: dict[str, int],
    classes: np.ndarray,
    sizes: np.ndarray,
    class_names: Sequence[str] | None,
) -> tuple[np.ndarray, np.ndarray]:
    """(K,) images per class for test, and for validation; test takes first."""
    asked = [name for name, count in wanted.items() if count]
    for name in asked:
        if wanted[name] < len(classes):
            raise UserError(
                f"{name} would get {wanted[name]} images for {len(classes)} classes: "
                f"every class needs one there; raise {name} or add images"
            )
    smallest = int(np.argmin(sizes))
    if sizes[smallest] < 1 + len(asked):
        label = classes[smallest]
        named = class_names[label] if class_names is not None else int(label)
        raise UserError(
            f"class {named!r} has {sizes[smallest]} images, too few for train and "
            f"{' and '.join(reversed(asked))}: add images, remove the class, or ask for no "
            f"{asked[0]} images ({asked[0]}=0)"
        )
    left = int(sizes.sum()) - sum(wanted.values())
    if left < len(classes):
        raise UserError(
            f"validation={wanted['validation']} and test={wanted['test']} images leave "
            f"{max(left, 0)} of {sizes.sum()} for training, less than one for each of "
            f"{len(classes)} classes: lower them"
        )
    to_test = _apportion(wanted["test"], sizes, sizes - 1 - bool(wanted["validation"]))
    to_validation = _apportion(wanted["validation"], sizes, sizes - to_test - 1)
    return to_test, to_validation


def _apportion(total: int, sizes: np.ndarray, most: np.ndarray) -> np.ndarray:
    """``total`` over the classes in proportion to ``sizes``, by largest remainders.

    Each class gets at least one (none if ``total`` is 0) and at most ``most``. In whole numbers:
    a class's claim is total * size - given * N, largest first, the first class on equal claims.
    """
    if total == 0:
        return np.zeros_like(sizes)
    everything = int(sizes.sum())
    given = np.clip(total * sizes // everything, 1, most)
    while given.sum() != total:
        claim = total * sizes - given * everything
        if given.sum() < total:
            given[np.argmax(np.where(given < most, claim, np.iinfo(claim.dtype).min))] += 1
        else:
            given[np.argmin(np.where(given > 1, claim, np.iinfo(claim.dtype).max))] -= 1
    return given


def resolve_splits(listing: Listing, *, validation: Share, test: Share, seed: int) -> Listing:
    """The listing with every image in a split; what the layout has already is kept as it is.

    A split the layout lacks is taken off its training images, and fractions are then of those;
    the share of a split that is there is not looked at. Raises UserError as ``split`` does.
    """
    present = listing.present_splits
    rows = listing.splits == "train" if present else slice(None)
    assigned = taken = assign_splits(
        listing.labels[rows],
        validation=0 if "validation" in present else validation,
        test=0 if "test" in present else test,
        seed=seed,
        class_names=listing.class_names,
    )
    if present:
        assigned = listing.splits.astype(taken.dtype)
        assigned[rows] = taken
    return replace(listing, splits=assigned)
