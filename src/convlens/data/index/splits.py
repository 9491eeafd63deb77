"""Divide images into train, validation and test, each class in proportion.

Legend: N images, K classes. The size of a split is a number: below 1, the fraction of the images to
divide; from 1 on, a count (a whole number); 0 for no such split. The remaining images are training
data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from convlens.core.errors import UserError
from convlens.data.index.labels import SPLITS
from convlens.data.index.listing import Listing

Share = int | float  # the size of a split


def assign_splits(
    labels: np.ndarray,
    *,
    validation: Share,
    test: Share,
    seed: int,
    class_names: Sequence[str] | None = None,
) -> np.ndarray:
    """Divide N images, each class in proportion; return (N,) "train", "validation" or "test".

    The totals are exact (fractions rounded half up). Within them, each class gets its part by the
    largest-remainder method, but at least one image in train and in every requested split. So a
    class with fewer images than splits, or a split with fewer images than classes, is refused.

    Within a class, images are ranked by random keys; test takes the first ones, validation the
    next. So a larger validation split does not change the test images, nor do other classes.

    Args:
        labels: (N,) integers.
        validation: size of the split, of all N images.
        test: size of the split, also of all N images, not of the remaining ones.
        seed: >= 0; the result depends only on (labels, sizes, seed), on every machine.
        class_names: for error messages, indexed by label.

    Raises:
        UserError: the sizes are not possible.

    >>> labels = np.array([0] * 6 + [1] * 4)
    >>> assign_splits(labels, validation=0.2, test=0.2, seed=0).tolist().count("test")
    2
    """
    labels = np.asarray(labels)
    if not isinstance(seed, int | np.integer) or isinstance(seed, bool) or seed < 0:
        raise UserError(f"seed={seed} is not a seed for a split: choose a whole number, at least 0")
    counts = {
        "test": _count_images("test", test, len(labels)),
        "validation": _count_images("validation", validation, len(labels)),
    }
    classes, sizes = np.unique(labels, return_counts=True)
    parts = _divide_counts(counts, classes, sizes, class_names)
    assigned = np.full(len(labels), "train", dtype=np.array(SPLITS).dtype)
    ranked_rows = _rank_rows(labels, classes, sizes, seed)
    for ranked, to_test, to_validation in zip(ranked_rows, *parts, strict=True):
        assigned[ranked[:to_test]] = "test"
        assigned[ranked[to_test : to_test + to_validation]] = "validation"
    return assigned


def assign_fold(
    labels: np.ndarray,
    *,
    fold: int,
    folds: int,
    validation: Share,
    seed: int,
    class_names: Sequence[str] | None = None,
) -> np.ndarray:
    """Divide N images for a fold of a cross-validation; return (N,) as ``assign_splits`` does.

    Every image is a test image in exactly one fold. The folds have equal numbers of images, and of
    images of each class, up to one. The validation images are taken from the next folds.

    Args:
        labels: (N,) integers.
        fold: number of the fold whose images are the test images, from 0.
        folds: number of folds, at least 2.
        validation: size of the split, of all N images; above 0.
        seed: >= 0; the folds depend only on (labels, folds, seed), on every machine.
        class_names: for error messages, indexed by label.

    Raises:
        UserError: there is no such fold, or a class has fewer images than a fold needs.
    """
    if not 0 <= fold < folds:
        raise UserError(f"data.split.fold={fold}: choose 0 to {folds - 1}")
    labels = np.asarray(labels)
    classes, sizes = np.unique(labels, return_counts=True)
    # beside its test images, a class needs one for validation and one for training
    least, smallest = max(folds, 4 if folds == 2 else 3), int(np.argmin(sizes))
    if sizes[smallest] < least:
        label = classes[smallest]
        name = class_names[label] if class_names is not None else int(label)
        raise UserError(
            f"class {name!r} has {sizes[smallest]} images, too few for data.split.folds={folds}: "
            f"it needs {least}"
        )
    starts = np.cumsum(sizes) - sizes
    in_fold = np.empty(len(labels), dtype=np.int64)
    ranked = []
    for rows, start in zip(_rank_rows(labels, classes, sizes, seed), starts, strict=True):
        in_fold[rows] = (start + np.arange(len(rows))) % folds
        ranked.append(rows)
    test = in_fold == fold
    to_test = np.array([test[rows].sum() for rows in ranked])
    count = _count_images("validation", validation, len(labels))
    if not len(classes) <= count <= len(labels) - test.sum() - len(classes):
        raise UserError(
            f"data.split.validation={validation}: {count} of the {len(labels) - test.sum()} images "
            f"outside the fold, but validation and training need one of each class"
        )
    assigned = np.full(len(labels), "train", dtype=np.array(SPLITS).dtype)
    assigned[test] = "test"
    for rows, amount in zip(ranked, _apportion(count, sizes, sizes - to_test - 1), strict=True):
        others = rows[~test[rows]]
        order = np.argsort((in_fold[others] - fold) % folds, kind="stable")
        assigned[others[order[:amount]]] = "validation"
    return assigned


def _rank_rows(
    labels: np.ndarray, classes: np.ndarray, sizes: np.ndarray, seed: int
) -> list[np.ndarray]:
    """Return the rows of each class, in a random order."""
    ranked = []
    for label, rows in zip(
        classes, np.split(np.argsort(labels, kind="stable"), np.cumsum(sizes)[:-1]), strict=True
    ):
        # sort raw words: unlike a shuffle, their stream never changes between numpy versions
        keys = np.random.PCG64(np.random.SeedSequence((seed, int(label)))).random_raw(len(rows))
        ranked.append(rows[np.argsort(keys, kind="stable")])
    return ranked


def _count_images(name: str, share: Share, total: int) -> int:
    """Return how many images a size means."""
    is_number = isinstance(share, int | float | np.number) and not isinstance(share, bool)
    if not is_number or not 0 <= share < float("inf") or (share >= 1 and share != int(share)):
        raise UserError(f"{name}={share}: expected a fraction below 1, or a whole number of images")
    # 1e-9: 0.29 * 50 is 14.499999999999998 but means 14.5
    return int(share) if share >= 1 else int(share * total + 0.5 + 1e-9)


def _divide_counts(
    counts: dict[str, int],
    classes: np.ndarray,
    sizes: np.ndarray,
    class_names: Sequence[str] | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return (K,) images per class for test and for validation; test is filled first."""
    requested = [name for name, count in counts.items() if count]
    for name in requested:
        if counts[name] < len(classes):
            raise UserError(
                f"{name} would get {counts[name]} images for {len(classes)} classes, but every "
                f"class needs one: raise {name} or add images"
            )
    smallest = int(np.argmin(sizes))
    if sizes[smallest] < 1 + len(requested):
        label = classes[smallest]
        name = class_names[label] if class_names is not None else int(label)
        raise UserError(
            f"class {name!r} has {sizes[smallest]} images, too few for train and "
            f"{' and '.join(reversed(requested))}: add images, remove the class, or set "
            f"{requested[0]}=0"
        )
    left = int(sizes.sum()) - sum(counts.values())
    if left < len(classes):
        raise UserError(
            f"validation={counts['validation']} and test={counts['test']} images leave "
            f"{max(left, 0)} of {sizes.sum()} for training, fewer than one for each of "
            f"{len(classes)} classes: lower them"
        )
    to_test = _apportion(counts["test"], sizes, sizes - 1 - bool(counts["validation"]))
    to_validation = _apportion(counts["validation"], sizes, sizes - to_test - 1)
    return to_test, to_validation


def _apportion(total: int, sizes: np.ndarray, most: np.ndarray) -> np.ndarray:
    """Distribute ``total`` over the classes in proportion to ``sizes``, by largest remainders.

    Each class gets at least one (none if ``total`` is 0) and at most ``most``. In whole numbers, a
    class's claim is total * size - given * N; the largest claim wins, or the first of equal ones.
    """
    if total == 0:
        return np.zeros_like(sizes)
    everything = int(sizes.sum())
    counts = np.clip(total * sizes // everything, 1, most)
    while counts.sum() != total:
        claims = total * sizes - counts * everything
        if counts.sum() < total:
            counts[np.argmax(np.where(counts < most, claims, np.iinfo(claims.dtype).min))] += 1
        else:
            counts[np.argmin(np.where(counts > 1, claims, np.iinfo(claims.dtype).max))] -= 1
    return counts


def resolve_splits(
    listing: Listing, *, validation: Share, test: Share, seed: int,
    fold: tuple[int, int] | None = None,
) -> Listing:  # fmt: skip
    """Return the listing with every image in a split; splits of the layout stay as they are.

    A split that the layout lacks is taken from its training images, and fractions then refer to
    those; the size of a split that exists is ignored.

    Args:
        listing: the images.
        validation: size of the split, as for ``assign_splits``.
        test: size of the split, as for ``assign_splits``.
        seed: decides the split.
        fold: number of a fold, from 0, and number of folds of a cross-validation, which divides all
            images; None for none.

    Raises:
        UserError: the sizes are not possible, or the layout has splits that folds would divide.
    """
    present = listing.present_splits
    if fold is not None:
        if present:
            raise UserError(
                f"data.split.folds={fold[1]} divides all images, but {listing.directory} has a "
                f"split of its own: {', '.join(present)}"
            )
        number, folds = fold
        assigned = assign_fold(
            listing.labels, fold=number, folds=folds, validation=validation, seed=seed,
            class_names=listing.class_names,
        )  # fmt: skip
        return replace(listing, splits=assigned)
    rows = listing.splits == "train" if present else slice(None)
    assigned = divided = assign_splits(
        listing.labels[rows],
        validation=0 if "validation" in present else validation,
        test=0 if "test" in present else test,
        seed=seed,
        class_names=listing.class_names,
    )
    if present:
        assigned = listing.splits.astype(divided.dtype)
        assigned[rows] = divided
    return replace(listing, splits=assigned)
