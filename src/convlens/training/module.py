"""The LightningModule: a classifier, its loss, its optimizer and its numbers."""

from __future__ import annotations

from collections.abc import Sequence

import pytorch_lightning as L
import torch
from pytorch_lightning.utilities import move_data_to_device
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from convlens.config.schema import (
    DataConfig,
    FinetuneConfig,
    ModelConfig,
    OptimizerConfig,
    OwnOptimizerConfig,
    OwnSchedulerConfig,
    SchedulerConfig,
    TrainingConfig,
)
from convlens.core.evaluation import evaluation_mode
from convlens.models import build_model
from convlens.training.finetune.schedule import Phase, build_schedule
from convlens.training.metrics import EpochMetrics
from convlens.training.objective import Objective, count_outputs
from convlens.training.optimizers import build_optimizer
from convlens.training.randomness import seed_batch, seed_weights


class ClassifierModule(L.LightningModule):
    """Trains the network that the config's slices describe.

    Args:
        class_names: K names; the label is the index.
        data: its ``channels`` and ``size`` are those of the pictures.
        model, training, finetune, optimizer, scheduler: the config groups.
        seed: of the first weights and of every batch.
        pretrained: False leaves the weights as drawn, for a network whose weights come from a
            checkpoint.

    Attributes:
        model: pictures (B, C, H, W) in [0, 1] to logits (B, K) or (B, 1).
        results: the latest value of every epoch scalar, ``val/loss`` and so on.
        record: results by epoch (from 0); what a schedule may depend on, kept in checkpoints.
        schedule: which groups are trained when, at which rate.
        phase: the one in force.
        uses_stored_features: whether the network is fed with stored features just now.
        compiled: whether ``torch.compile`` is on.
    """

    def __init__(
        self, class_names: Sequence[str], *, data: DataConfig, model: ModelConfig,
        training: TrainingConfig, finetune: FinetuneConfig,
        optimizer: OptimizerConfig | OwnOptimizerConfig,
        scheduler: SchedulerConfig | OwnSchedulerConfig, seed: int, pretrained: bool = True,
    ):  # fmt: skip
        super().__init__()
        self.class_names = list(class_names)
        self.data_config, self.model_config, self.optimizer_config = data, model, optimizer
        self.rate_per_device = training.lr_is == "per_device"
        self.seed = seed
        seed_weights(seed)
        self.model = build_model(
            model,
            channels=data.channels,
            size=data.size,
            outputs=count_outputs(training.loss, len(class_names)),
            class_names=class_names,
            pretrained=pretrained,
        ).to(memory_format=torch.channels_last)
        self.objective = Objective(training.loss, training.label_smoothing, training.class_weights)
        self.train_metrics = EpochMetrics(self.class_names, detailed=False)
        self.val_metrics = EpochMetrics(self.class_names, detailed=True)
        self.test_metrics = EpochMetrics(self.class_names, detailed=True)
        self.results: dict[str, float] = {}
        self.record: dict[int, dict[str, float]] = {}
        self.schedule = build_schedule(
            finetune, training.epochs, optimizer.lr, scheduler, self.model
        )
        self.phase: Phase = self.schedule.phases[0]
        self.uses_stored_features = False
        self.enter(self.phase)
        self.compiled = training.compile
        if self.compiled:
            # in place: the names of parameters, and so checkpoints, stay as they are
            self.model.compile()

    def enter(self, phase: Phase) -> None:
        """Freeze and unfreeze what ``phase`` wants, and put the frozen parts to rest."""
        self.phase = phase
        self.schedule.freeze(self.model, phase)
        self.train(self.training)

    def train(self, mode: bool = True) -> ClassifierModule:
        """As ever, but frozen parts stay in evaluation mode, whoever calls."""
        super().train(mode)
        if mode and hasattr(self, "schedule"):
            self.schedule.set_modes(self.model)
        return self

    def forward(self, pictures: Tensor) -> Tensor:
        return self.model(pictures)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Over all named groups, those that rest too: a checkpoint of any phase fits."""
        parameters = dict(self.model.named_parameters())
        groups = [
            {"name": group.name, "params": [parameters[name] for name in group.parameters]}
            for group in self.schedule.groups.values()
        ]
        return build_optimizer(self.optimizer_config, groups)

    def on_train_batch_start(self, batch: dict, batch_idx: int) -> None:
        seed_batch(self.seed, self.current_epoch, batch_idx, self.global_rank)
        # batches whose gradients make one move share its time, as one batch of all of them would
        each = self.trainer.accumulate_grad_batches
        moves = -(-self.trainer.num_training_batches // each)
        time = self.current_epoch + (batch_idx // each) / moves
        self.set_rates(self.trainer.optimizers[0], time)

    def set_rates(self, optimizer: torch.optim.Optimizer, time: float) -> None:
        """Give every parameter group its learning rate at ``time`` (epochs since the start)."""
        factor = 1.0
        if self.rate_per_device and self._trainer is not None:
            factor = float(self._trainer.world_size)
        rates = self.schedule.rates(time, self.record)
        for group in optimizer.param_groups:
            group["lr"] = rates[group["name"]] * factor

    def is_look_due(self, clock: int) -> bool:
        """Whether pictures are due after ``clock`` completed epochs.

        Epochs on stored features last less than a look: there only the first and the last of a
        phase are looked at.
        """
        if not self.uses_stored_features:
            return True
        phase, start = self.schedule.phase_at(clock - 1, self.record)
        after, _ = self.schedule.phase_at(clock, self.record)
        last = after is not phase or self.schedule.is_finished(clock, self.record)
        return clock == start + 1 or last or clock == self.trainer.max_epochs

    def compute_logits(self, batch: dict) -> Tensor:
        """Logits (B, K) or (B, 1) of a batch of pictures, or of what is stored of them."""
        if "features" in batch:
            return self.model.from_features(batch["features"], batch["cut"])
        # compiled is the whole pass; hand-written kernels for frozen parts would break its graph
        return (self.model if self.compiled else self.model.forward_fast)(batch["image"])

    def training_step(self, batch: dict, batch_idx: int) -> dict[str, Tensor]:
        """``loss``: what is differentiated; ``mean``: the mean loss of this process's images."""
        logits = self.compute_logits(batch)
        loss = self.objective(logits, batch["label"])
        kept = slice(0, batch.get("counted"))
        if len(batch["label"][kept]):
            self.train_metrics.update(loss.detach(), logits.detach()[kept], batch["label"][kept])
        share = self._share(batch) if "window" in batch else 1.0
        return {"loss": loss * share, "mean": loss.detach()}

    def _share(self, batch: dict) -> Tensor | float:
        """What this mean counts among those that make one move of the weights.

        Lightning divides every loss by the number of batches that it accumulates, whether the
        last move of an epoch has so many or not, and DDP takes the mean over processes.
        """
        if not batch["counted"]:
            return 0.0
        parts = self.trainer.accumulate_grad_batches * self.trainer.world_size
        divisor = self.objective.divisor
        return divisor(batch["label"]) * parts / divisor(batch["window"])

    def on_validation_model_eval(self) -> None:
        """First the processes' average of running statistics: each has seen other batches, and all
        shall judge, and save, one and the same network."""
        with torch.no_grad():
            for part in self.modules() if self.trainer.world_size > 1 else ():
                if isinstance(part, _BatchNorm) and part.training and part.track_running_stats:
                    for statistic in (part.running_mean, part.running_var):
                        torch.distributed.all_reduce(statistic)
                        statistic /= self.trainer.world_size
        super().on_validation_model_eval()

    def validation_step(self, batch: dict, batch_idx: int) -> dict[str, Tensor]:
        return {"logits": self._evaluate(self.val_metrics, batch)}

    def on_validation_epoch_end(self) -> None:
        self.publish("val", self.val_metrics)

    def test_step(self, batch: dict, batch_idx: int) -> dict[str, Tensor]:
        return {"logits": self._evaluate(self.test_metrics, batch)}

    def on_test_epoch_end(self) -> None:
        self.publish("test", self.test_metrics)

    def _evaluate(self, metrics: EpochMetrics, batch: dict) -> Tensor:
        logits = self.compute_logits(batch)
        metrics.update(self.objective(logits, batch["label"]), logits, batch["label"])
        return logits

    def publish(self, stage: str, metrics: EpochMetrics) -> None:
        """Compute, keep in ``results``, and tell Lightning, whose callbacks watch ``val/loss``.

        For ``train`` this is called by :class:`convlens.callbacks.EpochLog`: Lightning runs the
        callbacks' end of the epoch before the module's, and they need the numbers.

        Loggers are not told here: Lightning would write against optimiser steps, and everything
        of ours is on the clock of completed epochs.
        """
        values = {f"{stage}/{name}": value for name, value in metrics.compute().items()}
        self.results |= values
        if self._trainer is not None and stage != "test":
            self.record.setdefault(self.current_epoch, {}).update(
                {f"{stage}/{name}": values[f"{stage}/{name}"] for name in ("loss", "accuracy")}
            )
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
        metrics = EpochMetrics(self.class_names, detailed=True).to(self.device)
        with evaluation_mode(self), self.trainer.precision_plugin.forward_context():
            for batch in loader:
                self._evaluate(metrics, finish(move_data_to_device(batch, self.device)))
        return metrics.compute()

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        checkpoint["convlens_record"] = {epoch: dict(row) for epoch, row in self.record.items()}
        checkpoint["convlens_processes"] = self.trainer.world_size

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        """Take over the record; `convlens.experiment.resume` says whether the checkpoint fits."""
        self.record = {
            int(epoch): dict(row) for epoch, row in checkpoint.get("convlens_record", {}).items()
        }
