"""``data=yolo``: images with objects in the format of YOLO, ``data.yaml`` and ``labels/*.txt``.

    data.yaml                    train: images/train, val: images/val, names: [cat, dog]
    images/train/1.jpg           labels/train/1.txt        (convlens.data.index.yolo_labels)

As in Ultralytics, the label file of an image is found by replacing the last folder ``images`` of
its path by ``labels``, or is beside the image; an image without one contains no object.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from convlens.config.schema import DataConfig
from convlens.core.errors import UserError
from convlens.data.index.folders import Walk, count_noun
from convlens.data.index.names import find_on_disk
from convlens.data.index.yolo_labels import (
    count_keypoint_values,
    list_names,
    read_data_yaml,
    read_label_file,
)
from convlens.data.masks.objects import Region
from convlens.data.sources.annotated import (
    WAY_OUT,
    AnnotatedImage,
    Annotations,
    check_class_names,
    label_images,
)
from convlens.data.sources.image_files import ImageFiles
from convlens.data.sources.places import find_data_dir

_SPLITS = {"train": "train", "val": "validation", "test": "test"}  # their keys in data.yaml
_SLACK = 0.01  # fraction of a side by which an object may exceed its image
_NO_LABELS = ("classes.txt", "notes.txt")  # labelImg and others write them beside the labels


def find_yolo(spec: DataConfig, for_test: bool = False) -> ImageFiles:
    """Find the images whose objects are of one class, or of any, in the layout of YOLO.

    Args:
        spec: the config group ``data``.
        for_test: nothing will be trained on the images.

    Raises:
        UserError: a file or folder is missing, damaged or contradicts itself.
    """
    root = find_data_dir(spec)
    path = Path(spec.annotations).expanduser() if spec.annotations else root / "data.yaml"
    path = find_on_disk(path)
    table = read_data_yaml(path)
    class_names = check_class_names(list_names(table, path), f"names in {path}")
    keypoint_values = count_keypoint_values(table, path)
    found = Annotations(root, class_names)
    labels: dict[Path, Path] = {}  # label file -> image
    for key, split in _SPLITS.items():
        for image in _list_images(table, key, path, found.notes):
            label = find_label_file(image)
            if labels.get(label) == image:
                raise UserError(f"{path} lists {image} twice: keep it in one split")
            if label in labels:
                raise UserError(f"{labels[label]} and {image} share {label}: rename one")
            labels[label] = image
            try:
                objects = _read_objects(label, class_names, keypoint_values)
            except ValueError as error:
                if spec.on_error == "raise":
                    raise UserError(f"{label}, {error}{WAY_OUT}") from None
                found.broken.append((image, f"{label.name}, {error}"))
                continue
            source = label if objects else path
            found.images.append(AnnotatedImage(image, split, source, objects))
    if not labels:
        raise UserError(f"no images in the folders that {path} names: train, val and test")
    found.notes += _describe_orphans(labels)
    return label_images(spec, found, for_test)


def find_label_file(image: Path) -> Path:
    """Return the label file of an image.

    >>> find_label_file(Path("images/a/images/train/1.jpg")).as_posix()
    'images/a/labels/train/1.txt'
    """
    parts = list(image.with_suffix(".txt").parts)
    folders = parts[:-1]
    if "images" in folders:
        parts[len(folders) - 1 - folders[::-1].index("images")] = "labels"
    return Path(*parts)


def _read_objects(
    label: Path, class_names: tuple[str, ...], keypoint_values: int
) -> tuple[tuple[str, Region], ...]:
    """Return class and place of each object; none if the file does not exist.

    Raises:
        ValueError: the file is damaged.
    """
    try:
        lines = read_label_file(label, len(class_names), keypoint_values)
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from None
    objects = []
    for number, values in lines:
        region = Region(box=values) if len(values) == 4 else Region(outlines=(values,))
        region.check(1, 1, _SLACK)
        objects.append((class_names[number], region))
    return tuple(objects)


def _list_images(
    table: Mapping[str, object], key: str, path: Path, notes: list[str]
) -> Iterator[Path]:
    """Yield the images of a split: those below its folders, or of its lists.

    Raises:
        UserError: a folder or list does not exist.
    """
    entries = table.get(key)
    entries = entries if isinstance(entries, list) else [entries]
    for entry in entries:
        if entry is None or entry == "":
            continue
        place = _find_place(str(entry), str(table.get("path") or ""), key, path)
        if place.is_dir():
            walk = Walk(place, companions=(".txt",))
            yield from walk.find_images(place)
            notes += walk.notes(f"in {place}")
        else:
            yield from _read_list(place)


def _find_place(entry: str, base: str, key: str, path: Path) -> Path:
    """Return the folder or list that an entry names.

    It is relative to ``path:``, else to the file; exports of Roboflow put "../" in front of folders
    that are beside the file.
    """
    home = path.parent
    candidates = [home / base / entry, home / entry, home / entry.removeprefix("../")]
    for candidate in candidates:
        if candidate.exists():
            return Path(os.path.normpath(candidate))
    raise UserError(f"{key} in {path} names {entry}, which does not exist: searched "
                    f"{', '.join(dict.fromkeys(map(str, candidates)))}")  # fmt: skip


def _read_list(place: Path) -> Iterator[Path]:
    """Yield the images that a text file lists, relative to its folder."""
    try:
        lines = place.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the list {place}: {error}") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        image = find_on_disk(place.parent / line.strip())
        if not image.is_file():
            raise UserError(f"{place} line {number} names {line.strip()}, which does not exist")
        yield image


def _describe_orphans(labels: Mapping[Path, Path]) -> list[str]:
    """Return a line on label files without an image."""
    orphans = []
    for folder in sorted({label.parent for label in labels}, key=os.fsencode):
        names = sorted(folder.glob("*.txt"), key=os.fsencode) if folder.is_dir() else ()
        orphans += [f for f in names if f not in labels and f.name not in _NO_LABELS]
    if not orphans:
        return []
    what = count_noun(len(orphans), "label file belongs", "label files belong")
    return [f"{what} to no image, the first: {orphans[0]}"]
