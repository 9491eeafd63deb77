"""An explanation as a Lightning callback of its own."""

from __future__ import annotations

import pytorch_lightning as L
from convlens.callbacks.explanation import Explanation
from convlens.callbacks.looks import Looks


class ExplanationCallback(Explanation):
    """Looks at the network before training, after every epoch and at the end.

    It joins the :class:`convlens.callbacks.looks.Looks` among the trainer's callbacks, wherever
    that stands, and brings one where there is none. What it draws a subclass says, see
    :class:`convlens.callbacks.explanation.Explanation`.

    In a project of one's own::

        images, labels = next(iter(val_loader))
        cam = GradCam().watch(images[:8], labels[:8], class_names=["cat", "dog"])
        trainer = L.Trainer(callbacks=[cam])
    """

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        Looks.of(trainer).join(self)
