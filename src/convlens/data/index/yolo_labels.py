"""Label files of YOLO: one line for each object, in fractions of the upright image's sides.

    2 0.5 0.5 0.25 0.4                       class, centre x, centre y, width, height
    2 0.4 0.3 0.6 0.3 0.5 0.7                class, x and y of three or more points of the outline

The format is that of Ultralytics (docs.ultralytics.com/datasets). A sixth number of a box, and one
more after an outline's points, is a confidence and is ignored. Rows of a data set with
``kpt_shape`` hold a box and keypoints, of which the box is read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import yaml

from convlens.core.errors import UserError

MOST_BYTES = 10_000_000


def read_data_yaml(path: Path) -> dict[str, object]:
    """Return the table in a YOLO data set's YAML file.

    Raises:
        UserError: it cannot be read, or is not a table.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(MOST_BYTES + 1)
        table = yaml.safe_load(content) if len(content) <= MOST_BYTES else None
    except OSError as error:
        raise UserError(
            f"cannot read {path}: {error.strerror}; data=yolo needs a data.yaml, or set "
            "data.annotations to its file"
        ) from None
    except (yaml.YAMLError, UnicodeError, RecursionError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path} is not YAML: {reason}") from None
    if not isinstance(table, dict):
        raise UserError(f"{path} is not a table with train, val and names")
    return table


def list_names(table: Mapping[str, object], path: Path) -> list[object]:
    """Return the declared classes in the order of their numbers, unchecked.

    Args:
        table: from ``read_data_yaml``.
        path: the file.

    Raises:
        UserError: there are no names, a number is missing, or ``nc`` counts others.
    """
    names = table.get("names")
    if isinstance(names, dict):
        if sorted(map(str, names)) != sorted(map(str, range(len(names)))):
            raise UserError(f"names in {path}: the numbers of {len(names)} classes must be 0 to "
                            f"{len(names) - 1}")  # fmt: skip
        by_number = {str(number): name for number, name in names.items()}
        names = [by_number[str(number)] for number in range(len(names))]
    if not isinstance(names, list):
        raise UserError(f"no names in {path}: list the names of the classes")
    count = table.get("nc", len(names))
    if count != len(names):
        raise UserError(f"{path} says nc: {count}, but names {len(names)} classes: correct one")
    return names


def count_keypoint_values(table: Mapping[str, object], path: Path) -> int:
    """Return how many values of keypoints follow each box: 0 without ``kpt_shape``.

    Raises:
        UserError: ``kpt_shape`` is not [number of keypoints, 2 or 3].
    """
    shape = table.get("kpt_shape")
    if shape is None:
        return 0
    is_pair = isinstance(shape, list) and len(shape) == 2 and all(type(n) is int for n in shape)
    if not is_pair or shape[0] < 1 or shape[1] not in (2, 3):
        raise UserError(f"kpt_shape in {path} must be [number of keypoints, 2 or 3]")
    return shape[0] * shape[1]


def read_label_file(
    path: Path, classes: int, keypoint_values: int
) -> list[tuple[int, tuple[float, ...]]]:
    """Return class and numbers of each object in a label file.

    Args:
        path: the file.
        classes: number of classes.
        keypoint_values: from ``count_keypoint_values``.

    Returns:
        Four numbers for a box (left, top, width, height), else those of an outline.

    Raises:
        OSError: the file cannot be read.
        ValueError: a line is not of this format; the error states its number.
    """
    with open(path, "rb") as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise ValueError(f"it has more than {MOST_BYTES:,} bytes")
    objects = []
    for number, line in enumerate(content.decode("utf-8-sig", "replace").splitlines(), 1):
        if not line.strip():
            continue
        try:
            objects.append(_read_line(line.split(), classes, keypoint_values))
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from None
    return objects


def _read_line(
    words: list[str], classes: int, keypoint_values: int
) -> tuple[int, tuple[float, ...]]:
    label, *values = map(_read_number, words)
    if label != int(label) or not 0 <= label < classes:
        raise ValueError(
            f"class {words[0]} is not one of the {classes} classes, 0 to {classes - 1}"
        )
    if keypoint_values and len(values) == 4 + keypoint_values:
        values = values[:4]
    if len(values) in (4, 5):
        x, y, width, height = values[:4]
        return int(label), (x - width / 2, y - height / 2, width, height)
    if len(values) < 6:
        raise ValueError(f"{len(words)} values: expected a box (5) or an outline (7 or more)")
    return int(label), tuple(values[: len(values) // 2 * 2])


def _read_number(word: str) -> float:
    try:
        value = float(word)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{word[:40]!r} is not a number")
    return value
