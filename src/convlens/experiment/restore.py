"""What a config or a checkpoint speaks of, built without obeying it: both may come from anybody."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager
from typing import Any

from convlens.config.checks import check_stored
from convlens.core.errors import blaming
from convlens.training import ClassifierModule

log = logging.getLogger("convlens")


def restored(checkpoint: dict[str, Any], where: str, **training: Any) -> ClassifierModule:
    """The network of a checkpoint, with its weights.

    Args:
        checkpoint: as :func:`convlens.training.survival.checkpoint.read_checkpoint` gives it.
        where: its file, for messages.
        training: keys of the config group ``training`` set anew, such as ``compile=False``.

    Raises:
        UserError: its config describes no network, or one that the weights do not fit.
    """
    told = checkpoint["hyper_parameters"]
    config, names = told["config"], told["class_names"]
    check_stored(config, where)
    with understood(where):
        config = {**config, "training": {**config["training"], **training}}
        module = ClassifierModule(config, list(names), pretrained=False)
        module.load_state_dict(checkpoint["state_dict"])
    return module


def understood(where: str) -> AbstractContextManager[None]:
    """Around what is built from a file's config.

    The values were checked one by one; that a key is missing or two do not go together is told
    by the parts that are built from them, each in its own way.

    Raises:
        UserError: anything was raised meanwhile; the traceback goes to the log.
    """
    return blaming(f"{where} does not describe a network that can be built", "was it changed?")
