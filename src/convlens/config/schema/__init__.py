"""Every key of the config once: type, range, unit, meaning. No Hydra here, and no defaults."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import ConfigDict, Field, PlainValidator
from pydantic_core import PydanticCustomError

from convlens.config.schema.data import AugmentConfig, DataConfig, OwnDataConfig, SplitConfig
from convlens.config.schema.keys import (
    NULL,
    SWITCH,
    TARGET,
    TEXT,
    Own,
    Slice,
    choose_slice,
    get_name,
    key,
    one_of,
    whole,
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


class OwnLoggerConfig(Own):
    """A Lightning logger of a person's own."""


def _logger(value: Any) -> OwnLoggerConfig | None:
    if value is None:
        return None
    if not isinstance(value, dict) or TARGET not in value:
        raise PydanticCustomError("extra_forbidden", "")
    return OwnLoggerConfig.model_validate(value)


class LoggerConfig(Slice):
    """Where numbers and images are written besides the run folder."""

    model_config = ConfigDict(extra="allow", frozen=True)
    __pydantic_extra__: dict[str, Annotated[OwnLoggerConfig | None, PlainValidator(_logger)]] = (
        Field(init=False)
    )

    tensorboard: Annotated[bool, SWITCH] = key("events in <run_dir>/tensorboard")

    @property
    def own(self) -> dict[str, OwnLoggerConfig]:
        """A person's own loggers, by name."""
        return {name: each for name, each in (self.model_extra or {}).items() if each is not None}


class Config(Slice):
    """All keys of a run, checked; rooms receive their slices of it."""

    data: Annotated[DataConfig, choose_slice(DataConfig, OwnDataConfig)] = key("the images")
    model: Annotated[ModelConfig, choose_slice(ModelConfig, OwnModelConfig)] = key("the network")
    optimizer: Annotated[
        OptimizerConfig | OwnOptimizerConfig, choose_slice(OptimizerConfig, OwnOptimizerConfig)
    ] = key("how the weights move")
    scheduler: Annotated[
        SchedulerConfig | OwnSchedulerConfig, choose_slice(SchedulerConfig, OwnSchedulerConfig)
    ] = key("how the learning rate falls")
    finetune: FinetuneConfig = key("what is trained when")
    callbacks: CallbacksConfig = key("what looks")
    trainer: TrainerConfig = key("devices and processes")
    logger: LoggerConfig = key("where to write")
    seed: Annotated[int, whole(0, 2**63 - 1)] = key(
        "decides weights, order, augmentation, dropout, splits and probes"
    )
    precision: Annotated[str | int, one_of("auto", "32", "bf16", "16", "64")] = key(
        "auto takes what is fastest on this machine"
    )
    run_dir: Annotated[str | None, NULL | TEXT] = key("null: outputs/<experiment>/<date_time>/")
    cache_features: Annotated[str, one_of("auto", "always", "never")] = key(
        "whether features of a frozen base are computed once and stored"
    )
    scores: Annotated[str, one_of("default", "all")] = key("how many scores of the explanations")
    overwrite: Annotated[bool, SWITCH] = key("whether a run_dir that holds a run is taken")
    training: TrainingConfig = key("how it is trained")
    probes: ProbesConfig = key("the images explained")
    looking: LookingConfig = key("what looking may cost")
    alarms: AlarmsConfig = key("when something is wrong")
    experiment: Annotated[str, TEXT] = key("the recipe it began with")
