"""An explanation callback from its config, without obeying it: it may come from anybody."""

from __future__ import annotations

from convlens import callbacks
from convlens.callbacks import ExplanationCallback
from convlens.core.errors import UserError, nearest


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
