"""The progress bar of a terminal."""

from __future__ import annotations

import pytorch_lightning as L
from pytorch_lightning.callbacks import RichProgressBar

from convlens.core.progress import share_display


class ProgressBar(RichProgressBar):
    """Lightning's rich bar, which counts epochs from 1 and leaves out the logger's version number.

    Args:
        shows_metrics: whether the latest metrics are beside the bar; a convlens run prints them in
            a line per epoch instead.
    """

    def __init__(self, *, shows_metrics: bool = True):
        super().__init__(leave=False)
        self.shows_metrics = shows_metrics

    def _get_train_description(self, current_epoch: int) -> str:
        total = self.trainer.max_epochs
        text = f"epoch {current_epoch + 1}" + (f"/{total}" if total and total > 0 else "")
        # as wide as the bar of the validation, so that the two do not flicker
        return f"{text:{len(self.validation_description)}}"

    def _init_progress(self, trainer: L.Trainer) -> None:
        super()._init_progress(trainer)
        share_display(self.progress, float("inf"))

    def _stop_progress(self) -> None:
        share_display(None)
        if self.progress is not None:
            self.progress.live.transient = True  # no finished bar stays among the lines
        super()._stop_progress()

    def get_metrics(self, trainer, pl_module) -> dict:
        if not self.shows_metrics:
            return {}
        metrics = super().get_metrics(trainer, pl_module)
        return {name: value for name, value in metrics.items() if name != "v_num"}
