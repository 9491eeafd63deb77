"""Each picture's probabilities, for any number of pictures in little memory: ``predictions.csv``.

Its columns are ``file, predicted, confidence``, a column ``probability/<class>`` in [0, 1] for each
class, and ``error``, which says why a file gave no picture (its other columns are empty), or
``true``, its class where that is known. The columns of classes have a beginning that no other has:
a class may be called ``file`` or ``true``.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from convlens.core.errors import UserError
from convlens.core.progress import progress_bar
from convlens.data.index.tables import format_csv_line
from convlens.data.pixels.decode import ImageError
from convlens.data.pixels.load import count_cores, pillow_settings
from convlens.experiment.explainer import Explainer
from convlens.rundir.paths import OUTPUTS, make_folder, make_fresh_folder

TABLE = "predictions.csv"


@dataclass
class PredictionSummary:
    """What :func:`predict_files` did.

    Attributes:
        counts: predicted class -> pictures.
        refused: one line for each file that gave no picture.
        seconds: all of it.
    """

    counts: Counter = field(default_factory=Counter)
    refused: list[str] = field(default_factory=list)
    seconds: float = 0.0


def choose_folder(asked: str | None) -> Path:
    """Where the table goes: ``run_dir=``, or a new folder.

    Raises:
        UserError: a folder that holds a table already, or that cannot be made.
    """
    if asked is None:
        return make_fresh_folder(OUTPUTS / "predict")
    home = Path(asked).expanduser()
    if (home / TABLE).exists():
        raise UserError(f"run_dir={home} holds {TABLE} already: choose another")
    make_folder(home)
    return home


def predict_files(
    explainer: Explainer, files: Sequence[Path], table: Path, *, batch: int = 64
) -> PredictionSummary:
    """Write the table for ``files``; broken ones get a row that says why.

    The next batch is decoded, in threads, while the network answers to this one; no more than two
    batches of pictures are held.

    Raises:
        OSError: the table cannot be written; what was written stays as ``predictions.csv.part``.
    """
    done, began = PredictionSummary(), time.perf_counter()

    def rows() -> Iterator[tuple[str, np.ndarray | None, str]]:
        for file, found in _predict_each(explainer, files, batch):
            advance(1)
            if isinstance(found, ImageError):
                done.refused.append(str(found))
                yield str(file), None, found.reason
            else:
                done.counts[explainer.class_names[int(found.argmax())]] += 1
                yield str(file), found, ""

    with progress_bar("predicting", len(files)) as advance:
        write_table(table, explainer.class_names, rows())
    done.seconds = time.perf_counter() - began
    return done


def _predict_each(
    explainer: Explainer, files: Sequence[Path], batch: int
) -> Iterator[tuple[Path, np.ndarray | ImageError]]:
    """Each file's probabilities, or what was wrong with it; pictures are decoded a batch ahead."""

    def read(file: Path) -> torch.Tensor | ImageError:
        try:
            return explainer.decode(file)
        except ImageError as error:
            return error

    threads = ThreadPoolExecutor(count_cores(), thread_name_prefix="decode")
    with pillow_settings(), threads as pool:  # around all threads: they belong to the process
        coming = [pool.submit(read, file) for file in files[:batch]]
        for start in range(0, len(files), batch):
            now, end = coming, start + batch
            coming = [pool.submit(read, file) for file in files[end : end + batch]]
            found = [future.result() for future in now]
            good = [each for each in found if isinstance(each, torch.Tensor)]
            shares = iter(explainer.probabilities(torch.stack(good)).numpy() if good else [])
            for file, each in zip(files[start:end], found, strict=True):
                yield file, next(shares) if isinstance(each, torch.Tensor) else each


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
        out.write(format_csv_line(["file", "predicted", "confidence", *of_classes, last]))
        for name, shares, note in rows:
            cells = [""] * (2 + len(class_names))
            if shares is not None:
                best = int(shares.argmax())
                values = [f"{share:.6g}" for share in shares.tolist()]
                cells = [class_names[best], values[best], *values]
            out.write(format_csv_line([name, *cells, note]))
    os.replace(beside, file)
