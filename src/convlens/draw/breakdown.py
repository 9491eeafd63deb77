"""Draw the most frequent mistakes (true class → predicted class) as bars."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from convlens.draw.canvas import Label, add_title, blank, text_band, write_labels
from convlens.draw.confusion_matrix import check_counts
from convlens.draw.palette import GREEN, MUTED, RED
from convlens.draw.picture import Array, as_array
from convlens.draw.text import BODY, shorten, text_width

_READING = "True class → predicted class."
_NAME = 170  # maximum width of a class name, pixels
_BAR = 240  # length of the longest bar, pixels
_ROW = 24  # height of a row, pixels
_ARROW = " → "


def find_common_mistakes(counts: np.ndarray, most: int) -> list[tuple[int, int, int]]:
    """Return the most frequent mistakes ``(true, predicted, count)``, the most frequent first.

    Ties are ordered by true class, then by predicted class. Pairs that never occur are left out.

    Args:
        counts: ``(K, K)``, true × predicted.
        most: Maximum number of pairs.

    Returns:
        At most ``most`` pairs with their counts.

    >>> find_common_mistakes(np.array([[5, 1, 0], [3, 2, 1], [0, 0, 9]]), most=2)
    [(1, 0, 3), (0, 1, 1)]
    """
    wrong = counts * (1 - np.eye(len(counts), dtype=counts.dtype))
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    pairs = [np.unravel_index(place, wrong.shape) for place in order]
    return [(int(t), int(p), int(wrong[t, p])) for t, p in pairs if wrong[t, p]]


def _draw_bars(rows: list[tuple[str, int, str]]) -> np.ndarray:
    """Draw a row for each (label, count, text): the label, a bar, the text."""
    heads, counts, words = zip(*rows, strict=True)
    left = max(map(text_width, heads)) + 10
    right = max(map(text_width, words)) + 8
    picture, labels = blank(_ROW * len(rows), left + _BAR + right), []
    for row, (head, count, text) in enumerate(rows):
        top, middle = row * _ROW + 3, row * _ROW + _ROW // 2
        end = left + max(1, round(_BAR * count / max(counts)))
        picture[top : top + _ROW - 6, left:end] = RED
        labels.append(Label(left - 10, middle, head, anchor="rm"))
        labels.append(Label(end + 8, middle, text, MUTED))
    return write_labels(picture, labels)


def _format_fraction(fraction: float) -> str:
    """Return whole per cent, but never 0% for something that occurs.

    >>> _format_fraction(0.54), _format_fraction(0.002)
    ('54%', '<1%')
    """
    return "<1%" if 0 < fraction < 0.01 else f"{fraction:.0%}"


def breakdown(
    counts: Array, class_names: Sequence[str], *, title: str, most: int = 10
) -> np.ndarray:
    """Draw the most frequent mistakes, one bar for each pair (true class → predicted class).

    Beside each bar is the number of images and the fraction of the true class's images. If there
    are no mistakes, or no images, a line says so.

    Args:
        counts: ``(K, K)``, true × predicted, see
            ``convlens.draw.confusion_matrix.count_confusions``.
        class_names: K names; long ones are shortened.
        title: The split, the epoch.
        most: Maximum number of pairs.

    Returns:
        uint8 ``(H, W, 3)``.

    Raises:
        ValueError: ``counts`` has a wrong shape or a negative count, or ``most`` is below 1.
    """
    values = check_counts(counts, class_names)
    if most < 1:
        raise ValueError(f"most={most}: must be at least 1")
    total, wrong = int(values.sum()), int(values.sum() - values.trace())
    if not wrong:
        word, ink = ("no mistakes", GREEN) if total else ("no images", MUTED)
        return add_title(text_band(_BAR, word, size=BODY, bold=True, ink=ink), title)
    rows = []
    for true, predicted, count in find_common_mistakes(values, most):
        name, answer = (shorten(class_names[index], _NAME) for index in (true, predicted))
        fraction = _format_fraction(count / values[true].sum())
        rows.append((f"{name}{_ARROW}{answer}", count, f"{count} ({fraction} of {name})"))
    facts = f"{wrong} mistakes in {total} images ({wrong / total:.1%})"
    pairs = int((values > 0).sum() - (values.diagonal() > 0).sum())
    if pairs > len(rows):
        drawn = sum(count for _, count, _ in rows)
        facts += f"; the {len(rows)} most frequent of {pairs} pairs: {drawn} mistakes"
    return add_title(_draw_bars(rows), title, f"{_READING} {facts}")


def error_bars(
    present: Array, predicted: Array, class_names: Sequence[str], *, title: str, most: int = 10
) -> np.ndarray:
    """Draw how often each class is missed and how often it is a false alarm, as bars.

    The most frequent errors come first. Beside each bar is the number of images, and the fraction
    of the images with the class (misses) or without it (false alarms).

    Args:
        present: bool ``(N, K)``, the classes of each image, which may be several.
        predicted: bool ``(N, K)``, its predicted classes.
        class_names: K names; long ones are shortened.
        title: The split, the epoch.
        most: Maximum number of bars.

    Returns:
        uint8 ``(H, W, 3)``.
    """
    true, answers = (as_array(values).astype(bool) for values in (present, predicted))
    misses, alarms = (true & ~answers).sum(axis=0), (answers & ~true).sum(axis=0)
    with_class = true.sum(axis=0)
    errors = [
        (int(count), f"{what}: {shorten(name, _NAME)}", int(images))
        for what, counts, totals in (
            ("missed", misses, with_class), ("false alarm", alarms, len(true) - with_class),
        )
        for name, count, images in zip(class_names, counts, totals, strict=True)
        if count
    ]  # fmt: skip
    if not errors:
        return add_title(text_band(_BAR, "no mistakes", size=BODY, bold=True, ink=GREEN), title)
    rows = [
        (words, count, f"{count} ({_format_fraction(count / images)} of {images})")
        for count, words, images in sorted(errors, key=lambda error: -error[0])[:most]
    ]
    facts = f"{misses.sum()} misses and {alarms.sum()} false alarms in {len(true)} images"
    if len(errors) > len(rows):
        facts += f"; the {len(rows)} most frequent of {len(errors)} kinds are drawn"
    return add_title(_draw_bars(rows), title, facts)
