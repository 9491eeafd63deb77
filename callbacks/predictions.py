"""Every test picture's probabilities, collected while the test runs."""

from __future__ import annotations

import numpy as np
import pytorch_lightning as L
import torch

from convlens.explain.grad_cam import probabilities


class Predictions(L.Callback):
    """Keeps what the network answered to each test picture.

    Attributes:
        rows: (N,) int64, each picture's place in the split, rising; empty before a test.
        labels: (N,) int64, the true class.
        shares: (N, K) float32 in [0, 1].
    """

    def __init__(self):
        self.rows = np.empty(0, np.int64)
        self.labels = np.empty(0, np.int64)
        self.shares = np.empty((0, 0), np.float32)
        self._parts: list[tuple[np.ndarray, ...]] = []

    def on_test_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._parts = []

    def on_test_batch_end(
        self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0
    ) -> None:
        shares = probabilities(outputs["logits"].detach().float())
        parts = (batch["row"], batch["label"], shares)
        self._parts.append(tuple(part.cpu().numpy() for part in parts))

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        parts = [self._parts]
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            parts = [None] * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(parts, self._parts)
        columns = zip(*(part for mine in parts for part in mine), strict=True)
        rows, labels, shares = (np.concatenate(column) for column in columns)
        # each picture once: a process without a row of its own may have repeated one
        self.rows, first = np.unique(rows, return_index=True)
        self.labels, self.shares = labels[first], shares[first]
