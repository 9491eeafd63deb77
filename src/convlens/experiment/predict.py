"""Each picture's probabilities, for any number of pictures in little memory."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from convlens.core.errors import UserError
from convlens.core.progress import progress_bar
from convlens.data.pixels.decode import PictureError, decode_picture
from convlens.data.pixels.load import cores, pillow_settings
from convlens.experiment.explainer import Explainer
from convlens.experiment.table import write_table
from convlens.rundir.paths import OUTPUTS, make_fresh_folder

TABLE = "predictions.csv"


@dataclass
class Predicted:
    """What :func:`predict_files` did.

    Attributes:
        counts: predicted class -> pictures.
        refused: one line for each file that gave no picture.
        seconds: all of it.
    """

    counts: Counter = field(default_factory=Counter)
    refused: list[str] = field(default_factory=list)
    seconds: float = 0.0


def predictions_folder(asked: str | None) -> Path:
    """Where the table goes: ``run_dir=``, or a new folder.

    Raises:
        UserError: a folder that holds a table already, or a file.
    """
    if asked is None:
        return make_fresh_folder(OUTPUTS / "predict")
    home = Path(asked).expanduser()
    if (home / TABLE).exists():
        raise UserError(f"run_dir={home} holds {TABLE} already: choose another")
    if home.exists() and not home.is_dir():
        raise UserError(f"run_dir={home} is a file: choose another")
    home.mkdir(parents=True, exist_ok=True)
    return home


def predict_files(
    explainer: Explainer, files: Sequence[Path], table: Path, *, batch: int = 64
) -> Predicted:
    """Write the table for ``files``; broken ones get a row that says why.

    The next batch is decoded, in threads, while the network answers to this one; no more than two
    batches of pictures are held.

    Raises:
        OSError: the table cannot be written; what was written stays as ``predictions.csv.part``.
    """
    done, began = Predicted(), time.perf_counter()

    def rows() -> Iterator[tuple[str, np.ndarray | None, str]]:
        for part, pictures in _decoded(explainer, files, batch):
            good = [picture for picture in pictures if isinstance(picture, torch.Tensor)]
            shares = iter(explainer.probabilities(torch.stack(good)).numpy() if good else [])
            for file, picture in zip(part, pictures, strict=True):
                if isinstance(picture, PictureError):
                    done.refused.append(str(picture))
                    yield str(file), None, picture.reason
                else:
                    found = next(shares)
                    done.counts[explainer.class_names[int(found.argmax())]] += 1
                    yield str(file), found, ""

    write_table(table, explainer.class_names, _with_bar(rows(), len(files)))
    done.seconds = time.perf_counter() - began
    return done


def _decoded(explainer: Explainer, files: Sequence[Path], batch: int):
    """Parts of ``files`` with their pictures, or what was wrong with them, one part ahead."""

    def read(file: Path) -> torch.Tensor | PictureError:
        try:
            pixels = decode_picture(file, explainer.recipe)
            return torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 255
        except PictureError as error:
            return error

    parts = [files[start : start + batch] for start in range(0, len(files), batch)]
    threads = ThreadPoolExecutor(cores(), thread_name_prefix="decode")
    with pillow_settings(), threads as pool:  # around all threads: they belong to the process
        coming = [pool.submit(read, file) for file in parts[0]] if parts else []
        for place, part in enumerate(parts):
            now = coming
            after = parts[place + 1] if place + 1 < len(parts) else []
            coming = [pool.submit(read, file) for file in after]
            yield part, [future.result() for future in now]


def _with_bar(rows: Iterator, total: int) -> Iterator:
    with progress_bar("predicting", total) as advance:
        for row in rows:
            yield row
            advance(1)
