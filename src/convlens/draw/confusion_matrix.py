"""Draw the confusion matrix: which class the network predicts for images of which class.

Legend: ``K`` classes, ``N`` images. Rows are the true class, columns the predicted one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from convlens.draw.canvas import Label, add_title, blank, vstack, write_labels
from convlens.draw.colour import colour_bar, colourise
from convlens.draw.palette import BACKGROUND, GREEN, GREY, INK, MUTED, WHITE, Colour
from convlens.draw.picture import Array, as_array
from convlens.draw.text import BODY, SMALL, line_height, printable, shorten, text_width

_READING = "Right answers lie on the diagonal, mistakes beside it."
_READING_TOGETHER = "A row: what is predicted for images of the class, correct or not."
FRACTIONS = "Blues"  # white to dark blue: one cell among a million is visible on white

_NUMBERED = 20  # maximum number of classes for counts in the cells
_LINED = 60  # maximum number of classes for lines between the cells
_WIDEST = 900  # width in pixels that the cells share, if each gets at least one pixel
_SMALLEST, _LARGEST = 30, 64  # edge of a cell: minimum if it has a number, and maximum
_ROW_NAME, _COLUMN_NAME = 170, 120  # maximum width of a class name, pixels
_BAR = 70  # length of the bar for an accuracy of 1, pixels
_LINE: Colour = (222, 225, 230)


def count_confusions(labels: Array, answers: Array, classes: int) -> np.ndarray:
    """Count how often each class is predicted for each true class.

    Args:
        labels: ``(N,)`` true classes; images of an unknown class (below 0) are left out.
        answers: ``(N,)`` predicted classes.
        classes: K.

    Returns:
        int64 ``(K, K)``, true × predicted.

    Raises:
        ValueError: The numbers of labels and answers differ, or a class is not in 0 to K - 1.

    >>> count_confusions([0, 0, 1, -1], [0, 1, 1, 1], 2).tolist()
    [[1, 1], [0, 1]]
    """
    true, predicted = (as_array(values).astype(np.int64) for values in (labels, answers))
    if true.ndim != 1 or true.shape != predicted.shape:
        raise ValueError(f"labels {true.shape} and answers {predicted.shape} must both be (N,)")
    true, predicted = true[true >= 0], predicted[true >= 0]
    if true.size and (max(true.max(), predicted.max()) >= classes or predicted.min() < 0):
        raise ValueError(f"labels and answers must be in 0 to {classes - 1}")
    flat = np.bincount(true * classes + predicted, minlength=classes * classes)
    return flat.reshape(classes, classes)


def count_together(present: Array, predicted: Array) -> np.ndarray:
    """Count for each class how often each class is predicted for its images.

    Args:
        present: bool ``(N, K)``, the classes of each image, which may be several.
        predicted: bool ``(N, K)``, its predicted classes.

    Returns:
        int64 ``(K, K)``, true × predicted; an image counts once in each of its rows and columns.

    >>> count_together([[True, True], [False, True]], [[True, False], [True, True]]).tolist()
    [[1, 0], [2, 1]]
    """
    true, answers = (as_array(values).astype(np.int64) for values in (present, predicted))
    return true.T @ answers


def check_counts(counts: Array, class_names: Sequence[str]) -> np.ndarray:
    """Check counts and return them as int64 ``(K, K)``.

    Args:
        counts: ``(K, K)``, true × predicted.
        class_names: K names.

    Raises:
        ValueError: The shape does not fit the names, there is no class, or a count is negative.
    """
    values = as_array(counts).astype(np.int64)
    count = len(class_names)
    if values.shape != (count, count) or not count or values.min() < 0:
        raise ValueError(
            f"counts must be (K, K) and at least 0, not {values.shape} for {count} class names"
        )
    return values


def _choose_cell_edge(counts: np.ndarray) -> int:
    """Return the edge of a cell in pixels, including the line after it.

    If counts are written into the cells, the largest count fits its cell. Otherwise the matrix fits
    its maximum width.
    """
    classes = len(counts)
    edge = min(max(_WIDEST // classes, 1), _LARGEST)
    if classes > _NUMBERED:
        return edge
    return max(edge, _SMALLEST, text_width(str(counts.max()), BODY) + 10)


def _draw_matrix(counts: np.ndarray, images: np.ndarray, edge: int) -> np.ndarray:
    """Draw the matrix alone: fractions of each row as colours, counts if there is room for them."""
    classes, total = len(counts), images[:, None]
    fractions = np.where(total > 0, counts / np.maximum(total, 1), np.nan)
    # without counts, the colours of 0 % and 4 % must differ visibly: on a root scale they do
    tones = fractions if classes <= _NUMBERED else np.sqrt(fractions)
    square = colourise(tones, FRACTIONS).repeat(edge, axis=0).repeat(edge, axis=1)
    if classes <= _LINED:
        square[edge - 1 :: edge] = _LINE
        square[:, edge - 1 :: edge] = _LINE
    if classes > _NUMBERED:
        return square
    middle, labels = edge // 2, []
    for (row, column), hit in np.ndenumerate(counts):
        if total[row, 0]:
            # white letters on dark blue, faint zeros
            ink = WHITE if fractions[row, column] > 0.65 else INK if hit else MUTED
            x, y = column * edge + middle, row * edge + middle
            labels.append(Label(x, y, str(hit), ink, bold=row == column, anchor="mm"))
    return write_labels(square, labels)


def _draw_names(
    class_names: Sequence[str], edge: int, most: int, *, least: int = 20, right: bool = False
) -> np.ndarray:
    """Draw a column of class names; if rows are lower than letters, only every n-th name.

    Args:
        class_names: The names.
        edge: Height of a row in pixels.
        most: Maximum width in pixels.
        least: Minimum width in pixels.
        right: Whether names are right-aligned.
    """
    classes, line = len(class_names), line_height(SMALL)
    named = range(0, classes, -(-line // edge))
    needed = max(text_width(printable(class_names[index]), SMALL) for index in named) + 1
    width = max(least, min(most, needed))
    x, anchor = (width, "rm") if right else (0, "lm")
    # room at both ends, because the first and the last name may be higher than their rows
    margin = max(0, (line - edge + 1) // 2)
    labels = []
    for index in named:
        name, y = shorten(class_names[index], width, SMALL), margin + index * edge + edge // 2
        labels.append(Label(x, y, name, INK, SMALL, anchor=anchor))
    return write_labels(blank(classes * edge + 2 * margin, width), labels)


def _draw_accuracies(counts: np.ndarray, total: np.ndarray, edge: int) -> np.ndarray:
    """Draw a bar for the accuracy of each row, with numbers if there is room for them."""
    classes = len(counts)
    accuracies = counts.diagonal() / np.maximum(total, 1)
    has_numbers = edge >= line_height(SMALL)
    words = [
        f"{accuracy:.1%} of {number}" if number else "no images"
        for accuracy, number in zip(accuracies, total.tolist(), strict=True)
    ]
    room = max(text_width(word, SMALL) for word in words) + 6 if has_numbers else 0
    column = blank(classes * edge, _BAR + room)
    bars = column[:, :_BAR]
    bars[:] = _LINE
    bars[np.arange(_BAR) < np.rint(accuracies * _BAR).repeat(edge)[:, None]] = GREEN
    bars[(total == 0).repeat(edge)] = GREY
    if not has_numbers:
        return column
    bars[edge - 1 :: edge] = BACKGROUND
    labels = [
        Label(_BAR + 6, row * edge + edge // 2, word, INK, SMALL) for row, word in enumerate(words)
    ]
    return write_labels(column, labels)


def confusion_matrix(
    counts: Array, class_names: Sequence[str], *, title: str, images: Array | None = None
) -> np.ndarray:
    """Draw true classes as rows, predicted ones as columns, and each class's accuracy on the right.

    The colour of a cell is its fraction of the row, from white (none) to dark blue (all images of
    the class). With up to 20 classes the counts are written into the cells. With more, colours
    follow the square root of the fraction, as the bar below notes, so that rare mistakes are
    visible. Rows without images are grey. If rows are lower than letters, only every n-th class is
    named; from 451 classes on, a cell is one pixel.

    Args:
        counts: ``(K, K)``, true × predicted, see ``count_confusions``.
        class_names: K names; long ones are shortened.
        title: The split, the epoch.
        images: ``(K,)``, images of each class, if images may have several classes; see
            ``count_together``. None if each has one: then it is the sum of the row.

    Returns:
        uint8 ``(H, W, 3)``.

    Raises:
        ValueError: ``counts`` has a wrong shape or a negative count.
    """
    values = check_counts(counts, class_names)
    edge, rows_of = _choose_cell_edge(values), values.sum(axis=1)
    if images is not None:
        rows_of = as_array(images).astype(np.int64)
    square, bars = _draw_matrix(values, rows_of, edge), _draw_accuracies(values, rows_of, edge)
    side = square.shape[0]

    lead = text_width("true ↓", SMALL, bold=True) + 4
    rows = _draw_names(class_names, edge, _ROW_NAME, least=max(20, lead), right=True)
    # drawn as rows, then turned a quarter to the left: names read upwards
    columns = np.rot90(_draw_names(class_names, edge, _COLUMN_NAME))
    margin = (rows.shape[0] - side) // 2
    line, along = line_height(SMALL), text_width("predicted →", SMALL, bold=True)
    left, top = rows.shape[1] + 6, columns.shape[0] + line + 6
    measure = "accuracy" if images is None else "found"
    over = text_width(measure, SMALL, bold=True)
    right = left + max(side + margin, along) + 10  # where the accuracies begin
    sheet = blank(top + side + margin, right + max(bars.shape[1], over))
    sheet[line : line + columns.shape[0], left - margin : left + side + margin] = columns
    sheet[top - margin : top + side + margin, : rows.shape[1]] = rows
    sheet[top : top + side, left : left + side] = square
    sheet[top : top + side, right : right + bars.shape[1]] = bars
    sheet[top - 1, left - 1 : left + side] = _LINE
    sheet[top - 1 : top + side, left - 1] = _LINE
    words = [
        Label(left, line // 2, "predicted →", MUTED, SMALL, True),
        Label(rows.shape[1], top - 6 - line, "true ↓", MUTED, SMALL, True, "rm"),
        Label(right, top - 6 - line // 2, measure, MUTED, SMALL, True),
    ]
    lead = "fraction of the true class" + (" (root scale)" if len(values) > _NUMBERED else "")
    bar = colour_bar(320, "0", "100 %", name=FRACTIONS, lead=lead)
    body = vstack([write_labels(sheet, words), bar], gap=10)

    total, hits = int(values.sum()), int(values.trace())
    facts, reading = f"{total} images, {hits} right ({hits / max(total, 1):.1%}).", _READING
    if images is not None:
        facts, reading = f"{hits} of {rows_of.sum()} classes of images found.", _READING_TOGETHER
    if not rows_of.any():
        facts = "No images."
    empty = int((rows_of == 0).sum())
    alert = f"{empty} of {len(values)} classes without images (grey)" if empty else None
    return add_title(body, title, f"{facts} {reading}", alert=alert)
