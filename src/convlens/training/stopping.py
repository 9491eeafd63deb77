"""Early stopping that a resumed run remembers."""

from __future__ import annotations

import pytorch_lightning as L
from pytorch_lightning.callbacks import EarlyStopping


class EarlyStop(EarlyStopping):
    """Lightning's early stopping, but a resumed run that had stopped early stays stopped."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.stopped_epoch:
            trainer.should_stop = True
