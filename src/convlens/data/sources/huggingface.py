"""``data=huggingface``: data sets of Hugging Face's ``datasets``, from a folder or the hub.

A folder is one that ``save_to_disk`` wrote, or any that ``load_dataset`` understands (Parquet
files, class folders with metadata). Images are not decoded by ``datasets``: their files are
unpacked (``convlens.data.sources.unpacked``), or used where they are.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from convlens.config.schema import DataConfig
from convlens.core.errors import UserError, convert_errors, nearest
from convlens.core.optional import import_optional
from convlens.data.index.folders import count_noun
from convlens.data.index.split_names import match_splits
from convlens.data.sources.image_files import ImageFiles
from convlens.data.sources.places import find_data_dir
from convlens.data.sources.unpacked import PackedImage, list_unpacked, unpack_images

_SAVED = ("dataset_dict.json", "state.json")  # written by save_to_disk
_ONLY = "images"  # name of the part of a data set without splits


@dataclass(frozen=True)
class _Columns:
    """Which columns contain images and labels.

    Attributes:
        image: name of the column of images.
        label: name of the column of labels.
        names: class names by number; None if labels are texts or numbers without names.
    """

    image: str
    label: str
    names: list[str] | None


def find_huggingface(spec: DataConfig, for_test: bool = False) -> ImageFiles:
    """Find the labelled images of a data set.

    Args:
        spec: the config group ``data``.
        for_test: nothing will be trained on the images.

    Raises:
        UserError: ``datasets`` is not installed, the data set cannot be loaded, or its columns do
            not tell which are images and labels.
    """
    datasets = import_optional("datasets", "huggingface", "data=huggingface")
    place, parts = _load(datasets, spec)
    roles = match_splits(list(parts), place)
    unused = [name for name in parts if roles[name] is None and len(parts) > 1]
    notes = [
        f"part {name!r} of {place} is not used ({len(parts[name])} rows): it is not a split"
        for name in unused
    ]
    parts = {name: part for name, part in parts.items() if name not in unused}
    columns = _find_columns(datasets, next(iter(parts.values())).features, spec, place)
    for name, part in parts.items():
        if columns != _find_columns(datasets, part.features, spec, place):
            raise UserError(f"the parts of {place} have other columns or classes, such as {name}")
    sources = [Path(each["filename"]) for part in parts.values() for each in part.cache_files]
    total = sum(map(len, parts.values()))
    key = [
        "huggingface", place, spec.on_error, columns.image, columns.label, columns.names,
        [(name, roles[name], len(part)) for name, part in parts.items()],
    ]  # fmt: skip
    images = {
        name: part.select_columns([columns.image, columns.label])
        .with_format(None)
        .cast_column(columns.image, datasets.Image(decode=False))
        for name, part in parts.items()
    }
    read = partial(_read_images, images, roles, columns, place, spec.on_error)
    folder, rows, lines = unpack_images(
        sources, key, read, what=f"{total} images of {place}", total=total
    )
    root = folder if spec.hub else find_data_dir(spec)
    return list_unpacked(root, folder, rows, [*notes, *lines], for_test)


def _load(datasets: ModuleType, spec: DataConfig) -> tuple[str, dict[str, Any]]:
    """Return what errors call the data set, and its parts by name."""
    if spec.hub and spec.dir:
        raise UserError("both data.hub and data.dir are set: set one of them")
    folder = find_data_dir(spec)
    place = spec.hub or str(folder)
    if not spec.hub and not folder.is_dir():
        raise UserError(
            f"no folder {folder}: set data.dir to a data set's folder, or data.hub=OWNER/NAME"
        )
    way_out = "is it a data set that datasets.load_dataset reads, and is there a connection?"
    if not spec.hub:
        way_out = "is it a folder that datasets.load_dataset or load_from_disk reads?"
    with _without_bars(datasets), convert_errors(f"cannot load {place}", way_out):
        if not spec.hub and any((folder / name).is_file() for name in _SAVED):
            loaded = datasets.load_from_disk(str(folder), keep_in_memory=False)
        else:
            loaded = datasets.load_dataset(place, spec.subset, keep_in_memory=False)
    return place, dict(loaded) if isinstance(loaded, dict) else {_ONLY: loaded}


@contextlib.contextmanager
def _without_bars(datasets: ModuleType) -> Iterator[None]:
    were_disabled = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if not were_disabled:
            datasets.enable_progress_bars()


def _find_columns(
    datasets: ModuleType, features: Mapping[str, Any], spec: DataConfig, place: str
) -> _Columns:
    """Return the columns of images and labels: those that the user names, or the only ones."""
    image = _choose(spec.image_column, features, datasets.Image, "image_column", place)
    label = _choose(spec.label_column, features, datasets.ClassLabel, "label_column", place)
    if not isinstance(features[image], datasets.Image):
        raise UserError(
            f"data.image_column={image}: {place} has {features[image]} there, not images"
        )
    kind = features[label]
    if isinstance(kind, datasets.ClassLabel):
        return _Columns(image, label, list(kind.names))
    is_plain = isinstance(kind, datasets.Value) and (
        "string" in kind.dtype or kind.dtype.startswith(("int", "uint"))
    )
    if not is_plain:
        raise UserError(
            f"data.label_column={label}: {place} has {kind} there; each image needs one class name "
            "or number"
        )
    return _Columns(image, label, None)


def _choose(
    named: str | None, features: Mapping[str, Any], kind: type, key: str, place: str
) -> str:
    if named:
        if named not in features:
            raise UserError(f"data.{key}={named}: {nearest(named, features)}")
        return named
    found = [name for name, feature in features.items() if isinstance(feature, kind)]
    if len(found) != 1:
        raise UserError(
            f"{place} has {len(found)} columns of type {kind.__name__} among "
            f"{', '.join(features)}: choose with data.{key}=NAME"
        )
    return found[0]


def _read_images(
    parts: Mapping[str, Any], roles: Mapping[str, str | None], columns: _Columns, place: str,
    on_error: str, notes: list[str], advance: Callable[[int], None],
) -> Iterator[PackedImage]:  # fmt: skip
    """Yield every labelled image; report the others."""
    unlabelled: Counter[str] = Counter()
    without = []
    for name, part in parts.items():
        with convert_errors(f"cannot read {name} of {place}", "is the data set complete?"):
            for number, row in enumerate(part):
                advance(1)
                value, cell = row[columns.label], row[columns.image]
                if value in (None, "") or (columns.names and value < 0):  # -1: a hidden test label
                    unlabelled[name] += 1
                    continue
                content = _get_content(cell)
                if content is None:
                    if on_error == "raise":
                        raise UserError(
                            f"row {number} of {name} in {place} has no image on this machine: "
                            "remove it, or skip such rows with data.on_error=skip"
                        )
                    without.append(f"row {number} of {name}")
                    continue
                label = columns.names[value] if columns.names else str(value)
                own = Path(cell["path"] or "").name
                yield PackedImage(roles[name], label, own, content)
    for name, count in unlabelled.items():
        what = count_noun(count, "row", "rows")
        notes.append(f"left out: {what} of {name} without a label")
    if without:
        what = count_noun(len(without), "row", "rows")
        notes.append(f"left out: {what} without an image, the first: {without[0]}")


def _get_content(cell: Mapping[str, Any] | None) -> bytes | Path | None:
    """Return the bytes of an image, or its file; None if there is neither."""
    if cell is None:
        return None
    if cell["bytes"] is not None:
        return cell["bytes"]
    path = cell["path"]
    return Path(path) if path and "://" not in path else None
