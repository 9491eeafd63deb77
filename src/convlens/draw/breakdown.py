"""What the mistakes consist of: the commonest pairs (true class → answer) as bars."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from convlens.draw.canvas import Label, add_title, blank, text_band, write_labels
from convlens.draw.confusion_matrix import check_counts
from convlens.draw.palette import GREEN, MUTED, RED
from convlens.draw.picture import Array
from convlens.draw.text import BODY, shorten, text_width

_NAME = 170  # pixels one class name may take
_BAR = 240  # pixels of the longest bar
_ROW = 24  # pixels from one pair to the next
_ARROW = " → "


def find_common_mistakes(counts: np.ndarray, most: int) -> list[tuple[int, int, int]]:
    """The commonest mistakes ``(true, predicted, count)``, the most frequent first.

    ``counts`` is ``(K, K)``, true × predicted. Of equals the first true class comes first, then
    the first predicted one; pairs that never occur are left out.

    >>> find_common_mistakes(np.array([[5, 1, 0], [3, 2, 1], [0, 0, 9]]), most=2)
    [(1, 0, 3), (0, 1, 1)]
    """
    wrong = counts * (1 - np.eye(len(counts), dtype=counts.dtype))
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    pairs = [np.unravel_index(place, wrong.shape) for place in order]
    return [(int(t), int(p), int(wrong[t, p])) for t, p in pairs if wrong[t, p]]


def _bars(rows: list[tuple[str, int, str]]) -> np.ndarray:
    """A row for each (pair's names, count, words): the names, a bar, the words."""
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


def _share(share: float) -> str:
    """Whole per cent, and never 0 % for what is there.

    >>> _share(0.54), _share(0.002)
    ('54%', '<1%')
    """
    return "<1%" if 0 < share < 0.01 else f"{share:.0%}"


def breakdown(
    counts: Array, class_names: Sequence[str], *, title: str, most: int = 10
) -> np.ndarray:
    """The commonest mistakes, one bar for each pair (true class → predicted class).

    Beside a bar stands how many images it means, and which share of the true class's images.
    Without any mistake, or any image, a line says so.

    Args:
        counts: ``(K, K)``, true × predicted, see
            :func:`~convlens.draw.confusion_matrix.confusion_counts`.
        class_names: K names; long ones are shortened.
        title: the split, the epoch.
        most: pairs at most.

    Returns:
        uint8 ``(H, W, 3)``.

    Raises:
        ValueError: another shape of ``counts``, a count below zero, or no pair wanted.
    """
    values = check_counts(counts, class_names)
    if most < 1:
        raise ValueError(f"most={most}: at least one pair is drawn")
    total, wrong = int(values.sum()), int(values.sum() - values.trace())
    if not wrong:
        word, ink = ("no mistakes", GREEN) if total else ("no images", MUTED)
        return add_title(text_band(_BAR, word, size=BODY, bold=True, ink=ink), title)
    rows = []
    for true, said, count in find_common_mistakes(values, most):
        name, answer = (shorten(class_names[place], _NAME) for place in (true, said))
        share = _share(count / values[true].sum())
        rows.append((f"{name}{_ARROW}{answer}", count, f"{count} ({share} of {name})"))
    facts = f"{wrong} mistakes among {total} images ({wrong / total:.1%})"
    kinds = int((values > 0).sum() - (values.diagonal() > 0).sum())
    if kinds > len(rows):
        shown = sum(count for _, count, _ in rows)
        facts += f"; the {len(rows)} commonest of {kinds} pairs, {shown} mistakes"
    return add_title(_bars(rows), title, facts)
