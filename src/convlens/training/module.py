"""The LightningModule: a classifier with its loss, optimizer and metrics."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

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
from convlens.models.adapters import add_adapters
from convlens.training.averaging import KEY, WeightAverage, choose_rule
from convlens.training.calibrator import TEMPERATURE, Calibrator
from convlens.training.compiling import compile_in_place
from convlens.training.diary.diary import Diary
from convlens.training.finetune.groups import list_optimizer_groups
from convlens.training.finetune.schedule import Phase, build_schedule
from convlens.training.metrics import EpochMetrics
from convlens.training.multi_label import MultiLabelMetrics
from convlens.training.objective import (
    Objective,
    average_predictions,
    count_outputs,
    select_targets,
)
from convlens.training.optimizers import build_optimizer, may_fuse
from convlens.training.randomness import seed_batch, seed_weights

Metrics = EpochMetrics | MultiLabelMetrics


class ClassifierModule(L.LightningModule):
    """Trains the network that the config describes.

    Args:
        class_names: K names; the label is the index.
        data: the config group; ``channels`` and ``size`` are those of the images.
        model: the config group.
        training: the config group.
        finetune: the config group.
        optimizer: the config group.
        scheduler: the config group.
        seed: seed of the initial weights and of every batch.
        metrics: further metrics of validation and test, see ``convlens.training.named_metrics``.
        pretrained: False keeps random weights, for a network that is loaded from a checkpoint.

    Attributes:
        model: images (B, C, H, W) in [0, 1] to logits (B, K) or (B, 1).
        results: the latest value of every epoch scalar, such as ``val/loss``.
        record: results by epoch (from 0) that a schedule may depend on; kept in checkpoints.
        schedule: which groups are trained when, at which rate.
        phase: the current phase.
        uses_stored_features: whether the network currently trains on stored features.
        averaging: how the weights are averaged; None if they are not.
        average: the average of the weights; None before training.
        mirrors_tests: whether tests average the predictions of an image and its mirror image.
        diary: what every training image did; None if no diary is kept.
        calibrator: holds the temperature; ``test_step`` returns it with the undivided logits.
        multi_label: whether images may have several classes; labels are then bool (B, K).
        thresholds: (K,), the probability from which each class counts as predicted; None unless
            ``multi_label``. Each validation chooses them anew, and checkpoints keep them.
    """

    def __init__(
        self, class_names: Sequence[str], *, data: DataConfig, model: ModelConfig,
        training: TrainingConfig, finetune: FinetuneConfig,
        optimizer: OptimizerConfig | OwnOptimizerConfig,
        scheduler: SchedulerConfig | OwnSchedulerConfig, seed: int, metrics: Sequence[str] = (),
        pretrained: bool = True,
    ):  # fmt: skip
        super().__init__()
        self.class_names = list(class_names)
        self.data_config, self.model_config, self.optimizer_config = data, model, optimizer
        self.rate_per_device = training.lr_is == "per_device"
        self.seed = seed
        seed_weights(seed)
        self.model = build_model(
            model, channels=data.channels, size=data.size, class_names=class_names,
            outputs=count_outputs(training.loss, len(class_names)), pretrained=pretrained,
        ).to(memory_format=torch.channels_last)  # fmt: skip
        if finetune.lora:
            add_adapters(self.model, finetune.lora, torch.zeros(1, data.channels, *2 * [data.size]))
        self.objective = Objective(
            training.loss, training.label_smoothing, training.class_weights,
            training.focal_gamma or 0.0,
        )  # fmt: skip
        self.multi_label = training.loss == "multi_label"
        # after every validation: the probability from which a class counts as predicted
        thresholds = torch.full((len(class_names),), 0.5) if self.multi_label else None
        self.register_buffer("thresholds", thresholds)
        self.metric_names = tuple(metrics)
        self.train_metrics = self._build_metrics(detailed=False, soft=data.augment.mixes)
        self.val_metrics, self.test_metrics = (self._build_metrics() for _ in range(2))
        self.results: dict[str, float] = {}
        self.record: dict[int, dict[str, float]] = {}
        self.schedule = build_schedule(
            finetune, training.epochs, optimizer.lr, scheduler, self.model
        )
        self.phase: Phase = self.schedule.phases[0]
        self.uses_stored_features = False
        self.enter(self.phase)
        self._compiled_batch: int | None = None
        epochs = min(training.epochs or self.schedule.epochs, self.schedule.epochs)
        self.averaging = choose_rule(training, epochs)
        self.average: WeightAverage | None = None
        self._loaded_average: dict | None = None
        self.mirrors_tests = False
        self.diary: Diary | None = None
        self.calibrator = Calibrator(not self.multi_label)

    def _build_metrics(self, *, detailed: bool = True, soft: bool = False) -> Metrics:
        named = self.metric_names if detailed else ()
        kind = MultiLabelMetrics if self.multi_label else EpochMetrics
        return kind(self.class_names, detailed=detailed, soft=soft, named=named)

    def __setattr__(self, name: str, value: object) -> None:
        if name == "_current_fx_name":
            # Lightning notes the running hook, 50 times a step; torch would look for a parameter
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def enter(self, phase: Phase) -> None:
        """Start ``phase``: freeze and unfreeze groups; frozen parts go into evaluation mode."""
        self.phase = phase
        self.schedule.freeze(self.model, phase)
        self.train(self.training)

    def train(self, mode: bool = True) -> ClassifierModule:
        """Set the mode as usual, but keep frozen parts in evaluation mode."""
        super().train(mode)
        if mode and hasattr(self, "schedule"):
            self.schedule.set_modes(self.model)
        return self

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Build the optimizer over all groups, frozen ones too, so that any checkpoint fits."""
        chosen = self.optimizer_config
        groups = list_optimizer_groups(self.schedule.groups.values(), self.model, chosen)
        return build_optimizer(chosen, groups, fused=may_fuse(self.device, self._trainer))

    def on_fit_start(self) -> None:
        if self.averaging is not None:
            self.average = WeightAverage(self.model, self.averaging, self._loaded_average)
            self._loaded_average = None

    def use_average(self, use: bool) -> None:
        """Make the network hold the average of its weights, or the trained weights."""
        if self.average is not None:
            self.average.use(average=use)

    def on_train_batch_start(self, batch: dict, batch_idx: int) -> None:
        self.use_average(False)
        seed_batch(self.seed, self.current_epoch, batch_idx, self.global_rank, self.device)
        # batches that are accumulated into one step share its time, as one large batch would
        each = self.trainer.accumulate_grad_batches
        steps = -(-self.trainer.num_training_batches // each)
        time = self.current_epoch + (batch_idx // each) / steps
        self.set_rates(self.trainer.optimizers[0], time)

    def set_rates(self, optimizer: torch.optim.Optimizer, time: float) -> None:
        """Set the learning rate of every parameter group.

        Args:
            optimizer: its groups are changed.
            time: epochs since the start, with fractions.
        """
        scaled = self.rate_per_device and self._trainer is not None
        factor = float(self._trainer.world_size) if scaled else 1.0
        rates = self.schedule.rates(time, self.record)
        for group in optimizer.param_groups:
            group["lr"] = rates[group["name"]] * factor

    def compile_network(self, images: int, *, graphs: bool = False, deterministic: bool) -> None:
        """Compile the network for training steps on whole batches of ``images`` images.

        Smaller batches, stored features and evaluation run as usual: each would be compiled anew,
        and a step must not depend on what was compiled before it.

        Args:
            images: in this process.
            graphs: whether to record CUDA graphs.
            deterministic: whether equal runs must give equal bits.
        """
        self._compiled_batch = images
        compile_in_place(self.model, graphs=graphs, deterministic=deterministic)

    def compute_logits(self, batch: dict) -> Tensor:
        """Compute logits (B, K) or (B, 1) from a batch of images or of their stored features."""
        if self._compiled_batch is None:
            return self._compute_eagerly(batch)
        if self.training and len(batch.get("image", ())) == self._compiled_batch:
            return self.model(batch["image"])
        with torch.compiler.set_stance("force_eager"):
            return self._compute_eagerly(batch)

    def _compute_eagerly(self, batch: dict) -> Tensor:
        if "features" in batch:
            return self.model.from_features(batch["features"], batch["cut"])
        return self.model.forward_fast(batch["image"])

    def training_step(self, batch: dict, batch_idx: int) -> dict[str, Tensor]:
        """Return ``loss``, which is differentiated, and ``mean``, this process's mean loss."""
        logits, targets = self.compute_logits(batch), select_targets(batch)
        loss = self.objective(logits, targets)
        kept = slice(0, batch.get("counted"))
        mean, weight = loss.detach(), self._weight(batch) if "window" in batch else 1.0
        if len(targets[kept]):
            self.train_metrics.update(mean, logits.detach()[kept], targets[kept])
        if self.diary is not None:
            self.diary.take(logits, batch, batch_idx)
        return {"loss": loss * weight, "mean": mean}

    def _weight(self, batch: dict) -> Tensor | float:
        """Return the factor that makes one step equal one large batch.

        Lightning divides every loss by the number of batches it accumulates, even if the last
        step of an epoch has fewer, and DDP averages over processes.
        """
        if not batch["counted"]:
            return 0.0
        parts = self.trainer.accumulate_grad_batches * self.trainer.world_size
        divisor = self.objective.divisor
        return divisor(select_targets(batch)) * parts / divisor(batch["window"])

    def on_train_batch_end(self, outputs, batch: dict, batch_idx: int) -> None:
        if self.average is not None and self.trainer.global_step > self.average.steps:
            is_last = batch_idx + 1 == self.trainer.num_training_batches
            self.average.update(self.current_epoch, is_last)

    def on_validation_model_eval(self) -> None:
        """Average running statistics over the processes before validation.

        Each process has seen other batches, but all must evaluate and save the same network.
        """
        with torch.no_grad():
            for statistic in self._list_statistics() if self.trainer.world_size > 1 else ():
                torch.distributed.all_reduce(statistic)
                statistic /= self.trainer.world_size
        self.use_average(True)
        super().on_validation_model_eval()

    def _list_statistics(self) -> Iterator[Tensor]:
        """Yield the running statistics that training changes, and their averages."""
        for name, part in self.model.named_modules():
            if isinstance(part, _BatchNorm) and part.training and part.track_running_stats:
                yield from (part.running_mean, part.running_var)
                if self.average is not None:
                    for key in ("running_mean", "running_var"):
                        yield self.average.get(f"{name}.{key}")

    def validation_step(self, batch: dict, batch_idx: int) -> dict[str, Tensor]:
        return {"logits": self.calibrator.take(self._evaluate(self.val_metrics, batch), batch)}

    def on_validation_epoch_end(self) -> None:
        self.publish("val", self.val_metrics)
        self.results |= self.calibrator.end_validation()
        if self.multi_label:
            self.thresholds.copy_(self.val_metrics.thresholds)

    def test_step(self, batch: dict, batch_idx: int) -> dict:
        logits = self._evaluate(self.test_metrics, batch, mirrors=self.mirrors_tests)
        taken = self.calibrator.take(logits, batch)
        return {"logits": taken, TEMPERATURE: self.calibrator.temperature}

    def on_test_epoch_end(self) -> None:
        self.calibrator.end_test()
        if self.multi_label:
            self.test_metrics.given = self.thresholds
        self.publish("test", self.test_metrics)

    def _evaluate(self, metrics: Metrics, batch: dict, *, mirrors: bool = False) -> Tensor:
        logits = self.compute_logits(batch)
        if mirrors:
            mirrored = self.compute_logits({**batch, "image": batch["image"].flip(-1)})
            logits = average_predictions([logits, mirrored], several=self.multi_label)
        metrics.update(self.objective(logits, batch["label"]), logits, batch["label"])
        return logits

    def publish(self, stage: str, metrics: Metrics) -> None:
        """Compute metrics, keep them in ``results`` and pass loss and accuracy to Lightning.

        Lightning's callbacks watch ``val/loss``. For ``train``, ``convlens.callbacks.EpochLog``
        calls this: callbacks need the numbers, and their hooks at the end of an epoch run before
        the module's. Loggers do not get them here, because Lightning would log against optimizer
        steps instead of completed epochs.

        Args:
            stage: ``train``, ``val`` or ``test``.
            metrics: the stage's metrics.
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
        """Compute loss, accuracy and the other scores over a loader, outside Lightning's loops.

        Used for the network before training. Each module's mode is restored.

        Args:
            loader: yields batches; each is moved to the module's device.
            finish: turns such a batch into images in [0, 1].
        """
        metrics = self._build_metrics().to(self.device)
        with evaluation_mode(self), self.trainer.precision_plugin.forward_context():
            for batch in loader:
                self._evaluate(metrics, finish(move_data_to_device(batch, self.device)))
        return metrics.compute()

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        checkpoint["convlens_record"] = {epoch: dict(row) for epoch, row in self.record.items()}
        checkpoint["convlens_processes"] = self.trainer.world_size
        if self.average is not None:
            self.average.save(checkpoint, "model.")
        self.calibrator.save(checkpoint)

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        """Restore the record; ``convlens.experiment.resume`` checks that the checkpoint fits."""
        if any(value.dtype == torch.float64 for value in checkpoint["state_dict"].values()):
            self.double()  # Lightning converts it only after loading the weights
        rows = checkpoint.get("convlens_record", {}).items()
        self.record = {int(epoch): dict(row) for epoch, row in rows}
        self._loaded_average = checkpoint.get(KEY)
        self.calibrator.load(checkpoint)
