"""The sources of pictures behind one interface: look first (cheap), then load.

``index(spec)`` reads names and labels, checks everything a person can have got wrong and counts;
``Index.load()`` decodes. ``make plan`` needs only the first.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from convlens.core.errors import UserError, nearest
from convlens.data.index import listing, splits, twins
from convlens.data.index.digests import UNREAD, array_digests, numbered_digests
from convlens.data.index.files import Texts
from convlens.data.index.names import spelt_on_disk
from convlens.data.masks import files as masks
from convlens.data.masks import trimaps
from convlens.data.pictures import SPLITS, Dataset, Pictures
from convlens.data.pixels import cache, looks
from convlens.data.pixels import load as pixels
from convlens.data.pixels.contents import FileDigests
from convlens.data.sources import downloads, pets, shapes, torchvision_sets

NONE = np.zeros(0, np.int64)
DEFAULT_SHARE = 0.15  # of the pictures, for each split that a layout lacks


@dataclass(frozen=True)
class Index:
    """What a source holds, before anything is decoded.

    Attributes:
        class_names: K names.
        counts: split name to (K,) number of pictures per class.
        load: decodes everything.
        listing: the files, for sources that have files.
        notes: lines the person should read.
        masked: split name to the number of pictures with a mask; empty: this source has none.
    """

    class_names: tuple[str, ...]
    counts: dict[str, np.ndarray]
    load: Callable[[], Dataset]
    listing: listing.Listing | None = None
    notes: list[str] = field(default_factory=list)
    masked: dict[str, int] = field(default_factory=dict)


def data_dir(spec: dict) -> Path:
    """``data.dir``, or the place where the data set is looked for by its name."""
    if spec["dir"]:
        return spelt_on_disk(Path(spec["dir"]).expanduser())
    return Path(os.environ.get("CONVLENS_DATA", "data")).expanduser() / spec["name"]


def cache_dir() -> Path:
    """Where pixel and feature caches lie: ``$CONVLENS_CACHE`` or ``~/.cache/convlens``."""
    return Path(os.environ.get("CONVLENS_CACHE", "~/.cache/convlens")).expanduser()


def index(spec: dict, seed: int, before: np.ndarray = NONE) -> Index:
    """Look at the source that the config group ``data`` describes.

    Args:
        spec: plain dictionary of ``data/*.yaml``.
        seed: decides the split where the source has none, and what ``shapes`` draws.
        before: digests of images that an earlier run has used, which are not to be tested. The
            stores need none of it: their test images are the same for every run.

    Raises:
        UserError: one line for whatever a person can mend.
    """
    _check(spec)
    if spec["name"] in STORES:
        return STORES[spec["name"]](spec, seed)
    return _listed(spec, seed, FILES[spec["name"]](spec), before)


def _check(spec: dict) -> None:
    """Refuse a spec that names no source, or keys out of range."""
    if spec["name"] not in SOURCES:
        raise UserError(f"data.name={spec['name']}: {nearest(str(spec['name']), SOURCES)}")
    for key, known in {
        "resize": ("squash", "crop", "pad"),
        "interpolation": ("bilinear", "nearest", "bicubic"),
        "cache": ("disk", "ram"),
    }.items():
        if spec[key] not in known:
            raise UserError(f"data.{key}={spec[key]}: {nearest(str(spec[key]), known)}")
    if spec["channels"] not in (1, 3):
        raise UserError(f"data.channels={spec['channels']}: 1 (grey) or 3 (colour)")
    if not isinstance(spec["size"], int) or spec["size"] < 8:
        raise UserError(f"data.size={spec['size']}: a number of pixels of at least 8 is expected")


@dataclass(frozen=True)
class Pool:
    """Every labelled image of a source, before it is decided which of them are tested.

    Attributes:
        place: what messages call it.
        class_names: K names.
        labels: (N,) int64, indices into them.
        splits: (N,) str, the splits that the source itself has; None where it has none.
        names: N names by which a person finds the images.
        digests: gives (N,) int64, see :mod:`convlens.data.index.digests`.
        load: decodes some rows as the test split of a data set.
        notes: lines that the person should read.
    """

    place: str
    class_names: tuple[str, ...]
    labels: np.ndarray
    splits: np.ndarray | None
    names: Sequence[str]
    digests: Callable[[], np.ndarray]
    load: Callable[[np.ndarray], Dataset]
    notes: Sequence[str] = ()


def pool(spec: dict, seed: int) -> Pool:
    """All that the source has with labels; unlike :func:`index` it needs no training pictures.

    Args:
        spec, seed: as of :func:`index`; ``data.split`` counts for nothing.

    Raises:
        UserError: one line for whatever a person can mend.
    """
    _check(spec)
    if spec["name"] in STORES:
        return _pool_of_store(spec, STORES[spec["name"]](spec, seed))
    return _pool_of_files(spec, FILES[spec["name"]](spec, for_test=True))


def _pool_of_files(spec: dict, found: Found) -> Pool:
    files = found.listing

    def load(rows: np.ndarray) -> Dataset:
        part = _decoded(spec, found, rows, np.zeros(len(files), np.int64))
        told = [f"{file} ({reason})" for file, reason in part.skipped]
        lines = [*part.notes, *_skipped(part.skipped)]
        return Dataset({"test": part.pictures}, files.class_names, lines, told)

    return Pool(
        str(files.directory), files.class_names, files.labels, files.splits, Texts(files.files),
        FileDigests(files.files, spec["cache"], cache_dir()).get, load, found.notes,
    )  # fmt: skip


def _pool_of_store(spec: dict, found: Index) -> Pool:
    dataset = found.load()
    parts = [dataset.splits[split] for split in SPLITS]
    starts = np.cumsum([0, *map(len, parts)])

    def joined(of: Callable[[Pictures, np.ndarray], np.ndarray], rows: np.ndarray) -> np.ndarray:
        inside = [rows[(rows >= a) & (rows < b)] - a for a, b in pairwise(starts)]
        return np.concatenate([of(part, some) for part, some in zip(parts, inside, strict=True)])

    names = [name for part in parts for name in part.names]

    def load(rows: np.ndarray) -> Dataset:
        drawn = parts[0].masks is not None
        pictures = Pictures(
            joined(Pictures.pixels, rows), joined(lambda part, some: part.labels[some], rows),
            [names[row] for row in rows],
            joined(lambda part, some: part.masks[some], rows) if drawn else None,
        )  # fmt: skip
        return Dataset({"test": pictures}, found.class_names)

    return Pool(
        f"data={spec['name']}", found.class_names, np.concatenate([part.labels for part in parts]),
        np.repeat(np.array(SPLITS), np.diff(starts)), names,
        lambda: np.concatenate([part.digests for part in parts]), load, found.notes,
    )  # fmt: skip


@dataclass(frozen=True)
class Download:
    """What :func:`index` would fetch before anything else.

    Attributes:
        folder: where it would lie.
        megabytes: size of the archive or files.
        class_names: known without it.
    """

    folder: Path
    megabytes: int
    class_names: tuple[str, ...]


def pending_download(spec: dict) -> Download | None:
    """What a run with ``spec`` would download, or None: nothing is fetched or changed."""
    folder = data_dir(spec)
    if spec["name"] == "flowers" and not folder.exists():
        return Download(folder, 218, downloads.FLOWERS_CLASSES)
    if spec["name"] == "pets":
        names = pets.class_names(spec["labels"])
        return None if pets.is_there(folder) else Download(folder, pets.MEGABYTES, names)
    for name, read, megabytes, names in (
        ("mnist", torchvision_sets.mnist, 12, torchvision_sets.MNIST_CLASSES),
        ("cifar10", torchvision_sets.cifar10, 170, torchvision_sets.CIFAR10_CLASSES),
    ):
        if spec["name"] == name:
            try:
                read(folder, download=False)
            except UserError:
                return Download(folder, megabytes, names)
    return None


def _shares(spec: dict, present: tuple[str, ...] = ()) -> dict[str, float]:
    """The split rule; a share for a split that the source already has is refused."""
    shares = {}
    for split in ("validation", "test"):
        share = spec["split"][split]
        if split in present:
            if share is not None:
                raise UserError(
                    f"data.split.{split}={share}: data={spec['name']} already has its own "
                    f"{split} pictures; leave the key out"
                )
            share = 0
        shares[split] = DEFAULT_SHARE if share is None else share
    return shares


def _counts(labels: np.ndarray, assigned: np.ndarray, classes: int) -> dict[str, np.ndarray]:
    return {split: np.bincount(labels[assigned == split], minlength=classes) for split in SPLITS}


def _shapes(spec: dict, seed: int) -> Index:
    """The embedded set: drawn, not read; the test pictures never carry the shortcut's marks."""
    total, classes = spec["pictures"], spec["classes"]
    if not isinstance(total, int) or total < 3 * classes:
        raise UserError(f"data.pictures={total}: at least 3 for each of data.classes={classes}")
    if not 2 <= classes <= len(shapes.CLASS_NAMES):
        raise UserError(
            f"data.classes={classes}: shapes can draw 2 to {len(shapes.CLASS_NAMES)} classes"
        )
    if not 0 <= spec["shortcut"] <= 1:
        raise UserError(f"data.shortcut={spec['shortcut']}: a share in [0, 1] is expected")
    names = shapes.CLASS_NAMES[:classes]
    assigned = splits.split(np.arange(total) % classes, seed=seed, **_shares(spec))
    sizes = {split: int((assigned == split).sum()) for split in SPLITS}

    def draw(stream: int, split: str) -> Pictures:
        def make() -> dict[str, np.ndarray]:
            drawn = shapes.draw_shapes(
                sizes[split], size=spec["size"], channels=spec["channels"], classes=classes,
                seed=seed, stream=stream,
            )  # fmt: skip
            return {"images": drawn.images, "labels": drawn.labels, "masks": drawn.masks}

        key = dict(
            drawing=shapes.VERSION, split=split, count=sizes[split], seed=seed, classes=classes,
            size=spec["size"], channels=spec["channels"],
        )  # fmt: skip
        arrays = make() if spec["cache"] == "ram" else cache.cached_arrays(key, make, cache_dir())
        images = arrays["images"]
        if spec["shortcut"] and split != "test":
            images = np.array(images)
            shapes.paint_shortcut(images, arrays["labels"], spec["shortcut"], classes, seed, stream)
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


@dataclass(frozen=True)
class Found:
    """Picture files, before it is decided which of them are used for what.

    listing  N files; ``splits`` only where the layout has them
    read     gives the masks of some rows; None: this source has none
    masked   (N,) bool, which pictures have a mask
    notes    lines that the person should read
    decoded  by split, what was decoded already to find out which files are broken
    places   (N,) where each picture stands in the decoded ones of its split
    skipped  (file, reason) of the broken ones, which are not among the N
    """

    listing: listing.Listing
    read: Callable[[np.ndarray], masks.Masks] | None = None
    masked: np.ndarray | None = None
    notes: Sequence[str] = ()
    decoded: Mapping[str, pixels.Pixels] | None = None
    places: np.ndarray | None = None
    skipped: Sequence[tuple[Path, str]] = ()

    def some(self, keep: np.ndarray) -> Found:
        """Only the rows ``keep``, rising."""
        old, read = self.listing, self.read
        kept = replace(
            old, files=old.files[keep], labels=old.labels[keep],
            splits=None if old.splits is None else old.splits[keep],
        )  # fmt: skip
        return replace(
            self, listing=kept, read=read and (lambda rows: read(keep[rows])),
            masked=None if self.masked is None else self.masked[keep],
            places=None if self.places is None else self.places[keep],
        )  # fmt: skip


def _image_folder(spec: dict, for_test: bool = False) -> Found:
    """The user's own pictures, in any layout that :mod:`convlens.data.index.listing` knows."""
    directory = data_dir(spec)
    companions = masks.SUFFIXES if spec.get("masks") else ()
    found = listing.list_pictures(
        directory,
        pattern=spec["pattern"],
        csv=spec["csv"],
        for_test=for_test,
        companions=companions,
    )
    if not spec.get("masks"):  # runs of old have no such key
        return Found(found, notes=found.notes)
    labels = [found.class_names[label] for label in found.labels]
    folder = masks.MaskFolder(spec["masks"], directory)
    files, notes = masks.match(folder, found.files, labels)

    def read(rows: np.ndarray) -> masks.Masks:
        return masks.read_masks(
            [found.files[row] for row in rows], [files[row] for row in rows], size=spec["size"],
            resize=spec["resize"], cache=spec["cache"], cache_dir=cache_dir(),
            on_error=spec["on_error"],
        )  # fmt: skip

    masked = np.array([f is not None for f in files])
    return Found(found, read, masked, [*found.notes, *notes])


def _flowers(spec: dict, for_test: bool = False) -> Found:
    """Five kinds of flowers, downloaded when the folder is not there."""
    directory = data_dir(spec)
    if not directory.exists():
        downloads.flowers(directory)
    return _image_folder(spec, for_test)


def _pets(spec: dict, for_test: bool = False) -> Found:
    """Oxford-IIIT Pet, downloaded when the folder is not there: its own test list, and masks."""
    pets.class_names(spec["labels"])  # a misspelt one is said before the download
    found = pets.list_pets(pets.pets(data_dir(spec)), spec["labels"])

    def read(rows: np.ndarray) -> masks.Masks:
        drawn, lines = trimaps.masks(
            [found.files[row] for row in rows], size=spec["size"], resize=spec["resize"],
            cache=spec["cache"], cache_dir=cache_dir(),
        )  # fmt: skip
        return masks.Masks(drawn, np.ones(len(rows), bool), lines)

    return Found(found, read, np.ones(len(found), bool))


def _listed(spec: dict, seed: int, found: Found, before: np.ndarray) -> Index:
    """Picture files, divided into splits."""
    present = splits.present_splits(found.listing)
    divided = splits.resolve_splits(found.listing, seed=seed, **_shares(spec, present))
    found = replace(found, listing=divided)
    if spec["on_error"] == "skip":
        found = _without_broken(spec, found)
    found, lines = _without_leaks(found)
    if len(before):
        found, more = _without_used(spec, found, before)
        lines += more
    files = found.listing
    notes = [*_masks_line(spec, found), *found.notes, *lines, *_skipped(found.skipped)]

    def load() -> Dataset:
        contents = FileDigests(files.files, spec["cache"], cache_dir())
        digests = np.zeros(len(files), np.int64)
        places = {split: np.flatnonzero(files.splits == split) for split in SPLITS}
        parts = {split: _decoded(spec, found, rows, digests) for split, rows in places.items()}
        digests = contents.get(digests)
        made = {
            split: replace(part.pictures, digests=digests[places[split]][part.kept])
            for split, part in parts.items()
        }
        lines = [line for part in parts.values() for line in part.notes]
        if found.read and not any(pictures.masked.any() for pictures in made.values()):
            raise UserError(f"no mask in data.masks={spec['masks']} can be used: {lines[0]}")
        told = [f"{file} ({reason})" for file, reason in found.skipped]
        seen = np.concatenate([part.looks for part in parts.values()])
        lines += looks.twin_lines(seen, made, files.class_names)
        return Dataset(made, files.class_names, notes + lines, told)

    counts = _counts(files.labels, files.splits, len(files.class_names))
    with_mask = {}
    if found.masked is not None:
        with_mask = {split: int(found.masked[files.splits == split].sum()) for split in SPLITS}
    if found.decoded is None:
        return Index(files.class_names, counts, load, files, notes, with_mask)
    dataset = load()  # everything is decoded: masks that are left out are known as well
    if with_mask:
        with_mask = {split: int(dataset.splits[split].masked.sum()) for split in SPLITS}
    return Index(files.class_names, counts, lambda: dataset, files, dataset.notes, with_mask)


def _masks_line(spec: dict, found: Found) -> list[str]:
    if not spec.get("masks") or found.masked is None:  # runs of old have no such key
        return []
    count = int(found.masked.sum())
    return [f"masks for {count} of {len(found.masked)} pictures in {Path(spec['masks'])}"]


def _without_broken(spec: dict, found: Found) -> Found:
    """Only files that give a picture: what is skipped is in no count, no weight and no table.

    Which ones these are is known only when all are decoded.

    Raises:
        UserError: a class has no picture left in a split.
    """
    whole = found.listing
    good, places = np.ones(len(whole), bool), np.zeros(len(whole), np.int64)
    decoded, skipped = {}, []
    for split in splits.present_splits(whole):
        rows = np.flatnonzero(whole.splits == split)
        decoded[split] = _pixels(spec, whole.files[rows])
        good[rows], places[rows] = decoded[split].good, np.arange(len(rows))
        skipped += decoded[split].errors
    found = replace(found, decoded=decoded, places=places, skipped=skipped)
    found = found.some(np.flatnonzero(good))
    _check_none_emptied(whole, found)
    return found


def _check_none_emptied(before: listing.Listing, found: Found) -> None:
    """Refuse a class that has lost all its pictures of a split: nobody would learn or test it."""
    after, reasons = found.listing, dict(found.skipped)
    for split in splits.present_splits(before):
        for label, name in enumerate(before.class_names):
            rows = np.flatnonzero((before.splits == split) & (before.labels == label))
            if len(rows) and not ((after.splits == split) & (after.labels == label)).any():
                first = before.files[rows[0]]
                raise UserError(
                    f"data.on_error=skip leaves class {name!r} without pictures in {split}: all "
                    f"{len(rows)} are broken, such as {first} ({reasons[first]}); replace them "
                    f"with intact files, or move the class out"
                )


def _without_leaks(found: Found) -> tuple[Found, list[str]]:
    """Test files whose bytes are among the training or validation pictures are left out.

    Lines tell of them, of those that validation has in common with training, and of images that
    have several labels.
    """
    groups = twins.find_twins(found.listing)
    twice = twins.duplicates_among(found.listing, groups)
    leaks = [twin for twin in twice if twin.second_split == "test"]
    kept = [twin for twin in twice if twin.second_split != "test"]
    lines = [twins.conflicts_line(found.listing, groups), twins.leaks_line(kept)]
    lines = [line for line in lines if line]
    if not leaks:
        return found, lines
    gone = {twin.second for twin in leaks}
    keep = np.array([file not in gone for file in found.listing.files])
    if not (found.listing.splits[keep] == "test").any():
        raise UserError(
            f"all {len(leaks)} test pictures are training or validation pictures too, such as "
            f"{leaks[0].second} and {leaks[0].first}: nothing is left to test; remove the copies"
        )
    what = "test picture is" if len(leaks) == 1 else "test pictures are"
    lines.append(
        f"{len(leaks)} {what} left out because the same bytes are in training or validation: "
        f"{leaks[0].second} ({leaks[0].first_split}: {leaks[0].first})"
        f"{', …' if len(leaks) > 1 else ''}"
    )
    return found.some(np.flatnonzero(keep)), lines


def _without_used(spec: dict, found: Found, before: np.ndarray) -> tuple[Found, list[str]]:
    """Test files that an earlier run has used, whose weights are started from, are left out."""
    files = found.listing
    digests = FileDigests(files.files, spec["cache"], cache_dir()).get()
    used = np.isin(digests, before) & (digests != UNREAD)
    leaked, whole = used & (files.splits == "test"), int((files.splits == "test").sum())
    lines = []
    if count := int((used & (files.splits == "validation")).sum()):
        lines.append(
            f"{count} validation pictures were used by the run whose weights this one starts from: "
            f"validation results are too good"
        )
    if not leaked.any():
        return found, lines
    first = files.files[int(np.argmax(leaked))]
    count = f"{leaked.sum()} of {whole} test pictures, such as {first}, were used"
    if leaked.sum() == whole:
        raise UserError(
            f"{count} by the run whose weights this one starts from: nothing is left to test; use "
            f"the data and seed of that run, which give the same split, or other test pictures"
        )
    lines.append(f"{count} by the run whose weights this one starts from and are left out")
    return found.some(np.flatnonzero(~leaked)), lines


@dataclass(frozen=True)
class _Decoded:
    """Some rows of picture files, decoded; ``kept`` are the places among them that are good."""

    pictures: Pictures
    kept: np.ndarray
    skipped: Sequence[tuple[Path, str]]
    notes: Sequence[str]
    looks: np.ndarray


def _decoded(spec: dict, found: Found, rows: np.ndarray, digests: np.ndarray) -> _Decoded:
    """Decode some rows; the digests of files that are read for it are put into ``digests``."""
    files = found.listing.files[rows]
    if found.decoded is None:
        decoded = _pixels(spec, files)
        kept = places = np.flatnonzero(decoded.good)
    else:
        decoded = found.decoded[str(found.listing.splits[rows[0]])]
        kept, places = np.arange(len(rows)), found.places[rows]
    if decoded.digests is not None:
        digests[rows[kept]] = decoded.digests[places]
    if len(places) == len(decoded.good):
        places = None
    drawn = None if found.read is None else found.read(rows[kept])
    pictures = Pictures(
        decoded.images, found.listing.labels[rows][kept],
        Texts(files if len(kept) == len(rows) else files[kept]),
        drawn and drawn.masks, places, decoded.made_from, drawn and drawn.masked,
    )  # fmt: skip
    broken = decoded.errors if found.decoded is None else ()
    seen = decoded.looks if places is None else decoded.looks[places]
    return _Decoded(pictures, kept, broken, drawn.notes if drawn else (), seen)


def _pixels(spec: dict, files: Sequence[Path]) -> pixels.Pixels:
    return pixels.decoded(
        files, size=spec["size"], resize=spec["resize"], channels=spec["channels"],
        interpolation=spec["interpolation"], cache=spec["cache"], cache_dir=cache_dir(),
        on_error=spec["on_error"],
    )  # fmt: skip


def _skipped(skipped: Sequence[tuple[Path, str]]) -> list[str]:
    if not skipped:
        return []
    what = "picture" if len(skipped) == 1 else "pictures"
    return [f"{len(skipped)} broken {what} skipped, the first: {skipped[0][0]} ({skipped[0][1]})"]


def _arrays(spec: dict, seed: int, read: Callable, class_names: tuple[str, ...]) -> Index:
    """A torchvision set: small pictures that fit in memory, with a test split of its own."""
    raw = read(data_dir(spec))
    images, labels = raw["train"]
    shares = _shares(spec, ("test",))
    assigned = splits.split(labels, seed=seed, **shares)
    digests = {name: array_digests(pictures) for name, (pictures, _) in raw.items()}
    leaked = np.isin(digests["test"], digests["train"])
    notes = []
    if leaked.any():
        notes.append(
            f"{leaked.sum()} test pictures are left out because the same ones are in training or "
            f"validation, such as {spec['name']}/test/{np.argmax(leaked)}"
        )
    parts = {
        "train": (images, labels, np.flatnonzero(assigned == "train")),
        "validation": (images, labels, np.flatnonzero(assigned == "validation")),
        "test": (*raw["test"], np.flatnonzero(~leaked)),
    }

    def load() -> Dataset:
        made = {}
        for split, (pictures, classes, rows) in parts.items():
            whole = "test" if split == "test" else "train"
            names = [f"{spec['name']}/{whole}/{row}" for row in rows]
            fitted = _fitted(pictures[rows], spec)
            made[split] = Pictures(fitted, classes[rows], names, digests=digests[whole][rows])
        return Dataset(made, class_names, notes)

    counts = {
        split: np.bincount(classes[rows], minlength=len(class_names))
        for split, (_, classes, rows) in parts.items()
    }
    return Index(class_names, counts, load, notes=notes)


def _fitted(images: np.ndarray, spec: dict) -> np.ndarray:
    """(N, H, W, C) uint8 brought to the wanted size and channels."""
    size, channels = spec["size"], spec["channels"]
    if images.shape[3] == channels and images.shape[1:3] == (size, size):
        return images
    how = InterpolationMode(spec["interpolation"])
    parts = []
    for start in range(0, len(images), 4096):
        part = torch.from_numpy(images[start : start + 4096]).permute(0, 3, 1, 2)
        part = tv.resize(part, [size, size], how, antialias=True)
        if part.shape[1] != channels:
            part = tv.rgb_to_grayscale(part) if channels == 1 else part.expand(-1, 3, -1, -1)
        parts.append(part.permute(0, 2, 3, 1).contiguous().numpy())
    return np.concatenate(parts)


def _mnist(spec: dict, seed: int) -> Index:
    return _arrays(spec, seed, torchvision_sets.mnist, torchvision_sets.MNIST_CLASSES)


def _cifar10(spec: dict, seed: int) -> Index:
    return _arrays(spec, seed, torchvision_sets.cifar10, torchvision_sets.CIFAR10_CLASSES)


# of picture files
FILES = {
    "image_folder": _image_folder,
    "cats_dogs": _image_folder,
    "flowers": _flowers,
    "pets": _pets,
}
# of pictures that are drawn, or lie in files of many
STORES = {"shapes": _shapes, "mnist": _mnist, "cifar10": _cifar10}
SOURCES = (*STORES, *FILES)
