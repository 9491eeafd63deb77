"""Which classes are taken for which: the confusion matrix.

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

SHARES = "Blues"  # white to dark blue: a single cell among a million is seen on white

_NUMBERED = 20  # classes up to which the counts are written into the cells
_LINED = 60  # classes up to which cells stand apart by a line
_WIDEST = 900  # pixels all cells of a row should stay below; one pixel each is the least
_SMALLEST, _LARGEST = 30, 64  # edge of a cell with a number at least, and of any cell at most
_ROW_NAME, _COLUMN_NAME = 170, 120  # pixels a class name may take
_BAR = 70  # pixels of an accuracy of 1
_LINE: Colour = (222, 225, 230)


def count_confusions(labels: Array, answers: Array, classes: int) -> np.ndarray:
    """How often each true class got each answer, int64 ``(K, K)``, true × predicted.

    Args:
        labels: ``(N,)`` true classes; images of an unknown class (below 0) are left out.
        answers: ``(N,)`` predicted classes.
        classes: K.

    Raises:
        ValueError: another number of labels than of answers, or a class that is not below K.

    >>> count_confusions([0, 0, 1, -1], [0, 1, 1, 1], 2).tolist()
    [[1, 1], [0, 1]]
    """
    true, said = (as_array(values).astype(np.int64) for values in (labels, answers))
    if true.ndim != 1 or true.shape != said.shape:
        raise ValueError(f"labels {true.shape} and answers {said.shape} are not (N,) both")
    true, said = true[true >= 0], said[true >= 0]
    if true.size and (max(true.max(), said.max()) >= classes or said.min() < 0):
        raise ValueError(f"a label or an answer is not in 0 to {classes - 1}")
    flat = np.bincount(true * classes + said, minlength=classes * classes)
    return flat.reshape(classes, classes)


def check_counts(counts: Array, class_names: Sequence[str]) -> np.ndarray:
    """``counts`` as int64 ``(K, K)`` with a name for each class.

    Raises:
        ValueError: another shape, no class, or a count below zero.
    """
    values = as_array(counts).astype(np.int64)
    known = len(class_names)
    if values.shape != (known, known) or not known or values.min() < 0:
        raise ValueError(
            f"counts are (K, K) and at least 0, not {values.shape} for {known} class names"
        )
    return values


def _cell_edge(counts: np.ndarray) -> int:
    """Pixels of a cell's edge, with the line after it: a number fits, else the square does."""
    classes = len(counts)
    edge = min(max(_WIDEST // classes, 1), _LARGEST)
    if classes > _NUMBERED:
        return edge
    return max(edge, _SMALLEST, text_width(str(counts.max()), BODY) + 10)


def _squares(counts: np.ndarray, edge: int) -> np.ndarray:
    """The matrix itself: every row as shares of its images, numbers in it where they fit."""
    classes, total = len(counts), counts.sum(axis=1, keepdims=True)
    shares = np.where(total > 0, counts / np.maximum(total, 1), np.nan)
    # without numbers to read, colours must tell 4 % from none: on the root scale they do
    tones = shares if classes <= _NUMBERED else np.sqrt(shares)
    square = colourise(tones, SHARES).repeat(edge, axis=0).repeat(edge, axis=1)
    if classes <= _LINED:
        square[edge - 1 :: edge] = _LINE
        square[:, edge - 1 :: edge] = _LINE
    if classes > _NUMBERED:
        return square
    middle, labels = edge // 2, []
    for (row, column), hit in np.ndenumerate(counts):
        if total[row, 0]:
            # white letters on dark blue, faint zeros
            ink = WHITE if shares[row, column] > 0.65 else INK if hit else MUTED
            x, y = column * edge + middle, row * edge + middle
            labels.append(Label(x, y, str(hit), ink, bold=row == column, anchor="mm"))
    return write_labels(square, labels)


def _names(
    class_names: Sequence[str], edge: int, most: int, *, least: int = 20, right: bool = False
) -> np.ndarray:
    """A column of names beside their rows, ``least`` to ``most`` pixels wide.

    Where rows are lower than letters, every n-th class is named.
    """
    classes, line = len(class_names), line_height(SMALL)
    shown = range(0, classes, -(-line // edge))
    wish = max(text_width(printable(class_names[index]), SMALL) for index in shown) + 1
    width = max(least, min(most, wish))
    x, anchor = (width, "rm") if right else (0, "lm")
    # half a line more at both ends: the first and the last name may be higher than their rows
    margin = max(0, (line - edge + 1) // 2)
    labels = []
    for index in shown:
        name, y = shorten(class_names[index], width, SMALL), margin + index * edge + edge // 2
        labels.append(Label(x, y, name, INK, SMALL, anchor=anchor))
    return write_labels(blank(classes * edge + 2 * margin, width), labels)


def _accuracies(counts: np.ndarray, edge: int) -> np.ndarray:
    """A bar for each row as long as the share of it that is right, with numbers where they fit."""
    classes, total = len(counts), counts.sum(axis=1)
    right = counts.diagonal() / np.maximum(total, 1)
    worded = edge >= line_height(SMALL)
    words = [
        f"{share:.1%} of {number}" if number else "no images"
        for share, number in zip(right, total.tolist(), strict=True)
    ]
    room = max(text_width(word, SMALL) for word in words) + 6 if worded else 0
    column = blank(classes * edge, _BAR + room)
    bars = column[:, :_BAR]
    bars[:] = _LINE
    bars[np.arange(_BAR) < np.rint(right * _BAR).repeat(edge)[:, None]] = GREEN
    bars[(total == 0).repeat(edge)] = GREY
    if not worded:
        return column
    bars[edge - 1 :: edge] = BACKGROUND
    labels = [
        Label(_BAR + 6, row * edge + edge // 2, word, INK, SMALL) for row, word in enumerate(words)
    ]
    return write_labels(column, labels)


def confusion_matrix(counts: Array, class_names: Sequence[str], *, title: str) -> np.ndarray:
    """The true class down, the predicted one along, and each class's accuracy at the right.

    A cell's colour is its share of the row, from white (none) to dark blue (all of the class's
    images). Up to 20 classes the counts are written in the cells; beyond, colours follow the
    share's square root, as the bar below says, so that rare mistakes are seen. Rows without
    images are grey. Where rows are lower than letters every n-th class is named; from 451
    classes on a cell is one pixel.

    Args:
        counts: ``(K, K)``, true × predicted, see :func:`count_confusions`.
        class_names: K names; long ones are shortened.
        title: the split, the epoch.

    Returns:
        uint8 ``(H, W, 3)``.

    Raises:
        ValueError: another shape of ``counts``, or a count below zero.
    """
    values = check_counts(counts, class_names)
    edge = _cell_edge(values)
    square, bars = _squares(values, edge), _accuracies(values, edge)
    side = square.shape[0]

    lead = text_width("true ↓", SMALL, bold=True) + 4
    rows = _names(class_names, edge, _ROW_NAME, least=max(20, lead), right=True)
    # written along the rows, then turned a quarter to the left: names are read upwards
    columns = np.rot90(_names(class_names, edge, _COLUMN_NAME))
    margin = (rows.shape[0] - side) // 2
    line, along = line_height(SMALL), text_width("predicted →", SMALL, bold=True)
    left, top = rows.shape[1] + 6, columns.shape[0] + line + 6
    over = text_width("accuracy", SMALL, bold=True)
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
        Label(right, top - 6 - line // 2, "accuracy", MUTED, SMALL, True),
    ]
    lead = "share of the true class" + (" (root scale)" if len(values) > _NUMBERED else "")
    bar = colour_bar(320, "0", "100 %", name=SHARES, lead=lead)
    body = vstack([write_labels(sheet, words), bar], gap=10)

    total, hits = int(values.sum()), int(values.trace())
    facts = f"{total} images, {hits} right ({hits / total:.1%})" if total else "no images"
    empty = int((values.sum(axis=1) == 0).sum())
    alert = f"{empty} of {len(values)} classes without images (grey)" if empty else None
    return add_title(body, title, facts, alert=alert)
