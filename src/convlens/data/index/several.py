"""Images with several classes each: read from tables, and reduced to one class for splits.

Legend: N images, K classes. In texts, the classes of an image are separated by ``|``.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from convlens.core.errors import UserError
from convlens.data.index.files import Files, ListingBuilder
from convlens.data.index.names import normalise_name

SEPARATOR = "|"
_OTHER_COLUMNS = ("file", "split")


def split_labels(text: str) -> list[str]:
    """Return the classes in a text, each once, in composed spelling.

    >>> split_labels("dog | cat|dog")
    ['dog', 'cat']
    """
    parts = (normalise_name(part.strip()) for part in text.split(SEPARATOR))
    return list(dict.fromkeys(part for part in parts if part))


def join_labels(row: Mapping[str, str], path: Path, line: int) -> str:
    """Return the classes in a row of a table as text.

    The table has a column ``labels`` with the classes of an image, separated by ``|``, or a column
    for each class, which contains 1 for images of the class and 0 for others.

    Raises:
        UserError: a class column contains something else, or the image has no class.
    """
    if "labels" in row:
        text = row["labels"]
    else:
        columns = {name: value for name, value in row.items() if name not in _OTHER_COLUMNS}
        for name, value in columns.items():
            if value not in ("0", "1") or SEPARATOR in name:
                raise UserError(
                    f"{path} line {line}: column {name!r} is {value!r}: expected 0 or 1 for each "
                    f"class, or a column 'labels' such as cat{SEPARATOR}dog"
                )
        text = SEPARATOR.join(name for name, value in columns.items() if value == "1")
    if not split_labels(text):
        raise UserError(f"{path} line {line}: the image has no class; every image needs one")
    return text


def refuse_separator(class_names: Sequence[str], place: str) -> None:
    """Raise UserError if a class name contains what separates the classes of an image in tables."""
    for name in class_names:
        if SEPARATOR in name:
            raise UserError(
                f"class {name!r} in {place} contains {SEPARATOR}, which separates the classes of "
                f"an image: rename it"
            )


def add_rows(rows: ListingBuilder, found: Sequence[tuple[str | None, str, str]]) -> None:
    """Add images, each under the rarest of its classes, so that every split gets rare classes.

    Args:
        rows: collects the images.
        found: split or None, classes as text, and name of each image.
    """
    counts = Counter(label for _, text, _ in found for label in split_labels(text))
    for label in counts:
        rows.know(label)
    for split, text, name in found:
        rows.add(split, min(split_labels(text), key=lambda label: (counts[label], label)), [name])


def mark_classes(
    files: Files, class_names: Sequence[str], found: Sequence[tuple[str | None, str, str]]
) -> np.ndarray:
    """Return the classes of sorted files, (N, K) bool; ``found`` as for ``add_rows``."""
    texts = {os.path.abspath(n) if os.path.isabs(n) else n: text for _, text, n in found}
    place = {name: number for number, name in enumerate(class_names)}
    present = np.zeros((len(files), len(class_names)), bool)
    for row in range(len(files)):
        present[row, [place[label] for label in split_labels(texts[files.name(row)])]] = True
    return present


def pick_rarest(present: np.ndarray) -> np.ndarray:
    """Return the rarest class of each image, (N,) int64; the first of equally rare ones.

    >>> pick_rarest(np.array([[True, True], [True, False]])).tolist()
    [1, 0]
    """
    counts = np.where(present, present.sum(axis=0), len(present) + 1)
    return counts.argmin(axis=1)


def refuse_numbers(labels: Sequence[str], path: Path) -> None:
    """Raise UserError if labels are measurements: decimal numbers, most of which occur once."""
    try:
        numbers = [float(label) for label in labels]
    except ValueError:
        return
    fractions = [label for label, number in zip(labels, numbers, strict=True) if number % 1]
    if fractions and 2 * len(set(labels)) > len(labels):
        raise UserError(
            f"labels in {path} are numbers such as {fractions[0]}: convlens predicts classes, not "
            f"a number; group them into classes, or train a timm network with one output"
        )
