"""TensorBoard's HParams tab: what a run was made with beside what came out of it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import pytorch_lightning as L
from convlens.callbacks.logging.writing import event_loggers
from convlens.callbacks.looks import Looks
from google.protobuf.json_format import ParseDict
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import metadata
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from convlens.config import schema
from convlens.data.augment import Augmentation

# the same tags in every run, so that runs can be compared; the tab shows a tag's last value,
# which for the validation of the best epoch no other tag has
METRICS = {
    "best/val/loss": "val/loss, best epoch",
    "best/val/accuracy": "val/accuracy, best epoch",
    "test/loss": "test/loss",
    "test/accuracy": "test/accuracy",
}
Plain = str | float | bool


@dataclass(frozen=True)
class Settings:
    """What a run is made with, as far as runs are told apart by it.

    Attributes:
        seed: of the run; the others are the slices of its config by that name.
    """

    model: schema.ModelConfig
    data: schema.DataConfig
    training: schema.TrainingConfig
    finetune: schema.FinetuneConfig
    optimizer: schema.OptimizerConfig | schema.OwnOptimizerConfig
    scheduler: schema.SchedulerConfig | schema.OwnSchedulerConfig
    seed: int

    def hyperparameters(self, trained: int | None = None) -> dict[str, Plain]:
        """The few settings by their names on the command line.

        Only what had an effect: ``augment`` says whether anything random acted on training
        pictures, ``finetune`` which groups each phase trained, ``none`` where there are no phases;
        ``optimizer.lr`` is there without phases, which have rates of their own.

        Args:
            trained: phases that the run has come to; None for all.
        """
        phases = (self.finetune.phases or [])[:trained]
        augmented = not phases or any(phase.augment for phase in phases)
        rate = {} if phases else {"optimizer.lr": self.optimizer.lr}
        return {
            "model.name": self.model.name,
            "optimizer.name": schema.get_name(self.optimizer),
            **rate,
            "scheduler.name": schema.get_name(self.scheduler),
            "training.batch_size": self.training.batch_size,
            "training.epochs": self.training.epochs,
            "seed": self.seed,
            "data.name": self.data.name,
            "data.size": self.data.size,
            "augment": augmented and Augmentation(self.data.augment).active,
            "finetune": " > ".join("+".join(phase.train) for phase in phases) or "none",
        }


class HParams(L.Callback):
    """Writes, behind the test, the run's hyper-parameters and its results for the HParams tab.

    ``SummaryWriter.add_hparams`` would open a second event directory, and TensorBoard would show a
    second run; here all goes into the run's own. ``test/…`` is what the run has logged under these
    tags; ``best/val/…``, at the step of the tested network, is written here.

    Args:
        settings: of the run.
    """

    def __init__(self, settings: Settings):
        self.settings = settings
        self._began = time.time()

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        looks = Looks.of(trainer)
        clock = trainer.current_epoch if looks.tested is None else looks.tested
        row = next((row for row in looks.history if row["epoch"] == clock), {})
        values = self.settings.hyperparameters(_phases_trained(pl_module))
        summaries = session(values, began=self._began, ended=time.time())
        for logger in event_loggers(trainer):
            for tag in METRICS:
                if tag.startswith("best/") and tag.removeprefix("best/") in row:
                    logger.experiment.add_scalar(tag, row[tag.removeprefix("best/")], clock)
            for summary in summaries:
                logger.experiment._get_file_writer().add_summary(summary, clock)


def _phases_trained(module: L.LightningModule) -> int:
    """How many of the schedule's phases a run has come to."""
    last = max(module.record, default=0)
    return module.schedule.phase_at(last, module.record)[0].number + 1


def session(values: Mapping[str, Plain], *, began: float, ended: float) -> list[Summary]:
    """The three records that the HParams tab reads of a finished run.

    ``torch.utils.tensorboard.summary.hparams`` makes them too, but takes true and false for
    numbers and tells no times.

    Args:
        began, ended: seconds since 1970.
    """
    kinds = {bool: "DATA_TYPE_BOOL", str: "DATA_TYPE_STRING"}
    experiment = {
        "hparam_infos": [
            {"name": name, "type": kinds.get(type(value), "DATA_TYPE_FLOAT64")}
            for name, value in values.items()
        ],
        "metric_infos": [
            {"name": {"tag": tag}, "display_name": name} for tag, name in METRICS.items()
        ],
    }
    start = {"hparams": dict(values), "start_time_secs": began}
    end = {"status": "STATUS_SUCCESS", "end_time_secs": ended}
    return [
        _record(metadata.EXPERIMENT_TAG, {"experiment": experiment}),
        _record(metadata.SESSION_START_INFO_TAG, {"session_start_info": start}),
        _record(metadata.SESSION_END_INFO_TAG, {"session_end_info": end}),
    ]


def _record(tag: str, content: dict) -> Summary:
    about = metadata.create_summary_metadata(ParseDict(content, HParamsPluginData()))
    return Summary(value=[Summary.Value(tag=tag, metadata=about, tensor=metadata.NULL_TENSOR)])
