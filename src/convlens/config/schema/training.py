"""The groups ``training``, ``optimizer``, ``scheduler``, ``trainer`` and ``finetune``.

Phases and groups of parameters stand in lists and tables that a person writes whole, so no file of
``configs/`` holds what an entry leaves out; it is said here.
"""

from __future__ import annotations

import sys
from typing import Annotated, Any

from convlens.config.schema.keys import (
    NULL,
    PART,
    SWITCH,
    TABLE,
    TEXT,
    Own,
    Rule,
    Slice,
    above,
    each,
    is_number,
    key,
    least,
    one_of,
    optional_key,
    whole,
)

ALL_DEVICES = Rule(lambda value: value == -1, "-1")
WEIGHTS = Rule(
    lambda v: isinstance(v, list) and bool(v) and all(map(least(0).fits, v)) and sum(v) > 0,
    "a list of weights of at least 0, not all 0",
)


class TrainingConfig(Slice):
    """How the network is trained, whatever the optimizer."""

    epochs: Annotated[int | None, NULL | whole(1)] = key("null: as many as finetune.phases have")
    steps_per_epoch: Annotated[int | None, NULL | whole(1)] = key(
        "batches an epoch; null: one pass over the images"
    )
    batch_size: Annotated[int, whole(1)] = key("images of a step")
    batch_size_is: Annotated[str, one_of("global", "per_device")] = key(
        "global: over all processes together, per_device: in each"
    )
    accumulate: Annotated[int, whole(1)] = key("steps whose gradients make one move of the weights")
    lr_is: Annotated[str, one_of("global", "per_device")] = key(
        "global: as it stands, per_device: times the number of processes"
    )
    eval_batch_size: Annotated[int, whole(1)] = key("validation and test images, in each process")
    loss: Annotated[str, one_of("cross_entropy", "binary")] = key(
        "cross_entropy (K logits) or binary (one logit, two classes)"
    )
    label_smoothing: Annotated[float, PART] = key("share of the target spread over the classes")
    class_weights: Annotated[str | list | None, NULL | one_of("balanced") | WEIGHTS] = key(
        "null, balanced or one number a class"
    )
    validations: Annotated[int, whole(1)] = key("an epoch; the last one is the epoch's")
    compile: Annotated[bool, SWITCH] = key("torch.compile")
    early_stopping: Annotated[int | None, NULL | whole(1)] = key(
        "epochs without a lower val/loss until training stops; null: never"
    )
    gradient_clip: Annotated[float | None, NULL | above(0)] = key(
        "largest norm of the gradient; null: not clipped"
    )


class OptimizerConfig(Slice):
    """An optimizer of torch; the keys behind ``lr`` are those of some only."""

    name: Annotated[str, TEXT] = key("adam, adamw, sgd or rmsprop")
    lr: Annotated[float, above(0)] = key("learning rate, where there are no phases")
    betas: Annotated[list[float] | None, each(PART, 2)] = optional_key(
        "adam: decay of the two averages"
    )
    alpha: Annotated[float | None, PART] = optional_key("rmsprop: decay of the average")
    eps: Annotated[float | None, least(0)] = optional_key("added to the denominator")
    momentum: Annotated[float | None, least(0)] = optional_key("share of the move before")
    nesterov: Annotated[bool | None, SWITCH] = optional_key("sgd: Nesterov's momentum")
    weight_decay: Annotated[float | None, least(0)] = optional_key(
        "share of the weights taken away"
    )


class OwnOptimizerConfig(Own):
    """An optimizer of a person's own, called with the parameter groups, lr and its own keys."""

    name: Annotated[str | None, TEXT] = optional_key("of the group that the class stands in for")
    lr: Annotated[float, above(0)] = key("learning rate, where there are no phases")


class SchedulerConfig(Slice):
    """How the learning rate falls; the keys behind ``warmup_epochs`` are those of some only."""

    name: Annotated[str, one_of("constant", "cosine", "linear", "step", "exponential")] = key(
        "how the rate falls"
    )
    warmup_epochs: Annotated[float, least(0)] = key("over which the rate rises from zero")
    floor: Annotated[float | None, least(0)] = optional_key("cosine, linear: factor at the end")
    every: Annotated[float | None, above(0)] = optional_key("step: epochs between two falls")
    factor: Annotated[float | None, above(0)] = optional_key(
        "step: of each fall; exponential: an epoch"
    )


class OwnSchedulerConfig(Own):
    """A schedule of a person's own: (time, epochs) to the rate's factor behind the warm-up."""

    name: Annotated[str | None, TEXT] = optional_key("of the group that the class stands in for")
    warmup_epochs: Annotated[float | None, least(0)] = optional_key(
        "over which the rate rises from zero"
    )


class TrainerConfig(Slice):
    """Devices and processes, handed to Lightning's trainer."""

    accelerator: Annotated[str, TEXT] = key("auto, cpu, gpu, mps or another one of Lightning's")
    devices: Annotated[
        str | int | list, TEXT | whole(1) | ALL_DEVICES | each(whole(0))
    ] = key("auto, how many, -1 for all, or their numbers")  # fmt: skip
    strategy: Annotated[str, TEXT] = key("auto, ddp or another one of Lightning's")
    num_nodes: Annotated[int, whole(1)] = key("machines")
    log_every_n_steps: Annotated[int, whole(1)] = key("steps between two train_step/… scalars")
    fast_dev_run: Annotated[bool, SWITCH] = key("one batch of everything, nothing kept")


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(TEXT.fits, value))


def _has(value: Any, *keys: str) -> bool:
    return isinstance(value, dict) and set(value) == set(keys)


GROUPS = Rule(_is_texts, "a list of groups")
PATTERNS = Rule(lambda v: TEXT.fits(v) or _is_texts(v), "a pattern or a list of them")
DECAY = Rule(lambda v: is_number(v) and 0 < v <= 1, "a number in (0, 1]")
# a rate that spoils the weights is stopped when it does, with the images it came from
RATE = Rule(lambda v: is_number(v, sys.float_info.max) and v > 0, "a number above 0")
UNTIL = Rule(
    lambda v: v is None or _has(v, "metric", "patience"),
    "metric and patience are expected, or null",
)


class StagesConfig(Slice):
    """Parameters that become a group a stage of the backbone, early ones slower."""

    match: Annotated[str | list[str], PATTERNS] = key("pattern of parameters' names, or a list")
    stage_decay: Annotated[float, DECAY] = key("rate of a stage / rate of the next, in (0, 1]")


Group = Annotated[
    str | list[str] | StagesConfig,
    Rule(
        lambda v: PATTERNS.fits(v) or _has(v, "match", "stage_decay"),
        "a pattern or a list of patterns, or match and stage_decay",
        kinds=True,
    ).of(StagesConfig),
]


class PlateauConfig(Slice):
    """What ends a phase early."""

    metric: Annotated[str, TEXT] = key("such as val/loss")
    patience: Annotated[int, whole(1)] = key("epochs without a better value")


class PhaseConfig(Slice):
    """Some epochs with the same groups in training."""

    epochs: Annotated[int, whole(1)] = key("how many, at most")
    train: Annotated[list[str], GROUPS] = key("the groups in training")
    lr: Annotated[float | dict[str, float] | None, RATE | TABLE] = optional_key(
        "learning rate of all, or {group: rate}"
    )
    augment: Annotated[bool, SWITCH] = key(
        "whether training images are changed as data.augment says", default=True
    )
    warmup_epochs: Annotated[float, least(0)] = key(
        "over which the rates of newly trained groups rise from zero", default=0.0
    )
    until: Annotated[PlateauConfig | None, UNTIL.of(PlateauConfig)] = optional_key(
        "ends the phase when metric was not better for patience epochs"
    )


class FinetuneConfig(Slice):
    """What is trained when, at which rate."""

    batch_norm: Annotated[str, TEXT] = key(
        "frozen_eval (frozen layers keep their statistics), eval or train"
    )
    groups: Annotated[dict[str, Group] | None, (NULL | TABLE).of(dict[str, Group])] = key(
        "name: pattern of parameters; the first match wins, every parameter is in one"
    )
    phases: Annotated[
        list[PhaseConfig] | None, (NULL | each(TABLE)).of(list[PhaseConfig])
    ] = key("one after the other; null: everything is trained throughout")  # fmt: skip
