"""The network's predictions in the latest validation or test pass, image by image.

They are collected while the pass runs, at the cost of a copy of the logits: no image is run twice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytorch_lightning as L
import torch
from torch import Tensor

from convlens.core.errors import UserError
from convlens.explain.grad_cam import probabilities
from convlens.explain.outputs import output_rows
from convlens.training.calibrator import TEMPERATURE

# images kept of each kind (worst mistakes, random sample) if they cannot be read again
KEPT_IMAGES = 32


@dataclass(frozen=True)
class Predictions:
    """One pass over N images, in the order of their rows.

    Attributes:
        rows: (N,) int64, the position of each image in the split.
        labels: (N,) int64, the true class; -1 if unknown.
        predicted: (N,) int64, the predicted class.
        confidences: (N,) float32 in [0, 1], the probability of the predicted class.
        true_confidences: (N,) float32 in [0, 1], the probability of the true class.
        images: for data that cannot be read again: images by row, (C, H, W) as the network
            received them, some of the most confident mistakes and a random sample.
        sample: the rows of that random sample.
        probabilities: (N, K) float32 in [0, 1], the probability of every class; None unless
            requested.
        present: (N, K) bool, the classes of each image, if images may have several; None if each
            has one. ``labels`` are then unknown, and ``predicted`` is the most probable class.
    """

    rows: np.ndarray
    labels: np.ndarray
    predicted: np.ndarray
    confidences: np.ndarray
    true_confidences: np.ndarray
    images: dict[int, Tensor]
    sample: tuple[int, ...] = ()
    probabilities: np.ndarray | None = None
    present: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def mistakes(self, count: int) -> np.ndarray:
        """Return the indices (not rows) of the ``count`` most confident mistakes, best first."""
        wrong = np.flatnonzero(self.predicted != self.labels)
        # ties are broken by row, so that the list is the same for any number of processes
        order = np.lexsort((self.rows[wrong], -self.confidences[wrong]))
        return wrong[order[:count]]

    def errors(self, thresholds: np.ndarray, count: int) -> list[tuple[int, int]]:
        """Return the ``count`` worst misses and false alarms of images with several classes.

        The worst are those whose probability is farthest on the wrong side of the threshold, as a
        fraction of the way from the threshold to 0 or 1.

        Args:
            thresholds: (K,), the probability from which each class counts as predicted.
            count: at most as many are returned.

        Returns:
            The index (not row) of the image, and the class.
        """
        assert self.probabilities is not None and self.present is not None
        predicted = self.probabilities >= thresholds
        over = (self.probabilities - thresholds) / np.maximum(1 - thresholds, 1e-9)
        under = (thresholds - self.probabilities) / np.maximum(thresholds, 1e-9)
        index, kind = np.nonzero(predicted != self.present)
        far = np.where(predicted, over, under)[index, kind]
        order = np.lexsort((kind, self.rows[index], -far))[:count]
        return list(zip(index[order].tolist(), kind[order].tolist(), strict=True))


class PredictionBook:
    """Collects the predictions of validation and test passes.

    Args:
        keep_probabilities: whether the probability of every class is kept.
        several: whether images may have several classes; labels are then bool (B, K), and the
            probability of every class is kept.

    Attributes:
        latest: the latest complete pass of each stage.
        problem: why the current or the last pass has no predictions, in one line; empty if it has.
    """

    def __init__(self, *, keep_probabilities: bool = False, several: bool = False):
        self.keep_probabilities, self.several = keep_probabilities or several, several
        self.latest: dict[str, Predictions] = {}
        self.begin(hold=False)

    def begin(self, *, hold: bool) -> None:
        """Start a pass.

        Args:
            hold: whether images are kept, because the data cannot be read again.
        """
        self._holding, self._count = hold, 0
        self._batches: list[tuple[np.ndarray, ...]] = []
        self._mistakes: dict[int, tuple[float, Tensor]] = {}  # by row: confidence, image
        self._sample: dict[int, tuple[float, Tensor]] = {}  # by row: random number, image
        self._random = np.random.default_rng(0)  # the same sample in every pass
        self._incomplete, self.problem = False, ""

    def take(
        self, outputs: Any, batch: Any, get_logits: Callable[[], Tensor | None] = lambda: None
    ) -> None:
        """Record the predictions of one batch.

        Unreadable predictions or labels set ``problem``, and the whole pass is dropped.

        Args:
            outputs: what the module's step returned; ``outputs["logits"]`` are the logits, which
                are divided by the temperature that convlens's own module returns with them.
            batch: a dictionary with ``label``, or (images, labels).
            get_logits: gives the logits if the step does not return them.
        """
        step_logits = get_returned_logits(outputs)
        images, labels, rows = split_batch(batch)
        try:
            present = labels if self.several else None
            unknown = None if present is None else torch.full((len(present),), -1)
            labels = _read_class_numbers(labels) if unknown is None else unknown
            logits = output_rows(get_logits() if step_logits is None else step_logits, len(labels))
            classes = max(2, logits.shape[1])
            if len(labels) and (highest := int(labels.max())) >= classes:
                raise UserError(f"a label is {highest}, but the network has {classes} classes")
        except UserError as error:
            self._incomplete, self.problem = True, self.problem or str(error)
            return
        if rows is None:
            rows = torch.arange(self._count, self._count + len(labels))
        self._count += len(labels)
        logits = logits.detach().float()
        if isinstance(outputs, dict) and (temperature := outputs.get(TEMPERATURE, 1.0)) != 1:
            logits = logits / temperature
        probs = (logits.sigmoid() if self.several else probabilities(logits)).cpu()
        labels, rows = labels.cpu(), rows.cpu()
        confidences, predicted = probs.max(dim=1)
        truth = probs.gather(1, labels[:, None].clamp_min(0))[:, 0]
        truth = torch.where(labels >= 0, truth, torch.nan)
        columns = [rows, labels, predicted, confidences, truth]
        if self.keep_probabilities:
            columns.append(probs)
        if present is not None:
            columns.append(present.cpu())
        self._batches.append(tuple(column.numpy() for column in columns))
        if images is not None and self._holding:
            self._hold(images, rows, predicted != labels, confidences)

    def _hold(self, images: Tensor, rows: Tensor, wrong: Tensor, confidences: Tensor) -> None:
        numbers = self._random.random(len(rows)).tolist()
        for index, number in enumerate(numbers):
            _keep_highest(self._sample, int(rows[index]), number, images[index])
        for index in wrong.nonzero()[:, 0].tolist():
            confidence = float(confidences[index])
            _keep_highest(self._mistakes, int(rows[index]), confidence, images[index])

    def end(self, stage: str) -> bool:
        """Finish the pass: ``latest[stage]`` then holds the predictions of all processes.

        Returns:
            Whether all predictions are known; if some are missing, none are kept.
        """
        held = {**self._sample, **self._mistakes}
        own = {row: image for row, (_, image) in held.items()}
        parts: list[Any] = [(self._batches, own, tuple(self._sample), self._incomplete)]
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            mine = parts[0]
            parts = [None] * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(parts, mine)
        self._incomplete = any(incomplete for *_, incomplete in parts)
        batches = [batch for part, *_ in parts for batch in part]
        if self._incomplete or not batches:
            self.latest.pop(stage, None)
            return not self._incomplete
        rows, *others = (np.concatenate(column) for column in zip(*batches, strict=True))
        # each image once: a process without a row of its own may have repeated one
        rows, first = np.unique(rows, return_index=True)
        images = {row: image for _, part, *_ in parts for row, image in part.items()}
        sample = tuple(sorted(row for *_, part, _ in parts for row in part))
        labels, predicted, confidences, truth, *probs = (column[first] for column in others)
        self.latest[stage] = Predictions(
            rows, labels, predicted, confidences, truth, images, sample, *probs
        )
        return True


class TestRecord(L.Callback):
    """Collects the predictions of the test, with the probability of every class.

    Args:
        several: whether images may have several classes.

    Attributes:
        book: ``book.latest["test"]`` are the predictions after the test, in every process.
    """

    def __init__(self, *, several: bool = False) -> None:
        self.book = PredictionBook(keep_probabilities=True, several=several)

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.book.begin(hold=False)

    def on_test_batch_end(
        self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0
    ) -> None:
        self.book.take(outputs, batch)

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.book.end("test")


def _keep_highest(
    held: dict[int, tuple[float, Tensor]], row: int, value: float, image: Tensor
) -> None:
    """Add an image by its row; beyond ``KEPT_IMAGES``, drop the one with the lowest value."""
    if len(held) >= KEPT_IMAGES:
        lowest = min(held, key=lambda row: held[row][0])
        if held[lowest][0] >= value:
            return
        del held[lowest]
    held[row] = (value, image.detach().cpu().clone())


def _read_class_numbers(labels: Tensor | None) -> Tensor:
    """Return labels as class numbers (B,) int64; for one output they may be floats, or (B, 1)."""
    if labels is None:
        raise UserError("a batch without labels: give (images, labels), or a dict with 'label'")
    numbers = labels.detach()
    if numbers.dim() == 2 and numbers.shape[1] == 1:
        numbers = numbers[:, 0]
    if numbers.dim() != 1 or not torch.equal(numbers, numbers.long().to(numbers.dtype)):
        shape = tuple(labels.shape)
        raise UserError(f"labels must be class numbers (B,), not {shape} of {labels.dtype}")
    return numbers.long()


def get_returned_logits(outputs: Any) -> Tensor | None:
    """Return the logits that a module's step returned, or None."""
    return outputs.get("logits") if isinstance(outputs, dict) else None


def split_batch(batch: Any) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Return (images, labels, rows) of a batch, None for each that it lacks."""
    if isinstance(batch, dict):
        return batch.get("image"), batch.get("label"), batch.get("row")
    if isinstance(batch, (tuple, list)) and len(batch) >= 2 and isinstance(batch[1], Tensor):
        images = batch[0] if isinstance(batch[0], Tensor) and batch[0].dim() == 4 else None
        return images, batch[1], None
    return None, None, None
