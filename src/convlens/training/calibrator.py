"""Keeps the logits of a validation or test pass, and calibrates the network by them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchmetrics import Metric

from convlens.training.calibration import (
    KEY,
    Calibration,
    calibrate,
    measure,
    read_calibration,
)

TEMPERATURE = "convlens_temperature"  # in what a test step returns beside the undivided logits
NUMBERS = 2**22  # logits kept from one pass: 16 MiB, fitted in 1.5 s
IMAGES = 2**17  # images kept from one pass: 2.2 MB of a checkpoint


class LogitRecord(Metric):
    """Keeps logits, true classes and rows of the images of a pass, in all processes.

    Whenever there are too many, a fixed half of the rows is left out, by a hash, so that neither
    the order of the images nor the number of processes matters.

    Args:
        numbers: largest number of logits.
        images: largest number of images.
    """

    full_state_update = False

    def __init__(self, numbers: int = NUMBERS, images: int = IMAGES):
        super().__init__()
        self.numbers, self.images, self._halvings = numbers, images, 0
        for name in ("logits", "labels", "rows"):
            self.add_state(name, [], dist_reduce_fx="cat")
        self.add_state("halvings", torch.tensor(0), dist_reduce_fx="max")

    def update(self, logits: Tensor, labels: Tensor, rows: Tensor) -> None:
        """Add logits (B, K) or (B, 1), with labels and rows, both int64 (B,)."""
        logits = logits.detach()
        # float64 stays, so that two processes find the temperature of one
        logits = logits if logits.dtype == torch.float64 else logits.float()
        part = logits, labels, rows.to(logits.device)
        if self._halvings:
            part = _thin(part, self._halvings)
        for kept, new in zip((self.logits, self.labels, self.rows), part, strict=True):
            kept.append(new)
        if self._is_over(sum(map(len, self.rows)), logits.shape[1]):
            self._halvings += 1
            self.halvings.fill_(self._halvings)
            joined = map(torch.cat, (self.logits, self.labels, self.rows))
            thinned = _thin(tuple(joined), self._halvings)
            self.logits, self.labels, self.rows = ([each] for each in thinned)

    def _is_over(self, images: int, classes: int) -> bool:
        return images > self.images or images * classes > self.numbers

    def compute(self) -> tuple[Tensor, Tensor]:
        """Return logits (N, K or 1) and labels on the CPU, in the order of rows, each row once."""
        parts = (self.logits, self.labels, self.rows)
        if not len(self.rows):
            return torch.zeros(0, 1), torch.zeros(0, dtype=torch.int64)
        parts = tuple((torch.cat(part) if isinstance(part, list) else part).cpu() for part in parts)
        first = torch.from_numpy(np.unique(parts[2].numpy(), return_index=True)[1])
        parts, halvings = tuple(part[first] for part in parts), int(self.halvings)
        parts = _thin(parts, halvings)
        while self._is_over(len(parts[0]), parts[0].shape[1]):
            parts = _thin(parts, halvings := halvings + 1)
        return parts[0], parts[1]

    def reset(self) -> None:
        """Forget the pass."""
        super().reset()
        self._halvings = 0


def _thin(part: tuple[Tensor, ...], halvings: int) -> tuple[Tensor, ...]:
    """Keep about one of 2^halvings rows (the last tensor), whatever pattern the classes have."""
    kept = part[-1] * 2654435761 % 2**32 < 2**32 >> halvings  # Knuth's multiplicative hash
    return tuple(each[kept] for each in part)


class Calibrator(nn.Module):
    """Calibrates a network after every validation, and keeps the result in its checkpoints.

    Args:
        active: False, for several classes per image, keeps the temperature 1.0.

    Attributes:
        validation: the calibration of the last validation, or of the checkpoint; None without.
        test: the same network, with the same temperature, on the images of the last test.
    """

    def __init__(self, active: bool):
        super().__init__()
        self.record = LogitRecord() if active else None
        self.validation: Calibration | None = None
        self.test: Calibration | None = None

    @property
    def temperature(self) -> float:
        """The logits are divided by it to get probabilities; 1.0 without a calibration."""
        return 1.0 if self.validation is None else self.validation.temperature

    def get(self, stage: str) -> Calibration | None:
        """Return the calibration on the images of a stage, ``val`` or ``test``."""
        return self.test if stage == "test" else self.validation

    def take(self, logits: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """Record a batch of a pass, and return its logits.

        A batch without ``row`` is not recorded: its images could not be told apart.
        """
        if self.record is not None and "row" in batch:
            self.record.update(logits, batch["label"], batch["row"])
        return logits

    def end_validation(self) -> dict[str, float]:
        """Calibrate by the recorded pass.

        Returns:
            ``val/ece``, the calibration error without the temperature; NaN if a logit is not
            finite. Nothing if no pass was recorded.
        """
        found = self._end_pass()
        self.validation = None if found is None else calibrate(*found)
        if found is None:
            return {}
        return {"val/ece": math.nan if self.validation is None else self.validation.ece}

    def end_test(self) -> None:
        """Measure the calibration on the recorded pass."""
        found = self._end_pass()
        self.test = None if found is None else measure(*found, self.temperature)

    def _end_pass(self) -> tuple[Tensor, Tensor] | None:
        """Return logits and labels of the recorded pass, and forget it; None without one."""
        if self.record is None or not self.record.update_called:
            return None
        logits, labels = self.record.compute()
        self.record.reset()
        labels = labels.reshape(-1)  # torchmetrics makes a number of a tensor with one element
        return logits.reshape(len(labels), -1 if len(labels) else 1), labels

    def save(self, checkpoint: dict[str, Any]) -> None:
        """Put the calibration into a checkpoint."""
        if self.validation is not None:
            checkpoint[KEY] = self.validation.to_state()

    def load(self, checkpoint: Mapping[str, Any]) -> None:
        """Take the calibration of the checkpoint whose weights the network has.

        Raises:
            ValueError: it is damaged.
        """
        self.validation = read_calibration(checkpoint)
