"""``predictions.csv``: what a network answered, one row an image, for any number of images.

The columns are ``file, predicted, confidence``, a column ``probability/<class>`` in [0, 1] for each
class, and ``error``, which says why a file gave no picture (its other columns are empty), or
``true``, its class where that is known. The columns of classes have a beginning that no other has:
a class may be called ``file`` or ``true``.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from convlens.data.index.tables import csv_line


def write_table(
    file: Path, class_names: Sequence[str], rows: Iterable[tuple[str, np.ndarray | None, str]],
    *, last: str = "error",
) -> None:  # fmt: skip
    """Write ``predictions.csv``: whole under its name, or as ``.part`` as far as it came.

    Args:
        rows: (file, probabilities ``(K,)`` or None, what stands in the last column).
        last: the last column's name: ``error``, or ``true`` where the classes are known.
    """
    beside = file.with_name(f"{file.name}.part")
    # surrogateescape: file names need not be UTF-8, and must come back as they were
    with beside.open("w", newline="", encoding="utf-8", errors="surrogateescape") as out:
        of_classes = [f"probability/{name}" for name in class_names]
        out.write(csv_line(["file", "predicted", "confidence", *of_classes, last]))
        for name, shares, told in rows:
            if shares is None:
                out.write(csv_line([name, "", "", *[""] * len(class_names), told]))
                continue
            best = int(shares.argmax())
            values = [f"{share:.6g}" for share in shares.tolist()]
            out.write(csv_line([name, class_names[best], values[best], *values, told]))
    os.replace(beside, file)
