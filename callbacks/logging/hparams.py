"""TensorBoard's HParams tab: the settings of each run beside its results."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as L
from convlens.callbacks.logging.writing import find_event_loggers, write_numbers
from convlens.callbacks.looks import Looks
from google.protobuf.json_format import ParseDict
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import metadata
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from convlens.config import schema
from convlens.data.augment import Augmentation
from convlens.training import ClassifierModule

# the same tags in every run, so that runs can be compared; the tab shows the last value of a tag,
# so the validation results of the best epoch need tags of their own
METRICS = {
    "best/val/loss": "val/loss, best epoch",
    "best/val/accuracy": "val/accuracy, best epoch",
    "test/loss": "test/loss",
    "test/accuracy": "test/accuracy",
}
Plain = str | float | bool | None


@dataclass(frozen=True)
class Settings:
    """The settings that distinguish runs: slices of the config by their names, and the seed.

    Attributes:
        model: the network.
        data: the data set.
        training: epochs, batch size and loss.
        finetune: groups and phases.
        optimizer: the optimizer.
        scheduler: the learning-rate schedule.
        seed: the seed of the run.
    """

    model: schema.ModelConfig
    data: schema.DataConfig
    training: schema.TrainingConfig
    finetune: schema.FinetuneConfig
    optimizer: schema.OptimizerConfig | schema.OwnOptimizerConfig
    scheduler: schema.SchedulerConfig | schema.OwnSchedulerConfig
    seed: int

    def hyperparameters(self, trained: int | None = None) -> dict[str, Plain]:
        """Return the settings that had an effect, by their names on the command line.

        ``augment`` says whether training images were augmented at random. ``finetune`` lists the
        groups that each phase trained, or is ``none`` without phases. ``optimizer.lr`` is missing
        if there are phases, because they have their own rates.

        Args:
            trained: number of phases that the run has reached; None for all.
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
    """Writes the run's hyperparameters and results for the HParams tab, after the test.

    ``SummaryWriter.add_hparams`` would open a second event directory, and TensorBoard would show a
    second run; this callback writes to the run's own. The run has already logged ``test/…``;
    ``best/val/…`` is written here, at the step of the tested network.

    Args:
        settings: the settings of the run.
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
        values = self.settings.hyperparameters(_count_trained_phases(pl_module))
        summaries = build_session_records(values, began=self._began, ended=time.time())
        tags = {tag: tag.removeprefix("best/") for tag in METRICS if tag.startswith("best/")}
        best = {tag: row[name] for tag, name in tags.items() if name in row}
        write_numbers(trainer, best, clock)
        for logger in find_event_loggers(trainer):
            for summary in summaries:
                logger.experiment._get_file_writer().add_summary(summary, clock)


def _count_trained_phases(module: L.LightningModule) -> int:
    """Return how many of the schedule's phases the run has reached."""
    assert isinstance(module, ClassifierModule), "only convlens runs have this callback"
    last = max(module.record, default=0)
    return module.schedule.phase_at(last, module.record)[0].number + 1


def build_session_records(
    values: Mapping[str, Plain], *, began: float, ended: float
) -> list[Summary]:
    """Return the three records that the HParams tab reads of a finished run.

    ``torch.utils.tensorboard.summary.hparams`` makes them too, but turns booleans into numbers and
    writes no times.

    Args:
        values: the hyperparameters by name.
        began: start of the run, in seconds since 1970.
        ended: end of the run, in seconds since 1970.
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


def _record(tag: str, content: dict[str, Any]) -> Summary:
    description = metadata.create_summary_metadata(ParseDict(content, HParamsPluginData()))
    return Summary(
        value=[Summary.Value(tag=tag, metadata=description, tensor=metadata.NULL_TENSOR)]
    )
