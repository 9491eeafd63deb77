"""The config group ``finetune``: parameter groups, and phases one after the other.

Phases and groups stand in lists and tables that a person writes whole, so no file of ``configs/``
holds what an entry leaves out; it is said here.
"""

from __future__ import annotations

import sys
from typing import Annotated, Any

from pydantic import Field

from convlens.config.schema.rules import (
    NULL,
    SWITCH,
    TABLE,
    TEXT,
    Rule,
    each,
    least,
    whole,
)
from convlens.config.schema.slices import Slice, key


def _is_patterns(value: Any) -> bool:
    listed = isinstance(value, list) and bool(value) and all(isinstance(v, str) for v in value)
    return isinstance(value, str) or listed


def _is_decay(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= 1


def _is_stages(value: Any) -> bool:
    return isinstance(value, dict) and set(value) == {"match", "stage_decay"}


def _is_rate(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and 0 < value <= sys.float_info.max


PATTERNS = Rule(_is_patterns, "a pattern or a list of them")
# a rate that spoils the weights is stopped when it does, with the images it came from
RATE = Rule(_is_rate, "a number above 0")
DECAY = Rule(_is_decay, "a number in (0, 1]")
GROUPS = Rule(
    lambda value: (
        isinstance(value, list) and bool(value) and all(isinstance(v, str) for v in value)
    ),
    "a list of groups",
)
UNTIL = Rule(
    lambda value: (
        value is None or (isinstance(value, dict) and set(value) == {"metric", "patience"})
    ),
    "metric and patience are expected, or null",
)


class StagesConfig(Slice):
    """Parameters that become a group a stage of the backbone, early ones slower."""

    match: Annotated[str | list[str], PATTERNS] = key("pattern of parameters' names, or a list")
    stage_decay: Annotated[float, DECAY] = key("rate of a stage / rate of the next, in (0, 1]")


class PlateauConfig(Slice):
    """What ends a phase early."""

    metric: Annotated[str, TEXT] = key("such as val/loss")
    patience: Annotated[int, whole(1)] = key("epochs without a better value")


class PhaseConfig(Slice):
    """Some epochs with the same groups in training."""

    epochs: Annotated[int, whole(1)] = key("how many, at most")
    train: Annotated[list[str], GROUPS] = key("the groups in training")
    lr: Annotated[float | dict[str, float] | None, RATE | TABLE] = Field(
        default=None, description="learning rate of all, or {group: rate}"
    )
    augment: Annotated[bool, SWITCH] = Field(
        default=True, description="whether training images are changed as data.augment says"
    )
    warmup_epochs: Annotated[float, least(0)] = Field(
        default=0.0, description="over which the rates of newly trained groups rise from zero"
    )
    until: Annotated[PlateauConfig | None, UNTIL.of(PlateauConfig)] = Field(
        default=None, description="ends the phase when metric was not better for patience epochs"
    )


GROUP = Rule(
    lambda value: _is_patterns(value) or _is_stages(value),
    "a pattern or a list of patterns, or match and stage_decay",
    kinds=True,
).of(StagesConfig)


class FinetuneConfig(Slice):
    """What is trained when, at which rate."""

    batch_norm: Annotated[str, TEXT] = key(
        "frozen_eval (frozen layers keep their statistics), eval or train"
    )
    groups: Annotated[
        dict[str, str | list[str] | StagesConfig] | None,
        (NULL | TABLE).of(dict[str, Annotated[str | list[str] | StagesConfig, GROUP]]),
    ] = key("name: pattern of parameters; the first match wins, every parameter is in one")
    phases: Annotated[
        list[PhaseConfig] | None, (NULL | each(TABLE)).of(list[PhaseConfig])
    ] = key("one after the other; null: everything is trained throughout")  # fmt: skip
