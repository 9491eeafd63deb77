"""Every key of the config once: type, range, unit, meaning. No Hydra here, and no defaults."""

from convlens.config.schema.data import AugmentConfig, DataConfig, OwnDataConfig, SplitConfig
from convlens.config.schema.finetune import (
    FinetuneConfig,
    PhaseConfig,
    PlateauConfig,
    StagesConfig,
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
from convlens.config.schema.run import Config, LoggerConfig, OwnLoggerConfig
from convlens.config.schema.slices import TARGET, Own, Slice, name_of
from convlens.config.schema.training import (
    OptimizerConfig,
    OwnOptimizerConfig,
    OwnSchedulerConfig,
    SchedulerConfig,
    TrainerConfig,
    TrainingConfig,
)

__all__ = [
    "LOOKS",
    "OWN_HEAD",
    "TARGET",
    "AlarmsConfig",
    "AugmentConfig",
    "CallbacksConfig",
    "Config",
    "DataConfig",
    "FinetuneConfig",
    "HeadConfig",
    "LoggerConfig",
    "LookConfig",
    "LookingConfig",
    "ModelConfig",
    "OptimizerConfig",
    "Own",
    "OwnDataConfig",
    "OwnLoggerConfig",
    "OwnLookConfig",
    "OwnModelConfig",
    "OwnOptimizerConfig",
    "OwnSchedulerConfig",
    "PhaseConfig",
    "PlateauConfig",
    "ProbesConfig",
    "SchedulerConfig",
    "Slice",
    "SplitConfig",
    "StagesConfig",
    "TrainerConfig",
    "TrainingConfig",
    "name_of",
]
