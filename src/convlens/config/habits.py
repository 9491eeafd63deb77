"""Keys that people know from other projects, and what to type here instead.

The table is used only for unknown keys, so it never hides a key of the config or an argument of a
user-defined class.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from convlens.core.command_lines import command_line

_NUMBER = re.compile(r"-?\d+(\.\d*)?(e-?\d+)?", re.IGNORECASE)


@dataclass(frozen=True)
class Habit:
    """What to answer when a user types a key of another project.

    Attributes:
        key: the key to type instead; empty if none is needed.
        note: the reason, or anything else that helps.
        example: words with which the key composes; the first one is the key with a value.
    """

    key: str
    note: str = ""
    example: tuple[str, ...] = ()


_EPOCHS = Habit("training.epochs", example=("training.epochs=5",))
_BATCH = Habit("training.batch_size", example=("training.batch_size=32",))
_LR = Habit(
    "optimizer.lr",
    "with phases: finetune.phases.0.lr and so on",
    ("optimizer.lr=0.1",),
)
_SIZE = Habit("data.size", example=("data.size=96",))
_DATA_DIR = Habit("data.dir", example=("data.dir=data/mine",))
_RUN_DIR = Habit("run_dir", example=("run_dir=mine",))
_PRECISION = Habit("precision", "auto, 32, bf16, 16 or 64", ("precision=32",))
_DEVICES = Habit("trainer.devices", "or trainer=gpu, trainer=ddp", ("trainer.devices=2",))
_WEIGHTS = Habit("model.weights", "auto, none or a file", ("model.weights=none",))
_BACKBONE = Habit("model", "any network of timm: model=timm model.name=NAME", ("model=timm",))
_CONTINUE = Habit(
    "model.weights",
    f"to continue a run: `{command_line('resume', run='RUN_DIR')}`",
    ("model.weights=mine.ckpt",),
)
_ACCUMULATE = Habit("training.accumulate", example=("training.accumulate=2",))
_CLIP = Habit("training.gradient_clip", example=("training.gradient_clip=1.0",))
_STOP = Habit("training.early_stopping", example=("training.early_stopping=3",))
_STEPS = Habit("training.steps_per_epoch", example=("training.steps_per_epoch=5",))
_DATA = Habit("data", "your own images: data=image_folder data.dir=DIR", ("data=shapes",))
_SEED = Habit("seed", example=("seed=1",))
_DECAY = Habit("optimizer.weight_decay", example=("optimizer.weight_decay=0.01",))
_WORKERS = Habit("", "convlens loads images without workers")
_CLASSES = Habit("", "the number of classes comes from the data")
_POLICY = Habit(
    "data.augment.policy", "rand_augment or trivial_augment",
    ("data.augment.policy=rand_augment",),
)  # fmt: skip
_ERASING = Habit("data.augment.erasing", example=("data.augment.erasing=0.25",))
_EMA = Habit("training.ema", "the decay", ("training.ema=0.999",))
_SCHEDULER = Habit("scheduler", example=("scheduler=cosine",))

# name without dashes, or dotted key -> answer; a name also matches as a key of one of GROUPS
HABITS: dict[str, Habit] = {
    "epochs": _EPOCHS,
    "max_epochs": _EPOCHS,
    "num_epochs": _EPOCHS,
    "n_epochs": _EPOCHS,
    "batch_size": _BATCH,
    "train_batch_size": _BATCH,
    "bs": _BATCH,
    "lr": _LR,
    "learning_rate": _LR,
    "base_lr": _LR,
    "img_size": _SIZE,
    "image_size": _SIZE,
    "input_size": _SIZE,
    "crop_size": _SIZE,
    "imgsz": _SIZE,
    "data_dir": _DATA_DIR,
    "data_path": _DATA_DIR,
    "dataset_dir": _DATA_DIR,
    "root": _DATA_DIR,
    "num_workers": _WORKERS,
    "workers": _WORKERS,
    "n_workers": _WORKERS,
    "pin_memory": _WORKERS,
    "persistent_workers": _WORKERS,
    "prefetch_factor": _WORKERS,
    "num_classes": _CLASSES,
    "n_classes": _CLASSES,
    "ckpt": _CONTINUE,
    "ckpt_path": _CONTINUE,
    "checkpoint": _CONTINUE,
    "resume": _CONTINUE,
    "resume_from_checkpoint": _CONTINUE,
    "gpus": _DEVICES,
    "devices": _DEVICES,
    "num_gpus": _DEVICES,
    "device": Habit("trainer", "auto, cpu, gpu, mps, ddp", ("trainer=cpu",)),
    "accelerator": Habit("trainer.accelerator", example=("trainer.accelerator=cpu",)),
    "strategy": Habit("trainer.strategy", example=("trainer.strategy=ddp",)),
    "num_nodes": Habit("trainer.num_nodes", example=("trainer.num_nodes=2",)),
    "trainer.precision": _PRECISION,
    "training.precision": _PRECISION,
    "amp": _PRECISION,
    "fp16": _PRECISION,
    "bf16": _PRECISION,
    "hydra.run.dir": _RUN_DIR,
    "hydra.sweep.dir": _RUN_DIR,
    "default_root_dir": _RUN_DIR,
    "output_dir": _RUN_DIR,
    "out_dir": _RUN_DIR,
    "save_dir": _RUN_DIR,
    "log_dir": _RUN_DIR,
    "logdir": _RUN_DIR,
    "paths.output_dir": _RUN_DIR,
    "paths.log_dir": _RUN_DIR,
    "paths.data_dir": _DATA_DIR,
    "pretrained": _WEIGHTS,
    "arch": _BACKBONE,
    "architecture": _BACKBONE,
    "backbone": _BACKBONE,
    "model_name": _BACKBONE,
    "net": _BACKBONE,
    "optim": Habit("optimizer", example=("optimizer=sgd",)),
    "opt": Habit("optimizer", example=("optimizer=sgd",)),
    "sched": _SCHEDULER,
    "lr_scheduler": _SCHEDULER,
    "weight_decay": _DECAY,
    "wd": _DECAY,
    "momentum": Habit(
        "optimizer.momentum", "sgd and rmsprop", ("optimizer.momentum=0.9", "optimizer=sgd")
    ),
    "dropout": Habit("model.head.dropout", example=("model.head.dropout=0.5",)),
    "smoothing": Habit("training.label_smoothing", example=("training.label_smoothing=0.1",)),
    "label_smoothing": Habit("training.label_smoothing", example=("training.label_smoothing=0.1",)),
    "accumulate_grad_batches": _ACCUMULATE,
    "gradient_accumulation_steps": _ACCUMULATE,
    "gradient_clip_val": _CLIP,
    "clip_grad": _CLIP,
    "mixup": Habit("data.augment.mixup", example=("data.augment.mixup=0.2",)),
    "mixup_alpha": Habit("data.augment.mixup", example=("data.augment.mixup=0.2",)),
    "cutmix": Habit("data.augment.cutmix", example=("data.augment.cutmix=1.0",)),
    "cutmix_alpha": Habit("data.augment.cutmix", example=("data.augment.cutmix=1.0",)),
    "aa": _POLICY,
    "auto_augment": _POLICY,
    "reprob": _ERASING,
    "random_erase": _ERASING,
    "ema_decay": _EMA,
    "model_ema": _EMA,
    "model_ema_decay": _EMA,
    "patience": _STOP,
    "early_stopping": _STOP,
    "callbacks.early_stopping.patience": _STOP,
    "limit_train_batches": _STEPS,
    "fast_dev_run": Habit("debug", example=("debug=fast_dev_run",)),
    "dry_run": Habit("debug", example=("debug=fast_dev_run",)),
    "random_seed": _SEED,
    "manual_seed": _SEED,
    "dataset": _DATA,
    "datamodule": _DATA,
    "config": Habit("exp", example=("exp=scratch",)),
    "config_name": Habit("exp", example=("exp=scratch",)),
}  # fmt: skip
# groups of other projects, and ours, in which such a name may be typed
GROUPS = (
    "data", "datamodule", "dataset", "dataloader", "model", "net", "optimizer", "scheduler",
    "train", "trainer", "training", "args", "cfg", "config", "hparams",
)  # fmt: skip


def without_prefix(key: str) -> tuple[str, str]:
    """Return a key without its prefix of dashes, ``+`` or ``~``, and the prefix.

    >>> without_prefix("--data-dir")
    ('data_dir', '--')
    """
    name = key.lstrip("-+~")
    prefix = key[: len(key) - len(name)]
    return (name.replace("-", "_") if prefix.startswith("-") else name), prefix


def habit_of(key: str) -> Habit | None:
    """Return the answer to another project's key, typed with or without a group, or None."""
    name, _ = without_prefix(key)
    group, _, leaf = name.rpartition(".")
    habit = HABITS.get(name) or (HABITS.get(leaf) if group in GROUPS else None)
    return None if habit is None or habit.key == name else habit


def advice(word: str) -> str | None:
    """Return what to type instead of a word that is unknown here, or None.

    >>> advice("batch_size=32")
    'write training.batch_size=32'
    """
    key, _, value = word.partition("=")
    habit = habit_of(key)
    if habit is None:
        return None
    if not habit.key:
        return f"{habit.note}; leave it out"
    # repeat the value only if it surely means the same here
    is_same = _NUMBER.fullmatch(value) and any(map(_NUMBER.search, habit.example[:1]))
    if not is_same and not (habit.key.endswith("dir") and 0 < len(value) <= 60):
        value = "…"
    return f"write {habit.key}={value}" + (f" ({habit.note})" if habit.note else "")


def prefix_advice(word: str) -> str | None:
    """Return what to type instead of a word that begins with dashes, ``+`` or ``~``, or None.

    >>> prefix_advice("--data.size=96")
    'write data.size=96 without --'
    """
    key, equals, value = word.partition("=")
    name, prefix = without_prefix(key)
    if not prefix or not name:
        return None
    if "~" in prefix:
        return "keys cannot be removed; null removes a callback, such as callbacks.grad_cam=null"
    if known := advice(word):
        return known
    if "+" in prefix:
        return f"keys cannot be added or removed; write {name}=… without {prefix}"
    if len(name) == 1 and not equals:
        return None
    return f"write {name}={value if equals else '…'} without {prefix}"
