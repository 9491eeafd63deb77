"""Train, validation and test: dividing pictures, and writing the division down.

Legend: N pictures, K classes. A *share* is a number: below 1 a fraction of all pictures that are
divided, from 1 on a count (a whole number), 0 for none. What is left is training data.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path

import numpy as np

from convlens.core.errors import UserError
from convlens.data.index.labels import CSV_COLUMNS, SPLITS, Keys, csv_line, read_table
from convlens.data.index.listing import Listing, list_pictures
from convlens.data.index.names import composed

Share = int | float


def split(
    labels: np.ndarray,
    *,
    validation: Share,
    test: Share,
    seed: int,
    class_names: Sequence[str] | None = None,
) -> np.ndarray:
    """Divide N pictures, each class in proportion: (N,) array of "train", "validation", "test".

    labels       (N,) integers
    validation   share of all N pictures (see the module); test likewise, not of what is left
    seed         >= 0; the result is a function of (labels, shares, seed), on every machine
    class_names  for error messages, indexed by label

    The totals are exact (fractions rounded half up); within them each class gets its part by
    largest remainders, but at least one picture in train and one in every split asked for. So a
    class with fewer pictures than splits, or a split with fewer pictures than classes, is refused.

    Within a class the pictures are ranked by random keys; test takes the first, validation the
    next: a larger validation share does not change the test pictures, nor do other classes.

    >>> split(np.array([0] * 6 + [1] * 4), validation=0.2, test=0.2, seed=0).tolist().count("test")
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
    assigned = np.full(len(labels), "train", dtype=f"<U{max(map(len, SPLITS))}")
    by_class = np.argsort(labels, kind="stable")
    for number, (label, stop) in enumerate(zip(classes, np.cumsum(sizes), strict=True)):
        # raw words, sorted: unlike shuffling, their stream never changes between numpy versions
        keys = np.random.PCG64(np.random.SeedSequence((seed, int(label)))).random_raw(sizes[number])
        ranked = by_class[stop - sizes[number] : stop][np.argsort(keys, kind="stable")]
        to_test, to_validation = parts["test"][number], parts["validation"][number]
        assigned[ranked[:to_test]] = "test"
        assigned[ranked[to_test : to_test + to_validation]] = "validation"
    return assigned


def _count(name: str, share: Share, total: int) -> int:
    """How many pictures a share means."""
    number = isinstance(share, int | float | np.number) and not isinstance(share, bool)
    if not number or not 0 <= share < float("inf") or (share >= 1 and share != int(share)):
        raise UserError(
            f"{name}={share}: a fraction below 1, or a whole number of pictures, is expected"
        )
    # 1e-9: 0.29 * 50 is 14.499999999999998 and means 14.5
    return int(share) if share >= 1 else int(share * total + 0.5 + 1e-9)


def _parts(
    wanted: dict[str, int],
    classes: np.ndarray,
    sizes: np.ndarray,
    class_names: Sequence[str] | None,
) -> dict[str, np.ndarray]:
    """For each split (K,) pictures per class; the order of ``wanted`` is that of taking."""
    asked = [name for name, count in wanted.items() if count]
    for name in asked:
        if wanted[name] < len(classes):
            raise UserError(
                f"{name} would get {wanted[name]} pictures for {len(classes)} classes: "
                f"every class needs one there; raise {name} or add pictures"
            )
    smallest = int(np.argmin(sizes))
    if sizes[smallest] < 1 + len(asked):
        label = classes[smallest]
        named = class_names[label] if class_names is not None else int(label)
        raise UserError(
            f"class {named!r} has {sizes[smallest]} pictures, too few for train and "
            f"{' and '.join(reversed(asked))}: add pictures, remove the class, or ask for no "
            f"{asked[0]} pictures ({asked[0]}=0)"
        )
    left = int(sizes.sum()) - sum(wanted.values())
    if left < len(classes):
        raise UserError(
            f"validation={wanted['validation']} and test={wanted['test']} pictures leave "
            f"{max(left, 0)} of {sizes.sum()} for training, less than one for each of "
            f"{len(classes)} classes: lower them"
        )
    parts, free = {}, sizes.copy()
    for position, name in enumerate(wanted):
        later = sum(1 for other in list(wanted)[position + 1 :] if wanted[other])
        parts[name] = _apportion(wanted[name], sizes, free - 1 - later)
        free = free - parts[name]
    return parts


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
    """The listing with every picture in a split; what the layout has already is kept as it is.

    A split the layout lacks is taken off its training pictures, and fractions are then of those;
    the share of a split that is there is not looked at. Raises UserError as ``split`` does.
    """
    if listing.splits is None:
        assigned = split(
            listing.labels, validation=validation, test=test, seed=seed,
            class_names=listing.class_names,
        )  # fmt: skip
        return replace(listing, splits=assigned)
    present = present_splits(listing)
    rows = np.flatnonzero(listing.splits == "train")
    taken = split(
        listing.labels[rows],
        validation=0 if "validation" in present else validation,
        test=0 if "test" in present else test,
        seed=seed,
        class_names=listing.class_names,
    )
    assigned = listing.splits.astype(taken.dtype)
    assigned[rows] = taken
    return replace(listing, splits=assigned)


def present_splits(listing: Listing) -> tuple[str, ...]:
    """The splits that the listing has pictures of, in the order of SPLITS; none without splits."""
    if listing.splits is None:
        return ()
    return tuple(name for name in SPLITS if (listing.splits == name).any())


# ------------------------------------------------------------------------------------ split files


def write_split(path: str | os.PathLike, listing: Listing) -> None:
    """Write ``file,label,split``, files relative to ``listing.directory``; whole or not at all."""
    if listing.splits is None:
        raise ValueError("the listing has no splits: call resolve_splits first")
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            file.write(csv_line(CSV_COLUMNS))
            classes = map(listing.class_names.__getitem__, listing.labels)
            for row in zip(listing.files.names(), classes, listing.splits, strict=True):
                file.write(csv_line(row))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise UserError(f"cannot write the split file {path}: {error.strerror}") from None


def read_split(path: str | os.PathLike, listing: Listing) -> Listing:
    """The listing with the splits a file names (columns file, label, split).

    Raises UserError if the pictures or their labels are no longer those of the file: a run would
    otherwise go on with other data than it began with.
    """
    path = Path(path)
    rows, found = read_table(path, CSV_COLUMNS, "the split file", strip=False)
    if "split" not in found:
        raise UserError(f"no column 'split' in {path}: was it written by this program?")
    assigned = _in_order(rows, listing)
    if assigned is None:
        assigned = _by_name(path, listing)
    return replace(listing, splits=assigned)


def _in_order(rows: Iterable[tuple[int, dict]], listing: Listing) -> np.ndarray | None:
    """The splits of a file that is as it was written: row by row, a million are never held.

    None where anything is not as expected: ``_by_name`` then finds out what.
    """
    assigned = np.empty(len(listing), dtype=f"<U{max(map(len, SPLITS))}")
    pictures = zip(listing.files.names(), listing.labels.tolist(), strict=True)
    for place, (found, picture) in enumerate(zip_longest(rows, pictures)):
        if found is None or picture is None:
            return None
        row, (name, label) = found[1], picture
        as_listed = row["file"] == name or composed(row["file"]) == composed(name)
        as_listed &= composed(row["label"]) == listing.class_names[label]
        if not as_listed or row["split"] not in SPLITS:
            return None
        assigned[place] = row["split"]
    return assigned


def _by_name(path: Path, listing: Listing) -> np.ndarray:
    """The splits of a file in any order."""
    rows, _ = read_table(path, CSV_COLUMNS, "the split file", strip=False)
    noted = {row["file"]: (composed(row["label"]), row["split"]) for _, row in rows}
    names = list(listing.files.names())
    if noted.keys() != set(names):  # another file system may spell accents in another way
        spelt = {composed(name): name for name in names}
        noted = {spelt.get(composed(name), name): row for name, row in noted.items()}
    for missing, what in (
        (sorted(set(names) - set(noted)), "is new since"),
        (sorted(set(noted) - set(names)), "is gone, and was in"),
    ):
        if missing:
            raise UserError(
                f"the pictures in {listing.directory} changed: {missing[0]} {what} the split file "
                f"{path} ({len(missing)} such); put them back as they were, or start a new run"
            )
    for name, label in zip(names, listing.labels, strict=True):
        if noted[name][0] != listing.class_names[label]:
            raise UserError(
                f"{name} is {listing.class_names[label]!r} in {listing.directory} but "
                f"{noted[name][0]!r} in {path}: labels changed since the split was written"
            )
        if noted[name][1] not in SPLITS:
            raise UserError(
                f"split {noted[name][1]!r} of {name} in {path}: expected one of {', '.join(SPLITS)}"
            )
    return np.array([noted[name][1] for name in names])


# ----------------------------------------------------------------------------------- on the disk


def copy_split(
    src: str | os.PathLike,
    dst: str | os.PathLike,
    *,
    validation: Share,
    test: Share,
    seed: int,
    link: bool = False,
) -> tuple[dict[str, dict[str, int]], tuple[str, ...]]:
    """Class folders ``src`` to ``dst/{train,validation,test}/class/…``.

    Gives the pictures per split and class, and lines a person should read: what was left out.

    link   hard links instead of copies (one file system only; editing one edits both)

    ``dst`` appears complete or not at all. Raises UserError if it exists and is not empty, lies
    inside ``src`` (whose classes it would join), if ``src`` is split already, or as ``split`` does.
    """
    source, target = Path(src).expanduser(), Path(dst).expanduser()
    if target.exists() and not (target.is_dir() and next(target.iterdir(), None) is None):
        raise UserError(f"{target} exists and nothing is overwritten: choose another dst")
    if target.resolve().is_relative_to(source.resolve()):
        raise UserError(f"dst={target} lies inside src={source}: choose a place outside it")
    listing = list_pictures(source, keys=Keys("src", "pattern", "csv"))
    if listing.splits is not None:
        found = " and ".join(present_splits(listing))
        raise UserError(f"{source} is split already, into {found}: point src at class folders")
    listing = resolve_splits(listing, validation=validation, test=test, seed=seed)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        _place(listing, range(len(listing)), temporary, link)
        os.replace(temporary, target)  # also onto an empty folder
    except OSError as error:
        way_out = "; links need one file system: leave out link" if link else ""
        raise UserError(
            f"cannot write {target}: {error.strerror or error}; nothing was left there{way_out}"
        ) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    counts = {
        name: np.bincount(
            listing.labels[listing.splits == name], minlength=len(listing.class_names)
        )
        for name in SPLITS
    }
    by_class = {
        name: dict(zip(listing.class_names, numbers.tolist(), strict=True))
        for name, numbers in counts.items()
    }
    return by_class, listing.notes


def _place(listing: Listing, indices: Iterable[int], folder: Path, link: bool) -> None:
    """Copy or link pictures to ``folder/split/class/…``, keeping sub-folders of the class."""
    folder.mkdir(parents=True)
    for index in indices:
        place = folder / str(listing.splits[index]) / listing.name_of(index)
        place.parent.mkdir(parents=True, exist_ok=True)
        if link:
            os.link(listing.files[index], place)
        else:
            shutil.copy2(listing.files[index], place)
