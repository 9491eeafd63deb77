"""What a config or a checkpoint speaks of, built without obeying it: both may come from anybody."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any

from convlens.config.checks import stored_config, with_values
from convlens.core.errors import blaming
from convlens.training import ClassifierModule

log = logging.getLogger("convlens")


def restored(
    checkpoint: dict[str, Any], where: str, words: Iterable[str] = (), **training: Any
) -> ClassifierModule:
    """The network of a checkpoint, with its weights.

    Args:
        checkpoint: as :func:`convlens.training.survival.checkpoint.read_checkpoint` gives it.
        where: its file, for messages.
        words: as typed; they may repeat a class of a person's own.
        training: keys of the config group ``training`` set anew, such as ``compile=False``.

    Raises:
        UserError: its config describes no network, or one that the weights do not fit.
    """
    told = checkpoint["hyper_parameters"]
    config = stored_config(told["config"], where, words)
    config = with_values(config, {f"training.{key}": value for key, value in training.items()})
    with understood(where):
        module = ClassifierModule(config, list(told["class_names"]), pretrained=False)
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
