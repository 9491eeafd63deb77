"""The group ``logger``: TensorBoard, the trackers of experiments, and user-defined loggers."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import ConfigDict, Field, PlainValidator
from pydantic_core import PydanticCustomError

from convlens.config.schema.keys import (
    NULL,
    SWITCH,
    TABLE,
    TARGET,
    TEXT,
    Own,
    Slice,
    key,
    one_of,
    optional,
)

TRACKERS = ("wandb", "mlflow", "trackio")


class WandbConfig(Slice):
    """Weights & Biases."""

    mode: Annotated[str | None, NULL | one_of("offline", "online")] = key(
        "wandb: offline (files in the run folder) or online; null: $WANDB_MODE, else offline"
    )
    project: Annotated[str, TEXT] = key("wandb: name of the project")
    entity: Annotated[str | None, NULL | TEXT] = key(
        "wandb: user or team; null: the account's default"
    )


class MlflowConfig(Slice):
    """MLflow."""

    uri: Annotated[str | None, NULL | TEXT] = key(
        "mlflow: server or database; null: $MLFLOW_TRACKING_URI, else SQLite in the run folder"
    )
    experiment: Annotated[str, TEXT] = key("mlflow: name of the experiment")


class TrackioConfig(Slice):
    """Trackio."""

    dir: Annotated[str | None, NULL | TEXT] = key(
        "trackio: folder of the logs; null: $TRACKIO_DIR, else a folder in the run folder"
    )
    project: Annotated[str, TEXT] = key("trackio: name of the project")


class OwnLoggerConfig(Own):
    """A user-defined Lightning logger."""


def _validate_logger(value: Any) -> OwnLoggerConfig | None:
    if value is None:
        return None
    if not isinstance(value, dict) or TARGET not in value:
        raise PydanticCustomError("extra_forbidden", "")
    return OwnLoggerConfig.model_validate(value)


class LoggerConfig(Slice):
    """Where scalars and images are logged besides the run folder."""

    model_config = ConfigDict(extra="allow", frozen=True)
    __pydantic_extra__: dict[
        str, Annotated[OwnLoggerConfig | None, PlainValidator(_validate_logger)]
    ] = Field(init=False)

    tensorboard: Annotated[bool, SWITCH] = key("write an event file to <run_dir>/tensorboard")
    wandb: Annotated[WandbConfig | None, (NULL | TABLE).of(WandbConfig)] = optional(
        "Weights & Biases; null: not used"
    )
    mlflow: Annotated[MlflowConfig | None, (NULL | TABLE).of(MlflowConfig)] = optional(
        "MLflow; null: not used"
    )
    trackio: Annotated[TrackioConfig | None, (NULL | TABLE).of(TrackioConfig)] = optional(
        "trackio; null: not used"
    )

    @property
    def own(self) -> dict[str, OwnLoggerConfig]:
        """The user-defined loggers, by name."""
        return {name: each for name, each in (self.model_extra or {}).items() if each is not None}

    @property
    def trackers(self) -> list[str]:
        """The names of the trackers of the run."""
        return [name for name in TRACKERS if getattr(self, name) is not None]
