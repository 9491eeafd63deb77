"""What the network answered in the latest validation or test pass, picture by picture.

Collected while the pass runs, at the cost of a copy of the logits: no picture is shown twice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from convlens.core.errors import UserError
from convlens.explain.grad_cam import probabilities
from convlens.explain.outputs import output_rows

KEPT = 32  # of the worst mistakes, and of all pictures, where no data set can be asked again


@dataclass(frozen=True)
class Answers:
    """One pass over N pictures, in the order of their rows.

    Attributes:
        rows: (N,) int64, each picture's place in the split.
        labels: (N,) int64, the true class.
        answers: (N,) int64, the predicted one.
        confidences: (N,) float32 in [0, 1], the predicted class's probability.
        true_confidences: (N,) float32 in [0, 1], the true class's.
        held: in another project, whose data set cannot be asked again: pictures by row, (C, H, W)
            as the network took them, some of the most confident mistakes and a random sample.
        sampled: the rows of that sample.
        shares: (N, K) float32 in [0, 1], every class's probability, where it was asked for.
    """

    rows: np.ndarray
    labels: np.ndarray
    answers: np.ndarray
    confidences: np.ndarray
    true_confidences: np.ndarray
    held: dict[int, Tensor]
    sampled: tuple[int, ...] = ()
    shares: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def mistakes(self, count: int) -> np.ndarray:
        """Places (not rows) of the ``count`` most confident mistakes, the most confident first."""
        wrong = np.flatnonzero(self.answers != self.labels)
        # equals by row: the same list whatever the number of processes
        order = np.lexsort((self.rows[wrong], -self.confidences[wrong]))
        return wrong[order[:count]]


class AnswerBook:
    """Collects the answers of validation and test passes.

    Args:
        whole: whether every class's probability is kept.

    Attributes:
        latest: by stage.
        problem: why the pass under way, or the last one, has none, in a line.
    """

    def __init__(self, *, whole: bool = False):
        self.whole = whole
        self.latest: dict[str, Answers] = {}
        self.begin(hold=False)

    def begin(self, *, hold: bool) -> None:
        """A pass begins.

        Args:
            hold: whether pictures are kept, of data that cannot be asked again.
        """
        self._holding, self._count = hold, 0
        self._parts: list[tuple[np.ndarray, ...]] = []
        self._held: dict[int, tuple[float, Tensor]] = {}
        self._sample: dict[int, tuple[float, Tensor]] = {}  # by row: a random number, the picture
        self._random = np.random.default_rng(0)  # the same sample in every pass
        self._lost, self.problem = False, ""  # answers to a batch, and why

    def take(self, outputs, batch, noted: Callable[[], Tensor | None] = lambda: None) -> None:
        """A batch has been answered.

        The logits are ``outputs["logits"]`` if the module's step returns them, else what ``noted``
        gives. Batches are dictionaries with ``label``, or (pictures, labels). Answers or labels
        that cannot be read are a ``problem``, and the pass is lost.
        """
        returned = returned_logits(outputs)
        pictures, labels, rows = parts_of(batch)
        try:
            labels = _class_numbers(labels)
            logits = output_rows(noted() if returned is None else returned, len(labels))
            classes = max(2, logits.shape[1])
            if len(labels) and (highest := int(labels.max())) >= classes:
                raise UserError(
                    f"a label is {highest}, but the network tells {classes} classes apart"
                )
        except UserError as error:
            self._lost, self.problem = True, self.problem or str(error)
            return
        if rows is None:
            rows = torch.arange(self._count, self._count + len(labels))
        self._count += len(labels)
        shares = probabilities(logits.detach().float()).cpu()
        labels, rows = labels.cpu(), rows.cpu()
        confidences, answers = shares.max(dim=1)
        truth = shares.gather(1, labels[:, None].clamp_min(0))[:, 0]
        truth = torch.where(labels >= 0, truth, torch.nan)
        parts = [rows, labels, answers, confidences, truth, *([shares] if self.whole else ())]
        self._parts.append(tuple(part.numpy() for part in parts))
        if pictures is not None and self._holding:
            self._hold(pictures, rows, answers != labels, confidences)

    def _hold(self, pictures: Tensor, rows: Tensor, wrong: Tensor, confidences: Tensor) -> None:
        drawn = self._random.random(len(rows)).tolist()
        for place, number in enumerate(drawn):
            _keep_highest(self._sample, int(rows[place]), number, pictures[place])
        for place in wrong.nonzero()[:, 0].tolist():
            _keep_highest(self._held, int(rows[place]), float(confidences[place]), pictures[place])

    def end(self, stage: str) -> bool:
        """The pass is over: ``latest[stage]`` holds it, that of all processes together.

        Returns:
            Whether all answers are known; where some are not, none are kept.
        """
        kept = {**self._sample, **self._held}
        held = {row: picture for row, (_, picture) in kept.items()}
        parts = [(self._parts, held, tuple(self._sample), self._lost)]
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            mine = parts[0]
            parts = [None] * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(parts, mine)
        self._lost = any(lost for *_, lost in parts)
        columns = [column for mine, *_ in parts for column in mine]
        if self._lost or not columns:
            self.latest.pop(stage, None)
            return not self._lost
        rows, *others = (np.concatenate(column) for column in zip(*columns, strict=True))
        # each picture once: a process without a row of its own may have repeated one
        rows, first = np.unique(rows, return_index=True)
        pictures = {row: picture for _, mine, *_ in parts for row, picture in mine.items()}
        sampled = tuple(sorted(row for *_, mine, _ in parts for row in mine))
        found = [column[first] for column in others]
        self.latest[stage] = Answers(rows, *found[:4], pictures, sampled, *found[4:])
        return True


def _keep_highest(
    kept: dict[int, tuple[float, Tensor]], row: int, value: float, picture: Tensor
) -> None:
    """Add a picture by its row; of more than ``KEPT`` the one of the lowest value goes."""
    if len(kept) >= KEPT:
        lowest = min(kept, key=lambda row: kept[row][0])
        if kept[lowest][0] >= value:
            return
        del kept[lowest]
    kept[row] = (value, picture.detach().cpu().clone())


def _class_numbers(labels: Tensor | None) -> Tensor:
    """Labels as class numbers (B,) int64; those of one output may be floats, or (B, 1)."""
    if labels is None:
        raise UserError("no labels: batches are (images, labels), or dictionaries with 'label'")
    numbers = labels.detach()
    if numbers.dim() == 2 and numbers.shape[1] == 1:
        numbers = numbers[:, 0]
    if numbers.dim() != 1 or not torch.equal(numbers, numbers.long().to(numbers.dtype)):
        shape = tuple(labels.shape)
        raise UserError(f"labels are class numbers (B,), not {shape} of {labels.dtype}")
    return numbers.long()


def returned_logits(outputs) -> Tensor | None:
    """The logits that a module's step returns, if it does."""
    return outputs.get("logits") if isinstance(outputs, dict) else None


def parts_of(batch) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """(pictures, labels, rows), None for what a batch does not have."""
    if isinstance(batch, dict):
        return batch.get("image"), batch.get("label"), batch.get("row")
    if isinstance(batch, (tuple, list)) and len(batch) >= 2 and isinstance(batch[1], Tensor):
        pictures = batch[0] if isinstance(batch[0], Tensor) and batch[0].dim() == 4 else None
        return pictures, batch[1], None
    return None, None, None
