"""Which images a checkpoint is tested on: its run's own test split, or other data it has not seen.

Legend: N images, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from convlens.config.checks import replace_values, restore_config
from convlens.config.schema import Config
from convlens.core.errors import UserError, nearest
from convlens.data.datamodule import PictureData
from convlens.data.index.names import normalise_name
from convlens.data.pixels.dataset import Dataset
from convlens.data.sources.places import find_data_dir
from convlens.data.sources.pool import Pool
from convlens.data.sources.registry import build_pool
from convlens.data.sources.source import Index
from convlens.data.split_record import USED, SplitRecord
from convlens.experiment.data import build_data, describe_uses

# keys of `data` that say how images are read, not which ones; the rest names the data
_READING = ("size", "channels", "resize", "interpolation")
_APART = (*_READING, "cache", "split", "augment", "masks", "on_error", "dir")
_OLD = (
    "the checkpoint was written by an earlier version, which did not record the training images: "
    "some of the tested images may be among them"
)


@dataclass(frozen=True)
class UnseenImages:
    """What a checkpoint is tested on.

    Attributes:
        data: with a test split.
        own: whether these are the whole test split of the checkpoint's run, read as the run read
            them; only then are the results the run's own.
        place: what the data is called.
        lines: what a person should know of the choice.
        left_out: name and reason of every image that is not tested because the run has used it.
    """

    data: PictureData
    own: bool
    place: str
    lines: Sequence[str]
    left_out: Sequence[tuple[str, str]] = ()


def select_test_images(config: Config, checkpoint: dict) -> UnseenImages:
    """Choose the images that a checkpoint is tested on.

    Of the data that the run was trained on these are the images of its test split, known by their
    content, whatever was added, renamed or moved since. Of other data it is its test split where it
    has one, else all of it. What the run was trained or validated on is left out of either.

    Args:
        config: resolved; which data is meant.
        checkpoint: as :func:`convlens.training.survival.checkpoint.read_checkpoint` gives it.

    Raises:
        UserError: nothing is left, or the data has classes that the checkpoint does not know.
    """
    told, names = (checkpoint["hyper_parameters"][key] for key in ("config", "class_names"))
    stored = restore_config(told, "the checkpoint", None)
    record = SplitRecord.from_state(checkpoint.get(PictureData.__qualname__), "the checkpoint")
    same_data = _same_data(stored, config)
    lines = _unused_keys(stored, config, same_data)
    if record is None and same_data:
        return _by_the_old_split(config, stored, names, [_OLD, *lines])
    spec = config.data
    if same_data:  # drawn pictures depend on it
        spec = spec.replace(split=stored.data.split.plain())
    images = build_pool(spec, config.seed)
    if record is None:
        chosen = _others(images, np.full(len(images.labels), ""))
        lines = [_OLD, *lines]
    else:
        chosen = _chosen(images, record, same_data, spec.on_error == "skip")
    dataset = _in_order(images.load(chosen.rows), images, chosen.rows, names)
    lines += [*images.notes, *chosen.lines, *dataset.notes]
    counts = np.bincount(dataset.splits["test"].labels, minlength=len(names))
    if absent := [name for name, count in zip(names, counts, strict=True) if not count]:
        lines.append(
            f"no tested image belongs to {len(absent)} of the {len(names)} classes: {_some(absent)}"
        )
    alike = all(getattr(stored.data, key) == getattr(config.data, key) for key in _READING)
    own = chosen.own and not dataset.skipped and alike
    data = build_data(config, index=Index(dataset.class_names, {"test": counts}, lambda: dataset))
    return UnseenImages(data, own, images.place, lines, chosen.left_out)


@dataclass
class _Chosen:
    """Rows to test, whether they are the run's whole test split, lines, what is left out."""

    rows: np.ndarray
    own: bool
    lines: list[str]
    left_out: Sequence[tuple[str, str]] = ()


def _chosen(images: Pool, record: SplitRecord, same_data: bool, skips: bool) -> _Chosen:
    digests = images.digests()
    used = record.find_uses(digests)
    own = record.find_own_test(digests) & (used == "")
    if same_data and own.any():
        return _own(images, record, used, own, skips)
    chosen = _others(images, used)
    if same_data:
        chosen.lines.insert(
            0, f"none of the {len(record.test)} images of the run's test split is in "
            f"{images.place} any more: this is other data now",
        )  # fmt: skip
    chosen.own = np.array_equal(np.sort(digests[chosen.rows]), np.sort(record.test))
    if chosen.own:
        chosen.lines.append("they are the run's own test split, in another place")
    return chosen


def _own(
    images: Pool, record: SplitRecord, used: np.ndarray, own: np.ndarray, skips: bool
) -> _Chosen:
    """The run's test split in the run's data; ``skips``: broken files are not in its record."""
    there, once = int(own.sum()), len(record.test)
    lines = [f"tested: the run's own test split, {there} images of {images.place}"]
    if there < once:
        lines.append(
            f"{once - there} of the {once} images of the run's test split are no longer in "
            f"{images.place}: the results are not those of the run"
        )
    added = np.flatnonzero((used == "") & ~own)
    if len(added):
        what = "image" if len(added) == 1 else "images"
        broken = ", or skipped by it as broken" if skips else ""
        lines.append(
            f"not tested: {len(added)} {what} added or changed since the run began{broken}, such "
            f"as {images.names[added[0]]}; a folder of new images is tested with data.dir=FOLDER"
        )
    return _Chosen(np.flatnonzero(own), there == once, lines)


def _others(images: Pool, used: np.ndarray) -> _Chosen:
    """Data that the run does not come from: all of it, or its own test split."""
    rows, which = np.arange(len(images.labels)), ""
    if images.splits is not None and (images.splits == "test").any():
        rows, which = np.flatnonzero(images.splits == "test"), " in the test split"
    beside, whole = len(images.labels) - len(rows), len(rows)
    used = used[rows]
    left = [(images.names[row], USED[how]) for row, how in zip(rows, used, strict=True) if how]
    rows = rows[used == ""]
    if not len(rows):
        raise UserError(
            f"nothing is left to test: all {whole} images{which} of {images.place} are among those "
            f"that the run was trained or validated on; point data.dir at images it has not seen"
        )
    count = f"{len(rows)} of the {whole}" if left else f"all {whole}"
    lines = [f"tested: {count} images{which} of {images.place}"]
    if beside:
        lines.append(
            f"not tested: the {beside} images of its other splits (data.dir can name their folder)"
        )
    if left:
        lines.append(
            f"left out: {len(left)} images that this run has used ({describe_uses(used)}), such as "
            f"{left[0][0]}; left_out.csv names them"
        )
    return _Chosen(rows, False, lines, left)


def _by_the_old_split(
    config: Config, stored: Config, names: list[str], lines: list[str]
) -> UnseenImages:
    """The split that the run's config gives: all that a checkpoint without a record can tell."""
    spec = config.data.replace(split=stored.data.split.plain())
    data = build_data(replace_values(config, {"data": spec.plain(), "seed": stored.seed}))
    if list(data.class_names) != list(map(normalise_name, names)):
        raise UserError(_other_classes(names, data.class_names))
    lines = [*lines, *dict.fromkeys([*data.index.notes, *data.dataset.notes])]
    count = len(data.dataset.splits["test"])
    lines.append(f"tested: the test split of the data as it is now, {count} images")
    place = f"data={spec.name}" if data.index.listing is None else str(find_data_dir(spec))
    return UnseenImages(data, False, place, lines)


def _in_order(dataset: Dataset, images: Pool, rows: np.ndarray, names: list[str]) -> Dataset:
    """The data set with labels that are places in the checkpoint's ``names``.

    Raises:
        UserError: a tested image has a class that is not among them.
    """
    there = {images.class_names[label] for label in np.unique(images.labels[rows])}
    known = {normalise_name(name): number for number, name in enumerate(names)}
    strange = sorted(name for name in there if normalise_name(name) not in known)
    if strange:
        raise UserError(_other_classes(names, strange))
    place = np.array([known.get(normalise_name(name), -1) for name in images.class_names])
    test = dataset.splits["test"]
    test = replace(test, labels=place[test.labels])
    return replace(dataset, splits={"test": test}, class_names=tuple(names))


def _other_classes(names: Sequence[str], found: Sequence[str]) -> str:
    strange = [name for name in found if name not in names]
    known = f"the checkpoint, of {len(names)} classes ({_some(names)}),"
    if not strange:
        return (
            f"{known} and the data, of {len(found)} ({_some(found)}), differ in their classes or "
            f"the order of them: point data= and data.dir= at the images that it was trained for"
        )
    what = "a class" if len(strange) == 1 else f"{len(strange)} classes"
    return (
        f"the data has {what} that {known} does not know: {_some(strange)}; "
        f"{nearest(strange[0], names)}; point data= and data.dir= at images of its classes"
    )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")


def _same_data(stored: Config, config: Config) -> bool:
    """Whether both configs name the same data; what it holds by now is another question."""
    old, new = stored.data.plain(), config.data.plain()
    keys = (old.keys() | new.keys()) - set(_APART)
    alike = all(old.get(key) == new.get(key) for key in keys)
    return alike and find_data_dir(stored.data).resolve() == find_data_dir(config.data).resolve()


def _unused_keys(stored: Config, config: Config, same_data: bool) -> list[str]:
    """Lines on what was typed and counts for nothing here."""
    name, found = config.data.name, []
    drawn = name == "shapes"  # with another seed or, of other pictures, other shares
    if config.data.split != stored.data.split and (same_data or not drawn):
        found.append("data.split.* has no effect on a test: a split belongs to the run")
    if config.seed != stored.seed and not drawn:
        found.append("seed has no effect on which images are tested: a split belongs to the run")
    return found
