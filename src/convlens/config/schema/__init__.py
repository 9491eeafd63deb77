"""The schema: type, range, unit and meaning of every key; the defaults are in ``configs/``."""

from __future__ import annotations

from typing import Annotated

from convlens.config.schema.data import (
    AUGMENT_DETAILS,
    AugmentConfig,
    DataConfig,
    OwnDataConfig,
    SplitConfig,
)
from convlens.config.schema.diary import DiaryConfig
from convlens.config.schema.keys import (
    NULL,
    SWITCH,
    TABLE,
    TARGET,
    TEXT,
    Own,
    Slice,
    choose_slice,
    each,
    get_name,
    key,
    one_of,
    optional,
    whole,
)
from convlens.config.schema.loggers import (
    TRACKERS,
    LoggerConfig,
    MlflowConfig,
    OwnLoggerConfig,
    TrackioConfig,
    WandbConfig,
)
from convlens.config.schema.looks import (
    LOOKS,
    AlarmsConfig,
    CallbacksConfig,
    LookConfig,
    LookingConfig,
    OwnLookConfig,
    ProbesConfig,
)
from convlens.config.schema.model import OWN_HEAD, HeadConfig, ModelConfig, OwnModelConfig
from convlens.config.schema.training import (
    FinetuneConfig,
    LoraConfig,
    OptimizerConfig,
    OwnOptimizerConfig,
    OwnSchedulerConfig,
    PhaseConfig,
    PlateauConfig,
    SchedulerConfig,
    StagesConfig,
    TrainerConfig,
    TrainingConfig,
)


class Config(Slice):
    """All keys of a run, checked; each package receives the groups that it needs."""

    data: Annotated[DataConfig, choose_slice(DataConfig, OwnDataConfig)] = key(
        "source, size, split and augmentation of the images"
    )
    model: Annotated[ModelConfig, choose_slice(ModelConfig, OwnModelConfig)] = key(
        "backbone, weights and head of the network"
    )
    optimizer: Annotated[
        OptimizerConfig | OwnOptimizerConfig, choose_slice(OptimizerConfig, OwnOptimizerConfig)
    ] = key("optimizer and learning rate")
    scheduler: Annotated[
        SchedulerConfig | OwnSchedulerConfig, choose_slice(SchedulerConfig, OwnSchedulerConfig)
    ] = key("learning rate over the epochs")
    finetune: FinetuneConfig = key("which parameters are trained in which epochs")
    callbacks: CallbacksConfig = key("explanations during training")
    trainer: TrainerConfig = key("devices and processes")
    logger: LoggerConfig = key("where scalars and images are logged besides the run folder")
    seed: Annotated[int, whole(0, 2**63 - 1)] = key(
        "seed of weights, order, augmentation, dropout, splits and probes"
    )
    precision: Annotated[str | int, one_of("auto", "32", "bf16", "16", "64")] = key(
        "floating-point precision of training; auto: the fastest on this machine"
    )
    run_dir: Annotated[str | None, NULL | TEXT] = key(
        "folder of the run; null: outputs/<experiment>/<date_time>/"
    )
    cache_features: Annotated[str, one_of("auto", "always", "never")] = key(
        "whether to compute the features of a frozen base only once and store them"
    )
    scores: Annotated[str, one_of("default", "all")] = key(
        "which scores of the explanations to compute; sets callbacks.scores.which"
    )
    metrics: Annotated[list[str] | None, NULL | each(TEXT)] = optional(
        "further metrics of validation and test: names of torchmetrics, such as auroc, or top5"
    )
    overwrite: Annotated[bool, SWITCH] = key("replace the run that run_dir already contains")
    training: TrainingConfig = key("epochs, batches, loss and early stopping")
    diary: Annotated[DiaryConfig | None, (NULL | TABLE).of(DiaryConfig)] = optional(
        "the diary: what every training image did at every epoch; null: none"
    )
    probes: ProbesConfig = key("images that are explained throughout the run")
    looking: LookingConfig = key("time limits of the explanations")
    alarms: AlarmsConfig = key("thresholds of the alarms, which report problems of a run")
    experiment: Annotated[str, TEXT] = key("recipe that the config started from")
