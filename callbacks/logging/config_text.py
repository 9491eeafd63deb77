"""The run's config as a text in TensorBoard."""

from __future__ import annotations

from pathlib import Path

import pytorch_lightning as L
from convlens.callbacks.logging.writing import find_event_loggers


class ConfigText(L.Callback):
    """Writes ``config``, the resolved config, at the start of a run.

    Args:
        file: the run's ``config.yaml``.
    """

    def __init__(self, file: Path):
        self.file = file

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero:
            text = self.file.read_text(encoding="utf-8")
            for logger in find_event_loggers(trainer):
                logger.experiment.add_text("config", f"```yaml\n{text}```", 0)
