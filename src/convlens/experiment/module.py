"""Build the module of a config, from parts of it; the module's checkpoints store all of it."""

from __future__ import annotations

from collections.abc import Sequence

from convlens.config.migrate import dump_config
from convlens.config.schema import Config
from convlens.training import ClassifierModule


def build_module(
    config: Config, class_names: Sequence[str], *, pretrained: bool = True
) -> ClassifierModule:
    """Return the network with its loss, optimizer and schedule.

    Args:
        config: resolved.
        class_names: K names; a label is an index into them.
        pretrained: False keeps the random initial weights, because a checkpoint will be loaded.

    Raises:
        UserError: nothing can be built from a value; the error names its key.
    """
    module = ClassifierModule(
        class_names,
        data=config.data,
        model=config.model,
        training=config.training,
        finetune=config.finetune,
        optimizer=config.optimizer,
        scheduler=config.scheduler,
        seed=config.seed,
        metrics=config.metrics or (),
        pretrained=pretrained,
    )
    module.save_hyperparameters({"config": dump_config(config), "class_names": module.class_names})
    return module


def store_config(module: ClassifierModule, config: Config) -> Config:
    """Return a config, and make later checkpoints contain its newly resolved values."""
    module.hparams["config"] = dump_config(config)
    return config
