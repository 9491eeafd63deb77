"""The groups ``training``, ``optimizer``, ``scheduler``, ``trainer`` and ``finetune``.

A user writes each phase and each group of parameters as a whole, so no file in ``configs/`` can
hold defaults for the keys that an entry omits; those defaults are here.
"""

from __future__ import annotations

import sys
from typing import Annotated, Any

from convlens.config.schema.keys import (
    FRACTION_BELOW_1,
    NULL,
    SWITCH,
    TABLE,
    TEXT,
    Own,
    Rule,
    Slice,
    above,
    at_least,
    each,
    is_number,
    key,
    named,
    one_of,
    optional,
    whole,
)

ALL_DEVICES = Rule(lambda value: value == -1, "-1")
WEIGHTS = Rule(
    lambda v: isinstance(v, list) and bool(v) and all(map(at_least(0).fits, v)) and sum(v) > 0,
    "a list of weights of at least 0, not all 0",
)


DECAY_BELOW_1 = Rule(lambda v: is_number(v) and 0 < v < 1, "a number in (0, 1)")


class TrainingConfig(Slice):
    """How the network is trained, whatever the optimizer."""

    epochs: Annotated[int | None, NULL | whole(1)] = key(
        "epochs to train; null: as many as finetune.phases have"
    )
    steps_per_epoch: Annotated[int | None, NULL | whole(1)] = key(
        "batches per epoch; null: one pass over the training images"
    )
    batch_size: Annotated[int, whole(1)] = key("training images per batch")
    batch_size_is: Annotated[str, one_of("global", "per_device")] = key(
        "global: batch_size counts the images of all processes; per_device: those of each process"
    )
    accumulate: Annotated[int, whole(1)] = key(
        "batches whose gradients are averaged into one optimizer step"
    )
    lr_is: Annotated[str, one_of("global", "per_device")] = key(
        "global: use learning rates as given; per_device: multiply them by the number of processes"
    )
    eval_batch_size: Annotated[int, whole(1)] = key(
        "validation and test images per batch, in each process"
    )
    loss: Annotated[str, one_of("cross_entropy", "binary", "focal", "mse", "multi_label")] = key(
        "loss: cross_entropy, focal or mse (one logit per class), binary (one logit) or "
        "multi_label (binary cross-entropy for each class)"
    )
    focal_gamma: Annotated[float | None, at_least(0)] = optional(
        "training.loss=focal: exponent of 1 - p; 0: same as cross_entropy"
    )
    label_smoothing: Annotated[float, FRACTION_BELOW_1] = key(
        "label smoothing: fraction of the target spread over all classes"
    )
    class_weights: Annotated[str | list | None, NULL | one_of("balanced") | WEIGHTS] = key(
        "weights of the classes in the loss: null (equal), balanced or one number per class"
    )
    sampler: Annotated[str | None, one_of("shuffle", "balanced")] = optional(
        "training images of an epoch: shuffle (each once) or balanced (drawn with replacement, all "
        "classes equally often)"
    )
    validations: Annotated[int, whole(1)] = key(
        "validations per epoch, evenly spaced; the last one counts for the epoch"
    )
    compile: Annotated[bool | str, SWITCH | one_of("auto", "graphs")] = key(
        "compile the network with torch.compile; auto: on a GPU if the run is long enough to earn "
        "the time back; graphs: with CUDA graphs"
    )
    deterministic: Annotated[bool, SWITCH] = key(
        "use only kernels that give equal bits in equal runs"
    )
    early_stopping: Annotated[int | None, NULL | whole(1)] = key(
        "epochs without a lower val/loss after which training stops; null: never"
    )
    gradient_clip: Annotated[float | None, NULL | above(0)] = key(
        "largest norm of the gradient; null: no clipping"
    )
    ema: Annotated[float | None, NULL | DECAY_BELOW_1] = optional(
        "decay of the exponential moving average of the weights, which is evaluated, explained and "
        "saved; null: none"
    )
    swa: Annotated[int | None, NULL | whole(1)] = optional(
        "first epoch of stochastic weight averaging: the mean of the weights at the ends of epochs "
        "is evaluated, explained and saved; null: none"
    )


class OptimizerConfig(Slice):
    """An optimizer of torch or timm; only some optimizers have the keys after ``lr``."""

    name: Annotated[str, named("adam", "adamw", "sgd", "rmsprop")] = key(
        "optimizer: adam, adamw, sgd or rmsprop, set by optimizer=NAME; with optimizer=timm, any "
        "timm optimizer, such as lamb or muon"
    )
    library: Annotated[str | None, one_of("torch", "timm")] = optional(
        "library of the optimizer; set by optimizer=timm"
    )
    lr: Annotated[float, above(0)] = key(
        "learning rate after warm-up, in runs without finetune.phases"
    )
    betas: Annotated[list[float] | None, each(FRACTION_BELOW_1, 2)] = optional(
        "adam, adamw: decay of the averages of the gradient and of its square"
    )
    alpha: Annotated[float | None, FRACTION_BELOW_1] = optional(
        "rmsprop: decay of the average of the squared gradient"
    )
    eps: Annotated[float | None, at_least(0)] = optional(
        "adam, adamw, rmsprop: term added to the denominator"
    )
    momentum: Annotated[float | None, at_least(0)] = optional(
        "sgd, rmsprop, some timm optimizers: fraction of the previous step that is added"
    )
    nesterov: Annotated[bool | None, SWITCH] = optional("sgd: use Nesterov momentum")
    weight_decay: Annotated[float | None, at_least(0)] = optional(
        "weight decay: how strongly the weights are pulled to zero"
    )
    decayed: Annotated[str | None, one_of("all", "matrices")] = optional(
        "parameters that weight decay pulls: all, or matrices (without biases, norms, tokens and "
        "position embeddings)"
    )


class OwnOptimizerConfig(Own):
    """A user-defined optimizer, called with the parameter groups, lr and its own keys."""

    name: Annotated[str | None, TEXT] = optional("built-in optimizer that the class replaces")
    lr: Annotated[float, above(0)] = key(
        "learning rate after warm-up, in runs without finetune.phases"
    )


class SchedulerConfig(Slice):
    """How the learning rate falls; only some schedules have the keys after ``warmup_epochs``."""

    name: Annotated[str, one_of("constant", "cosine", "linear", "step", "exponential")] = key(
        "how the learning rate falls after warm-up: constant (not), cosine (slowly first and "
        "last), linear, step (drops) or exponential"
    )
    warmup_epochs: Annotated[float, at_least(0)] = key(
        "epochs of warm-up, during which the learning rate rises from zero"
    )
    floor: Annotated[float | None, at_least(0)] = optional(
        "cosine, linear: final learning rate, fraction of the rate after warm-up"
    )
    every: Annotated[float | None, above(0)] = optional(
        "step: epochs between two drops of the learning rate"
    )
    factor: Annotated[float | None, above(0)] = optional(
        "step: factor of the learning rate at each drop; exponential: factor per epoch"
    )


class OwnSchedulerConfig(Own):
    """A user-defined schedule: returns the factor of the learning rate at (time, epochs)."""

    name: Annotated[str | None, TEXT] = optional("built-in schedule that the class replaces")
    warmup_epochs: Annotated[float | None, at_least(0)] = optional(
        "epochs of warm-up, during which the learning rate rises from zero"
    )


class TrainerConfig(Slice):
    """Devices and processes, for Lightning's trainer."""

    accelerator: Annotated[str, TEXT] = key(
        "kind of device: auto, cpu, gpu, mps or another accelerator of Lightning"
    )
    devices: Annotated[
        str | int | list, TEXT | whole(1) | ALL_DEVICES | each(whole(0))
    ] = key("devices per machine: auto, a number, -1 for all, or a list of indices")  # fmt: skip
    strategy: Annotated[str, TEXT] = key(
        "how processes share the work: auto, ddp or another strategy of Lightning"
    )
    num_nodes: Annotated[int, whole(1)] = key("number of machines")
    log_every_n_steps: Annotated[int, whole(1)] = key(
        "optimizer steps between two values of the train_step/… scalars"
    )
    fast_dev_run: Annotated[bool, SWITCH] = key(
        "run one batch of training, validation and test; keep nothing"
    )


def _is_text_list(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(TEXT.fits, value))


def _has_keys(value: Any, *keys: str) -> bool:
    return isinstance(value, dict) and set(value) == set(keys)


GROUPS = Rule(_is_text_list, "a list of groups")
PATTERNS = Rule(lambda v: TEXT.fits(v) or _is_text_list(v), "a pattern or a list of patterns")
DECAY = Rule(lambda v: is_number(v) and 0 < v <= 1, "a number in (0, 1]")
# any finite rate: if it ruins the weights, training stops with an error that names the images
RATE = Rule(lambda v: is_number(v, sys.float_info.max) and v > 0, "a number above 0")
UNTIL = Rule(
    lambda v: v is None or _has_keys(v, "metric", "patience"),
    "null or {metric: …, patience: …}",
)


class StagesConfig(Slice):
    """Parameters that form one group per stage; earlier stages have lower learning rates."""

    match: Annotated[str | list[str], PATTERNS] = key("pattern of parameter names, or a list")
    stage_decay: Annotated[float, DECAY] = key(
        "factor from the learning rate of a stage to that of the stage before it"
    )


Group = Annotated[
    str | list[str] | StagesConfig,
    Rule(
        lambda v: PATTERNS.fits(v) or _has_keys(v, "match", "stage_decay"),
        "a pattern, a list of patterns or {match: …, stage_decay: …}",
        has_several_kinds=True,
    ).of(StagesConfig),
]


class PlateauConfig(Slice):
    """What ends a phase early."""

    metric: Annotated[str, TEXT] = key("metric to watch, such as val/loss")
    patience: Annotated[int, whole(1)] = key("epochs without a better value that end the phase")


class PhaseConfig(Slice):
    """Some epochs that train the same groups."""

    epochs: Annotated[int, whole(1)] = key("largest number of epochs in the phase")
    train: Annotated[list[str], GROUPS] = key("groups of parameters to train in the phase")
    lr: Annotated[float | dict[str, float] | None, RATE | TABLE] = optional(
        "learning rate of all groups in the phase, or {group: rate}"
    )
    augment: Annotated[bool, SWITCH] = key(
        "whether data.augment is applied to training images in the phase", default=True
    )
    warmup_epochs: Annotated[float, at_least(0)] = key(
        "epochs during which the rates of newly trained groups rise from zero", default=0.0
    )
    until: Annotated[PlateauConfig | None, UNTIL.of(PlateauConfig)] = optional(
        "plateau that ends the phase early; null: none"
    )


class LoraConfig(Slice):
    """Low-rank adapters in a frozen base (LoRA)."""

    rank: Annotated[int, whole(1, 65_536)] = key("rank of the adapters of LoRA")
    alpha: Annotated[float, above(0)] = key("LoRA adds alpha / rank times the adapters' product")
    dropout: Annotated[float, FRACTION_BELOW_1] = key(
        "fraction of an adapter's inputs dropped in training"
    )
    targets: Annotated[list[str], Rule(_is_text_list, "a list of layer names")] = key(
        "layers of the backbone that get an adapter: last parts of their paths, such as qkv"
    )


class FinetuneConfig(Slice):
    """Which parameters are trained in which epochs, and at which learning rate."""

    batch_norm: Annotated[str, named("frozen_eval", "eval", "train")] = key(
        "batch-norm layers that keep their statistics: frozen_eval (frozen ones), eval (all) or "
        "train (none)"
    )
    groups: Annotated[dict[str, Group] | None, (NULL | TABLE).of(dict[str, Group])] = key(
        "groups of parameters, {name: pattern}; a parameter joins the first group that matches"
    )
    phases: Annotated[
        list[PhaseConfig] | None, (NULL | each(TABLE)).of(list[PhaseConfig])
    ] = key("phases of the schedule, in order; null: train everything throughout")  # fmt: skip
    lora: Annotated[LoraConfig | None, (NULL | TABLE).of(LoraConfig)] = optional(
        "low-rank adapters (LoRA), which are trained in place of the layers they are added to"
    )
