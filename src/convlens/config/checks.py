"""Check plain values against the schema; every error is one line that names the key.

Checks that depend on the data or the network, such as a layer's name, are in other packages.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, get_args, get_origin

from pydantic import ValidationError

from convlens.config.migrate import migrate_config
from convlens.config.schema import LOOKS, CallbacksConfig, Config, Own, Slice
from convlens.config.schema.keys import TABLE, Rule
from convlens.config.targets import check_repeated
from convlens.core.errors import UserError, nearest

NODES = 20_000  # largest number of values in a config; ours have a few hundred
_MOST_LEVELS = 20
_LARGEST = 2**64  # largest whole number in a file; much larger ones fit into no float or tensor
# the config groups with keys of their own; `experiment` and `debug` have none
GROUPS = tuple(name for name in Config.model_fields if name not in (
    "seed", "precision", "run_dir", "cache_features", "scores", "metrics", "overwrite", "experiment"
))  # fmt: skip
NULLABLE = ("diary",)  # the groups that a run may be without
# by the type of the default: the types that a value may have, and their description
KINDS = {
    bool: (bool, "true or false"),
    int: (int, "a whole number"),
    float: (int | float, "a number"),
    list: (list, "a list, [a, b]"),
    dict: (dict, "a table with the keys "),
    str: (str | int | float | list, "one value"),
}


def check_config(plain: dict) -> Config:
    """Return the config with these values.

    Raises:
        UserError: a key or value is wrong; the message names the first one and what is expected.
    """
    try:
        return Config.model_validate(plain)
    except ValidationError as error:
        raise UserError(_format_error(error.errors(include_url=False)[0])) from None


def check_kind(key: str, default: Any, value: Any, text: str) -> None:
    """Check that a value has the same kind as the default.

    If the default is null, any value passes. If the key accepts several kinds, its rule decides.

    Raises:
        UserError: the value has another kind.
    """
    if default is None or value is None:
        return
    rule, kind = find_rule(key), type(default)
    if rule is not None and rule.has_several_kinds:
        fits, expected = rule.fits(value), rule.expected
    else:
        kinds, expected = KINDS[kind]
        expected += ", ".join(default) if kind is dict else ""
        fits = isinstance(value, kinds) and not (isinstance(value, bool) and kind in (int, float))
    if not fits:
        raise UserError(f"{key}={text}: expected {expected} (the default is {default})")


def get_value(plain: Any, key: str) -> Any:
    """Return the value of a dotted key.

    Raises:
        LookupError: there is no such key.
        TypeError: a value on the way to it is neither a table nor a list.
    """
    for part in key.split("."):
        plain = plain[int(part) if isinstance(plain, list) else part]
    return plain


def set_value(plain: Any, key: str, value: Any) -> None:
    """Set the value of a dotted key."""
    *parents, leaf = key.split(".")
    for part in parents:
        if isinstance(plain, dict):
            plain.setdefault(part, {})  # a new table in the arguments of a user-defined class
        plain = plain[int(part) if isinstance(plain, list) else part]
    plain[int(leaf) if isinstance(plain, list) else leaf] = value


def replace_values(config: Config, values: Mapping[str, Any]) -> Config:
    """Return a copy of a config with other values of some keys.

    Args:
        config: the config, which does not change.
        values: the new values, by dotted key.

    Raises:
        UserError: a value does not fit its key.
    """
    plain = config.plain()
    for key, value in values.items():
        set_value(plain, key, value)
    return check_config(plain)


def restore_config(plain: Any, where: str, words: Iterable[str] | None = ()) -> Config:
    """Check the config in a file, and return it in the current format.

    The file may come from anyone, so a class that it names is used only if the user types it too.

    Args:
        plain: the content of the file.
        where: the file, for messages.
        words: the ``key=value`` words that the user typed; they must repeat the file's user-defined
            classes. None if the config is only compared with another one, so no class is called.

    Raises:
        UserError: the content is not a config, or a value does not fit its key.
    """
    check_shape(plain, where)
    for group in GROUPS:
        value = plain.get(group, {})
        if not isinstance(value, dict) and not (value is None and group in NULLABLE):
            raise UserError(f"{where}: {group}={_shorten(plain[group])}: expected {TABLE.expected}")
    if words is not None:
        check_repeated(plain, list(words), where)
    plain = migrate_config(plain, where)
    try:
        return check_config(plain)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def check_shape(config: Any, where: str, nodes: int = NODES) -> None:
    """Check that a config consists of plain values and is not too large.

    A kilobyte of YAML can contain itself, or describe gigabytes through repeated references.

    Args:
        config: the config to check.
        where: the file that it comes from, for messages.
        nodes: largest number of values.

    Raises:
        UserError: the config is not a table of plain values, or it is too large.
    """
    if not isinstance(config, dict):
        raise UserError(f"{where} does not contain a table {{key: value}}")
    remaining, pending = nodes, [(config, 0)]
    while pending:
        value, depth = pending.pop()
        remaining -= 1
        if remaining < 0 or depth > _MOST_LEVELS:
            raise UserError(f"{where} contains more than {nodes} values or {_MOST_LEVELS} levels")
        if isinstance(value, dict):
            if not all(isinstance(key, str) for key in value):
                raise UserError(f"{where} contains a key that is not text")
            pending += [(inner, depth + 1) for inner in value.values()]
        elif isinstance(value, list | tuple):
            pending += [(inner, depth + 1) for inner in value]
        elif value is not None and not isinstance(value, str | int | float):
            raise UserError(f"{where} contains a {type(value).__name__}: expected text and numbers")
        elif isinstance(value, int) and abs(value) > _LARGEST:
            raise UserError(f"{where} contains a whole number of {len(hex(value)) * 4} bits")


def find_rule(key: str) -> Rule | None:
    """Return the rule of a dotted key, or None if it has none."""
    return next((kind for kind in _find_kinds(key.split(".")) if isinstance(kind, Rule)), None)


def _find_kinds(path: Iterable[str]) -> list[Any]:
    """Return the types that the value of a key may have, and their rules."""
    kinds: list[Any] = [Config]
    for part in path:
        kinds = [inner for kind in kinds for inner in _inner_kinds(kind, part)]
    return kinds


def _inner_kinds(kind: Any, part: str) -> Iterator[Any]:
    """Yield the types of the key ``part`` in a value of type ``kind``, and its rules."""
    if isinstance(kind, type) and issubclass(kind, Slice):
        if field := kind.fields().get(part):
            yield from (*_members(field.annotation), *field.metadata)
        elif kind is CallbacksConfig:
            yield from LOOKS.values()
    elif get_origin(kind) in (dict, list):
        yield from _members(get_args(kind)[-1])  # the type of the values or entries


def _members(kind: Any) -> Iterator[Any]:
    """Yield a type, the types that it is a union of, and its annotations."""
    yield kind
    if get_origin(kind) not in (dict, list):
        for each in get_args(kind):
            yield from _members(each)


def _format_error(problem: Mapping[str, Any]) -> str:
    """Return one of pydantic's errors as one line."""
    path = [str(part) for part in problem["loc"]]
    key, value, expected = ".".join(path), problem["input"], TABLE.expected
    match problem["type"]:
        case "extra_forbidden":
            kinds = [kind for kind in _find_kinds(path[:-1]) if isinstance(kind, type)]
            ours = [kind for kind in kinds if issubclass(kind, Slice) and not issubclass(kind, Own)]
            known = {name for kind in ours for name in kind.fields()}
            return f"{key}: no such key; {nearest(path[-1], known)}"
        case "missing" if path[:2] == ["finetune", "phases"]:
            rule = find_rule(key)
            assert rule is not None  # every key of a phase has one
            return f"{key} is missing: expected {rule.expected}"
        case "missing" if path[0] == "callbacks" and len(path) > 2:
            return f"{key} is missing: the callback needs it"
        case "missing":
            return f"{key} is missing"
        case "unfit":
            expected = problem["ctx"]["expected"]
    return f"{key}={_shorten(value)}: expected {expected}"


def _shorten(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:80]}…"
