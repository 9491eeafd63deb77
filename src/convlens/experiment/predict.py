"""Write ``predictions.csv``, the probabilities of any number of images, in little memory.

Its columns are ``file, predicted, confidence``, a column ``probability/<class>`` in [0, 1] for each
class, and a last one: ``error``, the reason why a file could not be decoded (its other cells are
empty), or ``true``, the true class if it is known. The prefix ``probability/`` keeps a class called
``file`` or ``true`` apart from the other columns.

If images may have several classes, ``predicted`` and ``true`` separate them by ``|`` (none is an
empty cell), and ``confidence`` is the highest probability. ``predicted`` is also empty where
``abstain`` leaves an image without a prediction.
"""

from __future__ import annotations

import hashlib
import json
import math
import subprocess
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import numpy as np
import torch

from convlens.core.errors import UserError
from convlens.core.files import open_atomic
from convlens.core.processes import Share
from convlens.core.progress import Work, progress_bar
from convlens.core.system import count_cores
from convlens.data.index.several import SEPARATOR
from convlens.data.index.tables import format_csv_line
from convlens.data.pixels.decode import ImageError
from convlens.data.pixels.load import pillow_settings
from convlens.experiment.explainer import Explainer
from convlens.experiment.parts import Parts
from convlens.rundir.paths import OUTPUTS, make_folder, make_fresh_folder
from convlens.training.calibration import count_needed

TABLE = "predictions.csv"
ALONE = Share()
BATCHES = 16  # in a part
PARTS_FORMAT = 1


@dataclass
class PredictionSummary:
    """Result of ``predict_files``.

    Attributes:
        counts: number of images by predicted class; an image with several counts for each.
        abstained: number of images whose confidence is too low for a prediction.
        refused: one line for each file that could not be decoded.
        seconds: total time.
    """

    counts: Counter = field(default_factory=Counter)
    abstained: int = 0
    refused: list[str] = field(default_factory=list)
    seconds: float = 0.0


def choose_folder(run_dir: str | None) -> Path:
    """Return the folder for the table: ``run_dir`` if given, else a new one.

    Raises:
        UserError: the folder already contains a table, or cannot be made.
    """
    if run_dir is None:
        return make_fresh_folder(OUTPUTS / "predict")
    home = Path(run_dir).expanduser()
    if (home / TABLE).exists():
        raise UserError(f"run_dir={home} already contains {TABLE}: choose another")
    make_folder(home)
    return home


def choose_threshold(explainer: Explainer, precision: float) -> float:
    """Return the calibrated confidence from which predictions have a precision on validation.

    Args:
        explainer: the network.
        precision: wanted fraction of correct predictions.

    Raises:
        UserError: it is not between 0 and 1, or validation does not support it.
    """
    word, known = f"abstain={precision:g}", explainer.calibration
    if not 0 < precision < 1:
        raise UserError(f"{word}: expected a fraction of correct predictions, such as 0.99")
    if known is None:
        raise UserError(
            f"{word}: needs a checkpoint with calibration (one class per image), "
            f"without temperature=false"
        )
    if (least := known.find_threshold(precision)) is not None:
        return least
    count, needed = len(known.correct), count_needed(precision)
    if count < needed:
        raise UserError(
            f"{word}: needs 3/(1-precision) = {needed} validation images, the run has {count}; "
            f"ask for less"
        )
    raise UserError(f"{word}: no {needed} of the {count} validation images reach it; ask for less")


def predict_files(
    explainer: Explainer, files: Sequence[Path], table: Path, *, batch: int = 64,
    least: float | None = None, share: Share = ALONE, network: str = "",
    helpers: Sequence[subprocess.Popen] = (),
) -> PredictionSummary | None:  # fmt: skip
    """Write the table for ``files``; a broken file gets a row with the error.

    While the network predicts a batch, threads decode the next; at most two batches are in memory.
    If the command was stopped before, what it has computed is kept.

    Args:
        explainer: the network.
        files: image files.
        table: the file to write.
        batch: images per pass.
        least: lowest confidence with which a class is predicted; None: any.
        share: of this process, if several work on the same table.
        network: digits that are equal for equal networks.
        helpers: the other processes, if this one started them.

    Returns:
        The result; None in all processes but the first.

    Raises:
        UserError: beside the table are parts of another one, or another process failed.
        OSError: the table cannot be written; its parts remain beside it.
    """
    began, size = time.perf_counter(), batch * BATCHES
    parts = Parts(table.with_name(f"{table.name}.parts"), math.ceil(len(files) / size), share)
    names, classes = [str(file) for file in files], list(explainer.class_names)
    plan = [PARTS_FORMAT, network, explainer.temperature, batch, least, classes, names]
    parts.begin(hashlib.blake2b(json.dumps(plan).encode(), digest_size=16).hexdigest())

    def write(number: int, file: Path) -> None:
        own, chosen = PredictionSummary(), files[number * size : (number + 1) * size]
        rows = _list_rows(explainer, chosen, batch, least, own, work)
        # surrogateescape: file names need not be UTF-8, and must be written back unchanged
        with file.open("w", newline="", encoding="utf-8", errors="surrogateescape") as out:
            out.writelines(format_row(classes, *row, explainer.thresholds, least) for row in rows)
            out.write(json.dumps([own.counts, own.abstained, own.refused]) + "\n")

    with progress_bar("predicting", math.ceil(len(files) / share.total)) as work:
        parts.compute(write)
    if share.number:
        if table.exists():  # it came late: the first process had all parts, of an earlier command
            parts.remove()
        return None
    summary = PredictionSummary()
    with open_atomic(table, errors="surrogateescape", newline="") as out:
        out.write(format_head(classes))
        for file in parts.wait(helpers):
            _append_part(file, out, summary)
    parts.remove()
    summary.seconds = time.perf_counter() - began
    return summary


def _append_part(file: Path, out: IO[str], summary: PredictionSummary) -> None:
    """Append the rows of a part to the table, and its last line to the summary."""
    text = file.read_text(encoding="utf-8", errors="surrogateescape")
    rows, _, last = text[:-1].rpartition("\n")
    out.write(f"{rows}\n")
    counts, abstained, refused = json.loads(last)
    summary.counts.update(counts)
    summary.abstained += abstained
    summary.refused += refused


def _list_rows(
    explainer: Explainer, files: Sequence[Path], batch: int, least: float | None,
    summary: PredictionSummary, work: Work,
) -> Iterator[tuple[str, np.ndarray | None, str]]:  # fmt: skip
    """Yield file, probabilities and error of each image, and count them in the summary."""
    for file, result in _predict_each(explainer, files, batch):
        work.advance()
        if isinstance(result, ImageError):
            summary.refused.append(str(result))
            yield str(file), None, result.reason
        elif least is not None and result.max() < least:
            summary.abstained += 1
            yield str(file), result, ""
        else:
            predicted = explainer.list_predicted(torch.from_numpy(result))
            for number in predicted:
                summary.counts[explainer.class_names[number]] += 1
            if not predicted:
                summary.counts["none of the classes"] += 1
            yield str(file), result, ""


def _predict_each(
    explainer: Explainer, files: Sequence[Path], batch: int
) -> Iterator[tuple[Path, np.ndarray | ImageError]]:
    """Yield each file with its probabilities or its error; images are decoded a batch ahead."""

    def read(file: Path) -> torch.Tensor | ImageError:
        try:
            return explainer.decode(file)
        except ImageError as error:
            return error

    threads = ThreadPoolExecutor(count_cores(), thread_name_prefix="decode")
    with pillow_settings(), threads as pool:  # around all threads: settings are per process
        pending = [pool.submit(read, file) for file in files[:batch]]
        for start in range(0, len(files), batch):
            current, end = pending, start + batch
            pending = [pool.submit(read, file) for file in files[end : end + batch]]
            results = [future.result() for future in current]
            images = [each for each in results if isinstance(each, torch.Tensor)]
            predictions = explainer.probabilities(torch.stack(images)).numpy() if images else []
            rows = iter(predictions)
            for file, each in zip(files[start:end], results, strict=True):
                yield file, next(rows) if isinstance(each, torch.Tensor) else each


def write_table(
    file: Path, class_names: Sequence[str], rows: Iterable[tuple[str, np.ndarray | None, str]],
    *, last: str = "error", thresholds: torch.Tensor | None = None,
) -> None:  # fmt: skip
    """Write ``predictions.csv`` completely, or not at all.

    Args:
        file: the file to write.
        class_names: K names.
        rows: (file, probabilities ``(K,)`` or None, content of the last column).
        last: name of the last column: ``error``, or ``true`` if the classes are known.
        thresholds: (K,), the probability from which each class counts as predicted, if images may
            have several; None if each has one.
    """
    with open_atomic(file, errors="surrogateescape", newline="") as out:
        out.write(format_head(class_names, last))
        out.writelines(format_row(class_names, *row, thresholds) for row in rows)


def format_head(class_names: Sequence[str], last: str = "error") -> str:
    """Return the line of headings."""
    columns = [f"probability/{name}" for name in class_names]
    return format_csv_line(["file", "predicted", "confidence", *columns, last])


def format_row(
    class_names: Sequence[str], name: str, probabilities: np.ndarray | None, note: str,
    thresholds: torch.Tensor | None, least: float | None = None,
) -> str:  # fmt: skip
    """Return the line of an image; see ``write_table``.

    Args:
        class_names: K names.
        name: of the file.
        probabilities: (K,), or None.
        note: content of the last column.
        thresholds: (K,), or None.
        least: lowest confidence with which a class is predicted; None: any.
    """
    if probabilities is None:
        return format_csv_line([name, *[""] * (2 + len(class_names)), note])
    best = int(probabilities.argmax())
    values = [f"{each:.6g}" for each in probabilities.tolist()]
    predicted = class_names[best] if least is None or probabilities[best] >= least else ""
    if thresholds is not None:
        above = np.flatnonzero(probabilities >= thresholds.numpy())
        predicted = SEPARATOR.join(class_names[number] for number in above)
    return format_csv_line([name, predicted, values[best], *values, note])
