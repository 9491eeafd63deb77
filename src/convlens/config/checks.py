"""The range of every config key, in one table; a config from a file is held to it too.

What depends on the data or the network (a layer's name, a list's length) is checked by the part
that knows it. A key that a config lacks is not missed here: runs of old have fewer.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from convlens.core.errors import UserError, nearest

_MOST = 2**31 - 1  # of anything that is counted
NODES = 20_000  # values in a config: ours have some hundred
_DEEP = 20  # levels
_LARGEST = 2**64  # whole numbers in a file; larger ones fit no float and no tensor


@dataclass(frozen=True)
class Rule:
    """What a value has to be: a test, and the words for it.

    ``kinds``: it may be of several kinds, such as one value or a list, so that the kind of the
    default says nothing about what else is right; null, which any key may start with, is none.
    """

    fits: Callable[[Any], bool]
    wanted: str
    kinds: bool = False

    def __or__(self, other: Rule) -> Rule:
        return Rule(
            lambda value: self.fits(value) or other.fits(value),
            f"{self.wanted} or {other.wanted}",
            kinds=self is not NULL or other.kinds,
        )


def whole(least: int, most: int = _MOST) -> Rule:
    def fits(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most

    limit = "" if most == _MOST else f" and at most {most}"
    return Rule(fits, f"a whole number of at least {least}{limit}")


def _number(value: Any) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return abs(value) <= 1e30 and math.isfinite(value)  # of whole numbers a float can hold


def least(low: float) -> Rule:
    return Rule(lambda value: _number(value) and value >= low, f"a number of at least {low:g}")


def above(low: float) -> Rule:
    return Rule(lambda value: _number(value) and value > low, f"a number above {low:g}")


def between(low: float, high: float) -> Rule:
    return Rule(
        lambda value: _number(value) and low <= value <= high, f"a number in [{low}, {high}]"
    )


def below(low: float, high: float) -> Rule:
    return Rule(
        lambda value: _number(value) and low <= value < high, f"a number in [{low}, {high})"
    )


def one_of(*names: str) -> Rule:
    def fits(value: Any) -> bool:
        return isinstance(value, str | int) and not isinstance(value, bool) and str(value) in names

    return Rule(fits, " or ".join((", ".join(names[:-1]), names[-1]) if names[1:] else names))


def each(rule: Rule, count: int | None = None) -> Rule:
    def fits(value: Any) -> bool:
        right = isinstance(value, list) and (count is None or len(value) == count)
        return right and all(map(rule.fits, value))

    return Rule(fits, f"a list of {f'{count} values, ' if count else ''}each {rule.wanted}")


NULL = Rule(lambda value: value is None, "null")
SWITCH = Rule(lambda value: isinstance(value, bool), "true or false")
TEXT = Rule(lambda value: isinstance(value, str), "text")
TABLE = Rule(lambda value: isinstance(value, dict), "keys and values, {a: b}")
SHARE, PART = between(0, 1), below(0, 1)
WEIGHTS = Rule(
    lambda v: isinstance(v, list) and bool(v) and all(map(least(0).fits, v)) and sum(v) > 0,
    "a list of weights of at least 0, not all 0",
)
CALLBACK = Rule(
    lambda v: isinstance(v, str) and bool(re.fullmatch(r"convlens\.callbacks\.[A-Z]\w*", v)),
    "one of convlens.callbacks (code of your own comes in by Python, not by a config)",
)
SIDE = whole(1, 1000)  # of a kernel or window, in pixels
PADDING = one_of("valid", "same") | whole(0, 1000)
LAYERS = TEXT | each(TEXT)
ALL_DEVICES = Rule(lambda value: value == -1, "-1")
# of every config; `experiment` and `debug` leave no group of their own
GROUPS = ("data", "model", "training", "optimizer", "scheduler", "finetune", "callbacks", "trainer",
          "logger", "probes", "looking", "alarms")  # fmt: skip

RULES: dict[str, Rule] = {
    **dict.fromkeys((*GROUPS, "data.augment", "data.split"), TABLE),
    "model.head": TABLE | one_of("imagenet"),
    "experiment": TEXT,
    "seed": whole(0, 2**63 - 1),
    "precision": one_of("auto", "32", "bf16", "16", "64"),
    "run_dir": NULL | TEXT,
    "cache_features": one_of("auto", "always", "never"),
    "scores": one_of("default", "all"),
    "overwrite": SWITCH,
    "training.epochs": NULL | whole(1),
    "training.steps_per_epoch": NULL | whole(1),
    "training.early_stopping": NULL | whole(1),
    "training.batch_size": whole(1),
    "training.eval_batch_size": whole(1),
    "training.accumulate": whole(1),
    "training.validations": whole(1),
    "training.batch_size_is": one_of("global", "per_device"),
    "training.lr_is": one_of("global", "per_device"),
    "training.loss": one_of("cross_entropy", "binary"),
    "training.label_smoothing": PART,
    "training.class_weights": NULL | one_of("balanced") | WEIGHTS,
    "training.compile": SWITCH,
    "training.gradient_clip": NULL | above(0),
    "probes.count": whole(1),
    "probes.files": each(TEXT),
    "looking.*": least(0),
    "alarms.patience": whole(0),
    "alarms.overfitting_epochs": whole(1),
    "alarms.gap": SHARE,
    "alarms.gap_epochs": whole(1),
    "alarms.*": least(0),
    "optimizer.name": TEXT,
    "optimizer.lr": above(0),
    "optimizer.betas": each(PART, 2),
    "optimizer.alpha": PART,
    "optimizer.nesterov": SWITCH,
    "optimizer.*": least(0),
    "scheduler.name": one_of("constant", "cosine", "linear", "step", "exponential"),
    "scheduler.every": above(0),
    "scheduler.factor": above(0),
    "scheduler.*": least(0),
    "finetune.batch_norm": TEXT,
    "finetune.groups": NULL | TABLE,
    "finetune.phases": NULL | each(TABLE),
    # their limits are the schedule's own
    "finetune.phases.*.lr": above(0) | TABLE,
    "finetune.phases.*.until": NULL | TABLE,
    "finetune.groups.*": TEXT | each(TEXT) | TABLE,
    "trainer.accelerator": TEXT,
    "trainer.strategy": TEXT,
    "trainer.devices": TEXT | whole(1) | ALL_DEVICES | each(whole(0)),
    "trainer.num_nodes": whole(1),
    "trainer.log_every_n_steps": whole(1),
    "trainer.fast_dev_run": SWITCH,
    "logger.tensorboard": SWITCH,
    "data.name": TEXT,
    "data.size": whole(8, 8192),
    "data.channels": whole(1, 3),
    "data.pictures": whole(1),
    "data.classes": whole(1),
    "data.shortcut": SHARE,
    "data.dir": NULL | TEXT,
    "data.csv": NULL | TEXT,
    "data.pattern": NULL | TEXT,
    "data.masks": NULL | TEXT,
    "data.resize": TEXT,
    "data.interpolation": TEXT,
    "data.cache": TEXT,
    "data.on_error": one_of("raise", "skip"),
    # their limits are the augmentation's own
    "data.augment.fill": TEXT,
    "data.augment.random_resized_crop": NULL | each(above(0), 2),
    "data.augment.crop_ratio": each(above(0), 2),
    "data.augment.*_flip": SWITCH,
    "data.augment.*": least(0),
    "model.activation": TEXT,
    "model.initialisation": TEXT,
    "model.normalisation": TEXT | each(each(least(-1000))),
    "model.kernel_size": SIDE | each(SIDE),
    "model.stride": SIDE | each(SIDE),
    "model.pool_size": SIDE | each(SIDE),
    "model.padding": PADDING | each(PADDING),
    "model.pooling": TEXT | each(TEXT),
    "model.filters": each(whole(1, 65_536)),
    "model.dropout": PART,
    "model.batch_norm": SWITCH,
    "model.batch_norm_eps": above(0),
    "model.batch_norm_momentum": SHARE,
    "model.head.hidden": each(whole(1, 1_000_000)),
    "model.head.dropout": PART,
    "model.head.hidden_dropout": PART,
    "model.weights": TEXT,
    "model.head_classes": TEXT | each(whole(0, 999)),
    "callbacks.budget": least(0),
    "callbacks.*._target_": CALLBACK,
    "callbacks.*.batch": whole(1),
    "callbacks.*.every_n_epochs": whole(1),
    "callbacks.*.rule": one_of("reference", "shared"),
    "callbacks.*.recipe": one_of("robust", "plain"),
    "callbacks.*.which": one_of("default", "all"),
    "callbacks.*.method": TEXT,
    "callbacks.*.layers": LAYERS,
    "callbacks.*.layer": NULL | TEXT,
    "callbacks.*.target": TEXT,
    "callbacks.*.superpixels": SWITCH,
    "callbacks.*.masks": SWITCH,
    "callbacks.*.limit": whole(1),
    "callbacks.*.steps": whole(1, 100_000),
    "callbacks.*.segments": whole(1),
    "callbacks.*.pictures": whole(1),
    "callbacks.*.draws": whole(1, 1000),
    "callbacks.*.probes": whole(1),
    "callbacks.*.mistakes": whole(0),
    "callbacks.*.random": whole(0),
    "callbacks.*.units": whole(1),
    "callbacks.*.full_units": NULL | whole(0),
    "callbacks.*.patches": whole(0),
    "callbacks.*.patch_pictures": whole(0),
    "callbacks.*.step_size": above(0),
    "callbacks.*.window": above(0),
    "callbacks.*.stride": above(0),
    "callbacks.*.baseline": one_of("mean") | SHARE,
    "callbacks.*.border": SHARE,
    "callbacks.*.near": SHARE,
    "callbacks.*.confident": SHARE,
    "callbacks.*.only": one_of("correct", "wrong", "all"),
    "callbacks.*.options": TABLE,
}
TRAINER = {key.partition(".")[2] for key in RULES if key.startswith("trainer.")}


def check_config(config: dict) -> None:
    """Hold every value to its key's range; the first rule that a key matches counts.

    Raises:
        UserError: naming the key, its value and what is expected.
    """
    for key, value in _values(config):
        rule = rule_of(key)
        if rule is not None and not rule.fits(value):
            raise UserError(f"{key}={_shown(value)}: {rule.wanted} is expected")


def check_stored(config: Any, where: str) -> None:
    """The same for a config out of a file: whoever wrote it, it is data, and names no code.

    Args:
        where: the file, for messages.

    Raises:
        UserError: not a config, or one whose values nobody could have typed.
    """
    check_shape(config, where)
    for group in GROUPS:
        if not isinstance(config.get(group, {}), dict):
            raise UserError(f"{where}: {group}={_shown(config[group])}: keys below it are expected")
    for key in config.get("trainer", {}):
        if key not in TRAINER:
            raise UserError(f"{where}: trainer.{key}: no such key; {nearest(str(key), TRAINER)}")
    try:
        check_config(config)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def check_shape(config: Any, where: str, nodes: int = NODES) -> None:
    """A dictionary of plain values, and no larger than what we write.

    A kilobyte of YAML can name itself, or grow to gigabytes by naming its parts again and again.
    """
    if not isinstance(config, dict):
        raise UserError(f"{where} holds no table of keys")
    left, waiting = nodes, [(config, 0)]
    while waiting:
        value, depth = waiting.pop()
        left -= 1
        if left < 0 or depth > _DEEP:
            raise UserError(f"{where} holds more than {nodes} values or {_DEEP} levels")
        if isinstance(value, dict):
            if not all(isinstance(key, str) for key in value):
                raise UserError(f"{where} holds a key that is no text")
            waiting += [(inner, depth + 1) for inner in value.values()]
        elif isinstance(value, list | tuple):
            waiting += [(inner, depth + 1) for inner in value]
        elif value is not None and not isinstance(value, str | int | float):
            raise UserError(
                f"{where} holds a {type(value).__name__}: text and numbers are expected"
            )
        elif isinstance(value, int) and abs(value) > _LARGEST:
            raise UserError(f"{where} holds a whole number of {len(hex(value)) * 4} bits")


def _values(config: dict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        yield f"{prefix}{key}", value
        if isinstance(value, dict):
            yield from _values(value, f"{prefix}{key}.")


def rule_of(key: str) -> Rule | None:
    """The first rule that a key matches, if any."""
    if key in RULES:
        return RULES[key]
    depth = key.count(".")  # a star stands for one part of a key
    fitting = (p for p in RULES if "*" in p and p.count(".") == depth and fnmatchcase(key, p))
    return next((RULES[pattern] for pattern in fitting), None)


def _shown(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:80]}…"
