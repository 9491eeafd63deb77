"""The LightningModule: a classifier, its loss, its optimizer and its numbers."""

from __future__ import annotations

import pytorch_lightning as L
import torch
from torch import Tensor

from convlens.models import build_model
from convlens.training.metrics import EpochMetrics
from convlens.training.objective import Objective, outputs_for
from convlens.training.optimizers import optimizer, rate_factor, trainable_groups
from convlens.training.randomness import seed_batch, seed_weights


class ClassifierModule(L.LightningModule):
    """Trains the network that a resolved config describes.

    Args:
        config: the run's resolved config as a plain dictionary; stored in the checkpoint, which
            therefore explains itself.
        class_names: K names; the label is the index.

    Attributes:
        model: pictures (B, C, H, W) in [0, 1] to logits (B, K) or (B, 1).
        results: the latest value of every epoch scalar, ``val/loss`` and so on.
    """

    def __init__(self, config: dict, class_names: list[str]):
        super().__init__()
        self.save_hyperparameters()
        self.config, self.class_names = config, list(class_names)
        training, data = config["training"], config["data"]
        seed_weights(config["seed"])
        self.model = build_model(
            config["model"],
            channels=data["channels"],
            size=data["size"],
            outputs=outputs_for(training["loss"], len(class_names)),
        ).to(memory_format=torch.channels_last)
        self.objective = Objective(
            training["loss"], training["label_smoothing"], training["class_weights"]
        )
        self.train_metrics = EpochMetrics(self.class_names, detailed=False)
        self.val_metrics = EpochMetrics(self.class_names, detailed=True)
        self.test_metrics = EpochMetrics(self.class_names, detailed=True)
        self.results: dict[str, float] = {}

    def forward(self, pictures: Tensor) -> Tensor:
        return self.model(pictures)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return optimizer(self.config["optimizer"], trainable_groups(self.model))

    def on_train_batch_start(self, batch: dict, batch_idx: int) -> None:
        seed_batch(self.config["seed"], self.current_epoch, batch_idx, self.global_rank)
        time = self.current_epoch + batch_idx / self.trainer.num_training_batches
        self.set_rates(self.trainer.optimizers[0], time)

    def set_rates(self, optimizer: torch.optim.Optimizer, time: float) -> None:
        """Give every parameter group its learning rate at ``time`` (epochs since the start)."""
        epochs = self.config["training"]["epochs"]
        factor = rate_factor(self.config["scheduler"], time, epochs)
        for group in optimizer.param_groups:
            group["lr"] = self.config["optimizer"]["lr"] * factor

    def training_step(self, batch: dict, batch_idx: int) -> Tensor:
        logits = self.model(batch["image"])
        loss = self.objective(logits, batch["label"])
        self.train_metrics.update(loss.detach(), logits.detach(), batch["label"])
        return loss

    def validation_step(self, batch: dict, batch_idx: int) -> None:
        self._evaluate(self.val_metrics, batch)

    def on_validation_epoch_end(self) -> None:
        self.publish("val", self.val_metrics)

    def test_step(self, batch: dict, batch_idx: int) -> None:
        self._evaluate(self.test_metrics, batch)

    def on_test_epoch_end(self) -> None:
        self.publish("test", self.test_metrics)

    def _evaluate(self, metrics: EpochMetrics, batch: dict) -> None:
        logits = self.model(batch["image"])
        metrics.update(self.objective(logits, batch["label"]), logits, batch["label"])

    def publish(self, stage: str, metrics: EpochMetrics) -> None:
        """Compute, keep in ``results``, and tell Lightning, whose callbacks watch ``val/loss``.

        For ``train`` this is called by :class:`convlens.callbacks.EpochLog`: Lightning runs the
        callbacks' end of the epoch before the module's, and they need the numbers.

        Loggers are not told here: Lightning would write against optimiser steps, and everything
        of ours is on the clock of completed epochs.
        """
        values = {f"{stage}/{name}": value for name, value in metrics.compute().items()}
        self.results |= values
        headline = {key: values[key] for key in (f"{stage}/loss", f"{stage}/accuracy")}
        self.log_dict(headline, logger=False, prog_bar=True, rank_zero_only=False)

    @torch.no_grad()
    def evaluate(self, loader, finish) -> dict[str, float]:
        """Loss, accuracy and the rest over a loader, outside Lightning's loops.

        Used for the network before training. Training mode is restored module by module.

        Args:
            loader: yields batches; each is moved to the module's device.
            finish: turns a moved batch into pictures in [0, 1].
        """
        modes = {module: module.training for module in self.modules()}
        metrics = EpochMetrics(self.class_names, detailed=True).to(self.device)
        try:
            self.eval()
            with self.trainer.precision_plugin.forward_context():
                for batch in loader:
                    moved = {key: value.to(self.device) for key, value in batch.items()}
                    self._evaluate(metrics, finish(moved))
        finally:
            for module, mode in modes.items():
                module.training = mode
        return metrics.compute()
