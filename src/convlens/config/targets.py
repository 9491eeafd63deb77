"""User-defined classes, which a config names with ``_target_`` as in every Hydra project.

A class is imported only if the user typed its name, or if a file in the typed ``config_dir=``
contains it. Checkpoints and run folders may come from anybody, so a name in them is not enough.
Names in ``convlens.*`` are never imported: the schema lists our own classes that a config may name.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

from convlens.config.schema import TARGET, Config, Own
from convlens.core.errors import UserError

_OURS = "convlens."


def find_own_targets(plain: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted key and the value of every ``_target_`` that is not one of our classes.

    Args:
        plain: a config, or a part of it.
        prefix: the dotted key of that part, with a dot at its end.
    """
    if isinstance(plain, list):
        plain = dict(enumerate(plain))
    for name, value in plain.items() if isinstance(plain, dict) else ():
        if name == TARGET and not (isinstance(value, str) and value.startswith(_OURS)):
            yield f"{prefix}{name}", value
        yield from find_own_targets(value, f"{prefix}{name}.")


def check_repeated(plain: dict, words: list[str], where: str) -> None:
    """Refuse the user-defined classes of a stored config that the user did not type again.

    Args:
        plain: the config from a checkpoint or a run folder.
        words: the words as typed.
        where: the file, for messages.

    Raises:
        UserError: the config names a class that was not typed.
    """
    for name, value in find_own_targets(plain):
        word = f"{name}={str(value)[:80]}"
        if word not in words:
            ours = "not in convlens.callbacks, and " if name.startswith("callbacks.") else ""
            raise UserError(
                f"{where}: {word}: {ours}code that a file names is not run; if the class is your "
                f"own, repeat {word}"
            )


def format_targets(config: Config) -> list[str]:
    """Return the words that repeat the user-defined classes of a config already checked."""
    return [f"{name}={value}" for name, value in find_own_targets(config.plain())]


def is_target(key: str) -> bool:
    """Return whether a dotted key names a class."""
    return key.rpartition(".")[2] == TARGET


def find_owner(key: str, nodes: set[str]) -> str | None:
    """Return the node of a user-defined class that a dotted key belongs to, or None.

    Args:
        key: the dotted key.
        nodes: dotted keys of the nodes that name a class.
    """
    return next(
        (node for node in nodes if key.startswith(f"{node}.") and accepts_own_class(node)), None
    )


def accepts_own_class(node: str) -> bool:
    """Return whether a node, given by its dotted key, may name a user-defined class."""
    group, _, name = node.partition(".")
    if group in ("callbacks", "logger"):
        return bool(name) and "." not in name
    return node in ("data", "model", "optimizer", "scheduler")


def instantiate(key: str, node: Own, *arguments: Any, **options: Any) -> Any:
    """Return the result of calling a user-defined class or function with a node's keys.

    Args:
        key: the dotted key of the node, for messages, such as ``model``.
        node: the class and its arguments.
        *arguments: further arguments.
        **options: further keyword arguments; they override the node's.

    Raises:
        UserError: there is no such class, or it does not accept the values.
    """
    own = {name: _instantiate_inner(f"{key}.{name}", each) for name, each in node.arguments.items()}
    kind = import_target(key, node.class_path)
    return call(key, node.class_path, kind, *arguments, **{**own, **options})


def _instantiate_inner(key: str, value: Any) -> Any:
    """Return a value in which every table with a ``_target_`` is replaced by its instance."""
    if isinstance(value, list):
        return [_instantiate_inner(f"{key}.{index}", each) for index, each in enumerate(value)]
    if not isinstance(value, dict):
        return value
    table = {
        name: _instantiate_inner(f"{key}.{name}", each)
        for name, each in value.items() if name != TARGET
    }  # fmt: skip
    if TARGET not in value:
        return table
    return call(key, value[TARGET], import_target(key, value[TARGET]), **table)


def call(key: str, path: str, kind: Any, *arguments: Any, **options: Any) -> Any:
    """Call a user-defined class or function; convert any exception into a UserError.

    Args:
        key: the dotted key of its node, for messages.
        path: the dotted name of the class, for messages.
        kind: the class or function.
        *arguments: its arguments.
        **options: its keyword arguments.

    Raises:
        UserError: the call raised an exception.
    """
    try:
        return kind(*arguments, **options)
    except UserError:
        raise
    except Exception as error:  # user-defined code may raise anything
        raise UserError(
            f"{key}: {path} does not accept these values ({type(error).__name__}: {error})"
        ) from error


def import_target(key: str, path: str) -> Any:
    """Import the class or function with a dotted name.

    Args:
        key: the dotted key of its node, for messages.
        path: the dotted name.

    Raises:
        UserError: there is no such module, it contains no such name, or it is one of our modules.
    """
    if path.startswith(_OURS):
        raise UserError(
            f"{key}._target_={path}: this key is for a class of your own, not one of convlens"
        )
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except Exception as error:  # user-defined code may raise anything
        raise UserError(
            f"{key}._target_={path} cannot be imported ({type(error).__name__}: {error}); put its "
            f"module into config_dir or onto Python's search path"
        ) from error
