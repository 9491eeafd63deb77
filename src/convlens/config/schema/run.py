"""The whole config of a run: its groups, and the few keys that belong to none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import ConfigDict, Field, GetCoreSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from convlens.config.schema.data import DataConfig, OwnDataConfig
from convlens.config.schema.finetune import FinetuneConfig
from convlens.config.schema.looks import AlarmsConfig, CallbacksConfig, LookingConfig, ProbesConfig
from convlens.config.schema.model import ModelConfig, OwnModelConfig
from convlens.config.schema.rules import NULL, SWITCH, TABLE, TEXT, one_of, whole
from convlens.config.schema.slices import TARGET, Either, Own, Slice, key
from convlens.config.schema.training import (
    OptimizerConfig,
    OwnOptimizerConfig,
    OwnSchedulerConfig,
    SchedulerConfig,
    TrainerConfig,
    TrainingConfig,
)


class OwnLoggerConfig(Own):
    """A Lightning logger of a person's own."""


@dataclass(frozen=True)
class _Logger:
    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self._made)

    @staticmethod
    def _made(value: Any) -> OwnLoggerConfig | None:
        if value is None:
            return None
        if not isinstance(value, dict) or TARGET not in value:
            raise PydanticCustomError("extra_forbidden", "")
        return OwnLoggerConfig.model_validate(value)


class LoggerConfig(Slice):
    """Where numbers and images are written besides the run folder."""

    model_config = ConfigDict(extra="allow", frozen=True)
    __pydantic_extra__: dict[str, Annotated[OwnLoggerConfig | None, _Logger()]] = Field(init=False)

    tensorboard: Annotated[bool, SWITCH] = key("events in <run_dir>/tensorboard")

    @property
    def own(self) -> dict[str, OwnLoggerConfig]:
        """A person's own loggers, by name."""
        return {name: each for name, each in (self.model_extra or {}).items() if each is not None}


class Config(Slice):
    """All keys of a run, checked; rooms receive their slices of it."""

    data: Annotated[DataConfig, Either(DataConfig, OwnDataConfig)] = key("the images")
    model: Annotated[ModelConfig, Either(ModelConfig, OwnModelConfig)] = key("the network")
    optimizer: Annotated[
        OptimizerConfig | OwnOptimizerConfig, Either(OptimizerConfig, OwnOptimizerConfig)
    ] = key("how the weights move")
    scheduler: Annotated[
        SchedulerConfig | OwnSchedulerConfig, Either(SchedulerConfig, OwnSchedulerConfig)
    ] = key("how the learning rate falls")
    finetune: Annotated[FinetuneConfig, TABLE.of(FinetuneConfig)] = key("what is trained when")
    callbacks: Annotated[CallbacksConfig, TABLE.of(CallbacksConfig)] = key("what looks")
    trainer: Annotated[TrainerConfig, TABLE.of(TrainerConfig)] = key("devices and processes")
    logger: Annotated[LoggerConfig, TABLE.of(LoggerConfig)] = key("where to write")
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
    training: Annotated[TrainingConfig, TABLE.of(TrainingConfig)] = key("how it is trained")
    probes: Annotated[ProbesConfig, TABLE.of(ProbesConfig)] = key("the images explained")
    looking: Annotated[LookingConfig, TABLE.of(LookingConfig)] = key("what looking may cost")
    alarms: Annotated[AlarmsConfig, TABLE.of(AlarmsConfig)] = key("when something is wrong")
    experiment: Annotated[str, TEXT] = key("the recipe it began with")
