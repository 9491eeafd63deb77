"""The module that a whole config describes: it gets its slices, its checkpoints the config."""

from __future__ import annotations

from collections.abc import Sequence

from convlens.config.migrate import dump_config
from convlens.config.schema import Config
from convlens.training import ClassifierModule


def build_module(
    config: Config, class_names: Sequence[str], *, pretrained: bool = True
) -> ClassifierModule:
    """The network with its loss, optimizer and schedule.

    Args:
        config: resolved.
        class_names: K names; the label is the index.
        pretrained: False leaves the weights as drawn, for a network whose weights come from a
            checkpoint.

    Raises:
        UserError: a value that cannot be built, naming its key.
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
        pretrained=pretrained,
    )
    module.save_hyperparameters({"config": dump_config(config), "class_names": module.class_names})
    return module


def store_config(module: ClassifierModule, config: Config) -> Config:
    """Checkpoints hold this config from now on, in which more is settled than when it was built."""
    module.hparams["config"] = dump_config(config)
    return config
