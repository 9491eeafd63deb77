"""User-defined classes, by their dotted name, as in every Hydra project.

A name is imported where a person typed it, or wrote it into a file that the typed ``config_dir=``
holds. Out of a checkpoint or a run folder, which may come from anybody, none is; and ``convlens.*``
is never looked up by name: what of ours may stand in a config is listed.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

from convlens.config.schema import TARGET, Config, Own
from convlens.core.errors import UserError

_OURS = "convlens."


def find_own_targets(plain: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The key and the value of every ``_target_`` that is none of ours, wherever it stands."""
    if isinstance(plain, list):
        plain = dict(enumerate(plain))
    for name, value in plain.items() if isinstance(plain, dict) else ():
        if name == TARGET and not (isinstance(value, str) and value.startswith(_OURS)):
            yield f"{prefix}{name}", value
        yield from find_own_targets(value, f"{prefix}{name}.")


def check_repeated(plain: dict, words: list[str], where: str) -> None:
    """Refuse a stored config's own classes, but those that a person names again.

    Args:
        plain: out of a checkpoint or a run folder.
        words: as typed.
        where: the file, for messages.

    Raises:
        UserError: a class that was not typed.
    """
    for name, value in find_own_targets(plain):
        repeated = f"{name}={str(value)[:80]}"
        if repeated not in words:
            ours = "one of convlens.callbacks" if name.startswith("callbacks.") else "none"
            raise UserError(
                f"{where}: {repeated}: {ours} is expected; no code that a file names is run: if "
                f"the class is your own, repeat {repeated}"
            )


def format_targets(config: Config) -> list[str]:
    """The words that name a config's own classes again, for one whose classes were checked."""
    return [f"{name}={value}" for name, value in find_own_targets(config.plain())]


def is_target(key: str) -> bool:
    """Whether a key with dots names a class."""
    return key.rpartition(".")[2] == TARGET


def find_owner(key: str, nodes: set[str]) -> str | None:
    """The node of a person's own that a key belongs to, among those of ``nodes``, or None."""
    return next((node for node in nodes if key.startswith(f"{node}.") and may_own(node)), None)


def may_own(node: str) -> bool:
    """Whether a class of a person's own may stand there."""
    group, _, name = node.partition(".")
    if group in ("callbacks", "logger"):
        return bool(name) and "." not in name
    return node in ("data", "model", "optimizer", "scheduler")


def instantiate(key: str, node: Own, *arguments: Any, **options: Any) -> Any:
    """What a person's class (or function) gives for a node's keys.

    Args:
        key: of the node, for messages, such as ``model``.
        arguments, options: what ours adds to the node's own.

    Raises:
        UserError: there is no such class, or it does not take such values.
    """
    given = {name: _made(f"{key}.{name}", value) for name, value in node.arguments.items()}
    kind = import_target(key, node.class_path)
    return call(key, node.class_path, kind, *arguments, **{**given, **options})


def _made(key: str, value: Any) -> Any:
    """A value, in which tables with a ``_target_`` of their own are what these make."""
    if isinstance(value, list):
        return [_made(f"{key}.{number}", each) for number, each in enumerate(value)]
    if not isinstance(value, dict):
        return value
    made = {name: _made(f"{key}.{name}", each) for name, each in value.items() if name != TARGET}
    return (
        call(key, value[TARGET], import_target(key, value[TARGET]), **made)
        if TARGET in value
        else made
    )


def call(key: str, path: str, kind: Any, *arguments: Any, **options: Any) -> Any:
    """``kind(…)``; convert any exception into a one-line UserError.

    Raises:
        UserError: anything was raised.
    """
    try:
        return kind(*arguments, **options)
    except UserError:
        raise
    except Exception as error:  # user-defined code may raise anything
        raise UserError(
            f"{key}: {path} does not take such values ({type(error).__name__}: {error})"
        ) from error


def import_target(key: str, path: str) -> Any:
    """The class (or function) of a dotted name.

    Raises:
        UserError: no module, or nothing in it by that name.
    """
    if path.startswith(_OURS):
        raise UserError(
            f"{key}._target_={path}: this key is for a class of your own, not of convlens"
        )
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except Exception as error:  # whatever a module does when it is imported
        raise UserError(
            f"{key}._target_={path}: it cannot be imported ({type(error).__name__}: {error}); a "
            f"module is looked for in config_dir and where Python finds modules"
        ) from error
