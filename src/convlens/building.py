"""What a config or a checkpoint speaks of, built without obeying it: both may come from anybody."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager
from typing import Any

from convlens import callbacks
from convlens.callbacks import ExplanationCallback
from convlens.config_checks import check_stored
from convlens.errors import UserError, blaming, nearest
from convlens.training import ClassifierModule

log = logging.getLogger("convlens")


def callback_of(spec: dict) -> ExplanationCallback:
    """The callback that a config describes: one of convlens, by its name, with plain values.

    Hydra's ``instantiate`` would import and call whatever ``_target_`` says, in values too; but
    the config of a run or of a checkpoint may come from anybody.

    Raises:
        UserError: no such callback, or values that it does not take.
    """
    target = str(spec["_target_"])
    place, _, name = target.rpartition(".")
    known = {
        each: kind
        for each in callbacks.__all__
        if issubclass(kind := getattr(callbacks, each), ExplanationCallback)
        and kind is not ExplanationCallback
    }
    if place != "convlens.callbacks" or name not in known:
        raise UserError(
            f"callbacks: _target_={target} is no callback of convlens; {nearest(name, known)}"
        )
    options = {key: value for key, value in spec.items() if key != "_target_"}
    try:
        return known[name](**options)
    except (TypeError, ValueError) as error:
        raise UserError(f"callbacks: {name} does not take such values: {error}") from error


def restored(checkpoint: dict[str, Any], where: str, **training: Any) -> ClassifierModule:
    """The network of a checkpoint, with its weights.

    Args:
        checkpoint: as :func:`convlens.training.checkpoint.read_checkpoint` gives it.
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
