"""Select the images that a checkpoint is tested on: its run's test split or other unseen data.

Legend: N images, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from convlens.config.checks import replace_values, restore_config
from convlens.config.schema import Config, DataConfig
from convlens.core.errors import UserError, nearest
from convlens.data.datamodule import PictureData
from convlens.data.index.digests import UNREAD
from convlens.data.index.names import normalise_name
from convlens.data.pixels.dataset import Dataset, Images
from convlens.data.pixels.decode import make_recipe
from convlens.data.sources.corrections import Corrected
from convlens.data.sources.places import find_data_dir
from convlens.data.sources.pool import Pool
from convlens.data.sources.registry import build_pool
from convlens.data.sources.source import Index
from convlens.data.split_record import USED, SplitRecord
from convlens.experiment.data import build_data, describe_uses

# keys of `data` that decide how images are read, not which ones
_READING = ("size", "channels", "resize", "interpolation", "decode")
# keys that do not identify the data; `dir` is compared as a resolved path
_NOT_COMPARED = (
    *_READING, "cache", "split", "augment", "masks", "on_error", "dir", "corrections",
    "corrections_of",
)  # fmt: skip
_OLD = (
    "the checkpoint was written by an earlier version, which did not record the training images: "
    "some of the tested images may be among them"
)


@dataclass(frozen=True)
class UnseenImages:
    """The images that a checkpoint is tested on.

    Attributes:
        data: data with a test split.
        is_own_split: whether these are the complete test split of the checkpoint's run, read as
            the run read them, so that the results belong to the run.
        place: name of the data.
        lines: messages about the selection.
        left_out: name and use of every image that is left out because the run has used it.
    """

    data: PictureData
    is_own_split: bool
    place: str
    lines: Sequence[str]
    left_out: Sequence[tuple[str, str]] = ()


def select_test_images(config: Config, checkpoint: dict) -> UnseenImages:
    """Select the images that a checkpoint is tested on.

    In the data that the run was trained on, these are the images of its test split, identified by
    their content, so that added, renamed or moved files make no difference. In other data, these
    are its test split if it has one, else all images. Images that the run was trained or validated
    on are always left out.

    Args:
        config: resolved; it names the data.
        checkpoint: contents of a checkpoint, from ``read_checkpoint``.

    Raises:
        UserError: no image is left, or the data has classes that the checkpoint does not know.
    """
    plain, names = (checkpoint["hyper_parameters"][key] for key in ("config", "class_names"))
    stored = restore_config(plain, "the checkpoint", None)
    record = SplitRecord.from_state(checkpoint.get(PictureData.__qualname__), "the checkpoint")
    same_data = _is_same_data(stored, config)
    lines = _describe_unused_keys(stored, config, same_data)
    if record is None and same_data:
        return _use_old_split(config, stored, names, [_OLD, *lines])
    spec = config.data
    if same_data:  # the images of `data=shapes` depend on the split
        spec = spec.replace(split=stored.data.split.plain())
    alike = _find_corrections(stored) == _find_corrections(config)
    if alike and _find_corrections(config) and not same_data:
        spec, alike = spec.replace(corrections=None), False
        lines.append("the run's data.corrections are not about this data, and not applied")
    images = build_pool(spec, config.seed)
    if record is None:
        selection = _select_other_images(images, np.full(len(images.labels), ""))
        lines = [_OLD, *lines]
    else:
        selection = _select_rows(images, record, same_data, _list_reasons(stored.data), alike)
    if images.corrected is not None:
        _leave_out(selection, images.corrected)
    dataset = _relabel(images.load(selection.rows), images, selection.rows, names)
    lines += [*images.notes, *selection.lines, *dataset.notes]
    counts = np.bincount(dataset.splits["test"].labels, minlength=len(names))
    if absent := [name for name, count in zip(names, counts, strict=True) if not count]:
        lines.append(
            f"no tested image belongs to {len(absent)} of the {len(names)} classes: "
            f"{_format_first(absent)}"
        )
    reads_alike = make_recipe(stored.data) == make_recipe(config.data)
    is_own_split = selection.is_own_split and not dataset.skipped and reads_alike and alike
    data = build_data(config, index=Index(dataset.class_names, {"test": counts}, lambda: dataset))
    return UnseenImages(data, is_own_split, images.place, lines, selection.left_out)


@dataclass
class _Selection:
    """Rows to test.

    Attributes:
        rows: rows of the pool.
        is_own_split: whether they are the complete test split of the run.
        lines: messages about the selection.
        left_out: name and use of every image that the run has used.
    """

    rows: np.ndarray
    is_own_split: bool
    lines: list[str]
    left_out: Sequence[tuple[str, str]] = ()


def _select_rows(
    images: Pool, record: SplitRecord, same_data: bool, reasons: str, alike: bool
) -> _Selection:
    """Select rows by what the run has used; see ``_select_own_split`` for ``reasons``.

    Args:
        images: the data as it is now.
        record: the run's split.
        same_data: whether it is the data of the run.
        reasons: see ``_select_own_split``.
        alike: whether corrections of test images are those of the run.
    """
    digests = images.digests()
    used, kept = record.find_uses(digests), digests
    if alike and images.corrected is not None:  # of two copies one may be left out
        kept = np.where(images.corrected.left_out, UNREAD, digests)
    own = record.find_own_test(kept) & (used == "")
    if same_data and own.any():
        return _select_own_split(images, record, used, own, reasons)
    selection = _select_other_images(images, used)
    if same_data:
        selection.lines.insert(
            0, f"{images.place} no longer contains any of the {len(record.test)} images of the "
            f"run's test split: it is treated as other data",
        )  # fmt: skip
    selection.is_own_split = np.array_equal(np.sort(digests[selection.rows]), np.sort(record.test))
    if selection.is_own_split:
        selection.lines.append("these are the images of the run's own test split, in another place")
    return selection


def _select_own_split(
    images: Pool, record: SplitRecord, used: np.ndarray, own: np.ndarray, reasons: str
) -> _Selection:
    """Select the run's test split in the run's data.

    Args:
        images: the run's data as it is now.
        record: the run's split.
        used: (N,) str, how the run used each image.
        own: (N,) bool, whether an image belongs to the run's test split.
        reasons: why else an image may not be in the record, beginning with a comma.
    """
    present, total = int(own.sum()), len(record.test)
    lines = [f"tested: the run's own test split, {present} images of {images.place}"]
    if present < total:
        lines.append(
            f"{total - present} of the {total} images of the run's test split are no longer in "
            f"{images.place}: the results are not those of the run"
        )
    added = np.flatnonzero((used == "") & ~own)
    if len(added):
        noun = "image" if len(added) == 1 else "images"
        lines.append(
            f"not tested: {len(added)} {noun} added or changed since the run began{reasons}, such "
            f"as {images.names[added[0]]}; data.dir=FOLDER tests a folder of new images"
        )
    return _Selection(np.flatnonzero(own), present == total, lines)


def _list_reasons(data: DataConfig) -> str:
    """Return why a run has not used some of its images, beginning with a comma; "" if it has."""
    broken = ", or skipped by it as broken" if data.on_error == "skip" else ""
    return f"{broken}, or left out by data.corrections" if data.corrections else broken


def _leave_out(selection: _Selection, corrected: Corrected) -> None:
    """Remove images that ``data.corrections`` leaves out; say what it changes."""
    rows = selection.rows
    selection.rows = rows[~corrected.left_out[rows]]
    if not len(selection.rows):
        raise UserError("data.corrections leaves out every image to test: keep some")
    changed, out = corrected.relabelled[selection.rows].sum(), len(rows) - len(selection.rows)
    selection.lines.append(f"data.corrections: {changed} tested images relabelled, {out} left out")
    selection.is_own_split &= not out


def _find_corrections(config: Config) -> str | None:
    """Return the table that corrects test images, or None."""
    return config.data.corrections if "test" in (config.data.corrections_of or ()) else None


def _select_other_images(images: Pool, used: np.ndarray) -> _Selection:
    """Select from data other than the run's: its test split if it has one, otherwise all of it."""
    rows, part = np.arange(len(images.labels)), ""
    if images.splits is not None and (images.splits == "test").any():
        rows, part = np.flatnonzero(images.splits == "test"), " in the test split"
    others, total = len(images.labels) - len(rows), len(rows)
    used = used[rows]
    left_out = [(images.names[row], USED[use]) for row, use in zip(rows, used, strict=True) if use]
    rows = rows[used == ""]
    if not len(rows):
        raise UserError(
            f"nothing is left to test: the run was trained or validated on all {total} images"
            f"{part} of {images.place}; point data.dir at images that it has not seen"
        )
    count = f"{len(rows)} of the {total}" if left_out else f"all {total}"
    lines = [f"tested: {count} images{part} of {images.place}"]
    if others:
        lines.append(
            f"not tested: the {others} images of its other splits (data.dir can name their folder)"
        )
    if left_out:
        lines.append(
            f"left out: {len(left_out)} images that this run has used ({describe_uses(used)}), "
            f"such as {left_out[0][0]}; left_out.csv lists them"
        )
    return _Selection(rows, False, lines, left_out)


def _use_old_split(
    config: Config, stored: Config, names: list[str], lines: list[str]
) -> UnseenImages:
    """Recompute the split from the run's config, for a checkpoint without a record."""
    spec = config.data.replace(split=stored.data.split.plain())
    data = build_data(replace_values(config, {"data": spec.plain(), "seed": stored.seed}))
    if list(data.class_names) != list(map(normalise_name, names)):
        raise UserError(_describe_class_mismatch(names, data.class_names))
    lines = [*lines, *dict.fromkeys([*data.index.notes, *data.dataset.notes])]
    count = len(data.dataset.splits["test"])
    lines.append(f"tested: the test split of the data as it is now, {count} images")
    place = f"data={spec.name}" if data.index.listing is None else str(find_data_dir(spec))
    return UnseenImages(data, False, place, lines)


def _relabel(dataset: Dataset, images: Pool, rows: np.ndarray, names: list[str]) -> Dataset:
    """Return the data set with labels that are indices into the checkpoint's ``names``.

    Raises:
        UserError: a tested image has a class that is not among them.
    """
    present = {images.class_names[label] for label in np.unique(images.labels[rows])}
    known = {normalise_name(name): number for number, name in enumerate(names)}
    unknown = sorted(name for name in present if normalise_name(name) not in known)
    if unknown:
        raise UserError(_describe_class_mismatch(names, unknown))
    numbers = np.array([known.get(normalise_name(name), -1) for name in images.class_names])
    test = dataset.splits["test"]
    test = replace(test, labels=numbers[test.labels])
    if test.present is not None:
        test = _relabel_several(test, numbers, len(names))
    return replace(dataset, splits={"test": test}, class_names=tuple(names))


def _relabel_several(test: Images, numbers: np.ndarray, classes: int) -> Images:
    """Return images of several classes with the columns of other class numbers.

    Args:
        test: the images.
        numbers: by class of the images, the new number; -1 if there is none.
        classes: the new number of classes.
    """
    present = np.zeros((len(test), classes), bool)
    present[:, numbers[numbers >= 0]] = test.present[:, numbers >= 0]
    draw = test.objects
    if draw is None:
        return replace(test, present=present)
    own = {new: old for old, new in enumerate(numbers.tolist()) if new >= 0}
    return replace(test, present=present, objects=lambda image, label: draw(image, own[label]))


def _describe_class_mismatch(names: Sequence[str], data_names: Sequence[str]) -> str:
    unknown = [name for name in data_names if name not in names]
    known = f"{len(names)} classes ({_format_first(names)})"
    if not unknown:
        return (
            f"the checkpoint has {known}, the data {len(data_names)} "
            f"({_format_first(data_names)}): they or their order differ; point data= and data.dir= "
            f"at images it was trained for"
        )
    noun = "a class" if len(unknown) == 1 else f"{len(unknown)} classes"
    return (
        f"the data has {noun} that the checkpoint does not know: {_format_first(unknown)}; "
        f"{nearest(unknown[0], names)}; point data= and data.dir= at images of its {known}"
    )


def _format_first(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")


def _is_same_data(stored: Config, config: Config) -> bool:
    """Return whether both configs name the same data; its contents may have changed."""
    old, new = stored.data.plain(), config.data.plain()
    keys = (old.keys() | new.keys()) - set(_NOT_COMPARED)
    if any(old.get(key) != new.get(key) for key in keys):
        return False
    return find_data_dir(stored.data).resolve() == find_data_dir(config.data).resolve()


def _describe_unused_keys(stored: Config, config: Config, same_data: bool) -> list[str]:
    """Return lines about overrides that have no effect on a test."""
    lines = []
    is_drawn = config.data.name == "shapes"  # its images depend on the seed and on the split
    if config.data.split != stored.data.split and (same_data or not is_drawn):
        lines.append("data.split.* has no effect on a test: a split belongs to the run")
    is_new = config.data.corrections not in (None, stored.data.corrections)
    if is_new and not _find_corrections(config):
        lines.append("data.corrections has no effect on a test: data.corrections_of=[test] does it")
    if config.seed != stored.seed and not is_drawn:
        lines.append("seed has no effect on which images are tested: a split belongs to the run")
    return lines
