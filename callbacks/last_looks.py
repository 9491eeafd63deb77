"""The end of training, for a run that was stopped between its last epoch and its last look."""

from __future__ import annotations

import pytorch_lightning as L
import torch
from convlens.callbacks.answers import AnswerBook

from convlens.core.evaluation import evaluation_mode
from convlens.data.datamodule import PictureData
from convlens.training import ClassifierModule


class LastLooks(L.Callback):
    """Lets a resumed run whose epochs are all done have its last looks and alarms all the same.

    Lightning's loop returns at once then and calls no hook.
    """

    def __init__(self):
        self._began = False

    def on_train_start(self, trainer: L.Trainer, pl_module: ClassifierModule) -> None:
        self._began = True

    def on_fit_end(self, trainer: L.Trainer, pl_module: ClassifierModule) -> None:
        if self._began:
            return
        for hook in ("on_train_start", "on_train_end"):
            for callback in trainer.callbacks:
                getattr(callback, hook)(trainer, pl_module)


@torch.no_grad()
def collect_answers(book: AnswerBook, trainer: L.Trainer, module: ClassifierModule) -> None:
    """Note the answers to the validation pictures, as the last epoch's validation did.

    Without an epoch none ran. In another project nothing is noted.
    """
    data = trainer.datamodule
    if not (isinstance(data, PictureData) and isinstance(module, ClassifierModule)):
        return
    book.begin(hold=False)
    with evaluation_mode(module), trainer.precision_plugin.forward_context():
        for batch in data.evaluation_loader("validation"):
            there = {k: v.to(module.device) if torch.is_tensor(v) else v for k, v in batch.items()}
            moved = data.finish(there)
            book.take({"logits": module.answer(moved)}, moved)
    book.end("val")
