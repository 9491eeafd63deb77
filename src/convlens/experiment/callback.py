"""Callbacks and loggers from their config, without obeying it: it may come from anybody.

Ours are taken from a list by their class's name: Hydra's ``instantiate`` would import and call
whatever ``_target_`` says, in values too. A person's own are imported by their dotted name, which
that person has typed, see :mod:`convlens.config.targets`.
"""

from __future__ import annotations

import pytorch_lightning as L
from pytorch_lightning.loggers import Logger

from convlens import callbacks
from convlens.callbacks import ExplanationCallback
from convlens.config.schema import CallbacksConfig, LoggerConfig, LookConfig, OwnLookConfig
from convlens.config.targets import find, make
from convlens.core.errors import UserError


def looks_of(asked: CallbacksConfig) -> list[ExplanationCallback]:
    """The callbacks that look, in the order of looking.

    Raises:
        UserError: values that one does not take, or a class that is none.
    """
    return [_made(name, look) for name, look in asked.looks.items() if _explains(name, look)]


def others_of(asked: CallbacksConfig) -> list[L.Callback]:
    """A person's own callbacks that explain nothing.

    Raises:
        UserError: values that one does not take, or a class that is none.
    """
    return [_made(name, look) for name, look in asked.looks.items() if not _explains(name, look)]


def loggers_of(asked: LoggerConfig) -> list[Logger]:
    """A person's own loggers.

    Raises:
        UserError: values that one does not take, or a class that is none.
    """
    made = {name: make(f"logger.{name}", node) for name, node in asked.own.items()}
    for name, logger in made.items():
        if not isinstance(logger, Logger):
            raise UserError(
                f"logger.{name}._target_={asked.own[name].class_path}: it makes no logger of "
                f"Lightning"
            )
    return list(made.values())


def _explains(name: str, look: LookConfig | OwnLookConfig) -> bool:
    if isinstance(look, LookConfig):
        return True
    kind = find(f"callbacks.{name}", look.class_path)
    return isinstance(kind, type) and issubclass(kind, ExplanationCallback)


def _made(name: str, look: LookConfig | OwnLookConfig) -> L.Callback:
    if isinstance(look, OwnLookConfig):
        made = make(f"callbacks.{name}", look)
        if not isinstance(made, L.Callback):
            raise UserError(
                f"callbacks.{name}._target_={look.class_path}: it makes no callback of Lightning"
            )
        return made
    kind = look.class_path.rpartition(".")[2]
    try:
        return getattr(callbacks, kind)(**look.arguments)
    except (TypeError, ValueError) as error:
        raise UserError(f"callbacks: {kind} does not take such values: {error}") from error
