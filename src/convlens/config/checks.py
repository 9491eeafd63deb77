"""From plain values to a checked config; every mistake is answered in one line.

What depends on the data or the network (a layer's name, a list's length) is checked by the part
that knows it.
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

NODES = 20_000  # values in a config: ours have some hundred
_DEEP = 20  # levels
_LARGEST = 2**64  # whole numbers in a file; larger ones fit no float and no tensor
# of every config; `experiment` and `debug` leave no group of their own
GROUPS = tuple(name for name in Config.model_fields if name not in (
    "seed", "precision", "run_dir", "cache_features", "scores", "overwrite", "experiment"
))  # fmt: skip


def check_config(plain: dict) -> Config:
    """The config with these values.

    Raises:
        UserError: naming the first key that does not fit, its value and what is expected.
    """
    try:
        return Config.model_validate(plain)
    except ValidationError as error:
        raise UserError(_answer(error.errors(include_url=False)[0])) from None


def get_value(plain: Any, key: str) -> Any:
    """What stands at a key with dots."""
    for part in key.split("."):
        plain = plain[int(part) if isinstance(plain, list) else part]
    return plain


def set_value(plain: Any, key: str, value: Any) -> None:
    """Set a key with dots."""
    *parents, leaf = key.split(".")
    for part in parents:
        if isinstance(plain, dict):
            plain.setdefault(part, {})  # of a person's own
        plain = plain[int(part) if isinstance(plain, list) else part]
    plain[int(leaf) if isinstance(plain, list) else leaf] = value


def replace_values(config: Config, values: Mapping[str, Any]) -> Config:
    """A config with some keys, named with dots, set anew.

    Raises:
        UserError: a value that does not fit its key.
    """
    plain = config.plain()
    for key, value in values.items():
        set_value(plain, key, value)
    return check_config(plain)


def restore_config(plain: Any, where: str, words: Iterable[str] | None = ()) -> Config:
    """The config out of a file: whoever wrote it, it is data, and names no code.

    Args:
        plain: as it was read.
        where: the file, for messages.
        words: ``key=value`` as typed; of them, those that repeat a class of a person's own count.
            None where nothing is made of the config: it is only compared with another one.

    Raises:
        UserError: not a config, or one whose values nobody could have typed.
    """
    check_shape(plain, where)
    for group in GROUPS:
        if not isinstance(plain.get(group, {}), dict):
            raise UserError(f"{where}: {group}={_shown(plain[group])}: keys below it are expected")
    if words is not None:
        check_repeated(plain, list(words), where)
    plain = migrate_config(plain, where)
    try:
        return check_config(plain)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def check_shape(config: Any, where: str, nodes: int = NODES) -> None:
    """A dictionary of plain values, and no larger than what we write.

    A kilobyte of YAML can name itself, or grow to gigabytes by naming its parts again and again.
    """
    if not isinstance(config, dict):
        raise UserError(f"{where} holds no table of keys")
    left, waiting = nodes, [(config, 0)]
    while waiting:
        value, depth = waiting.pop()
        left -= 1
        if left < 0 or depth > _DEEP:
            raise UserError(f"{where} holds more than {nodes} values or {_DEEP} levels")
        if isinstance(value, dict):
            if not all(isinstance(key, str) for key in value):
                raise UserError(f"{where} holds a key that is no text")
            waiting += [(inner, depth + 1) for inner in value.values()]
        elif isinstance(value, list | tuple):
            waiting += [(inner, depth + 1) for inner in value]
        elif value is not None and not isinstance(value, str | int | float):
            raise UserError(
                f"{where} holds a {type(value).__name__}: text and numbers are expected"
            )
        elif isinstance(value, int) and abs(value) > _LARGEST:
            raise UserError(f"{where} holds a whole number of {len(hex(value)) * 4} bits")


def find_rule(key: str) -> Rule | None:
    """The rule of a key with dots, if it has one."""
    return next((kind for kind in _kinds(key.split(".")) if isinstance(kind, Rule)), None)


def _kinds(path: Iterable[str]) -> list[Any]:
    """The types that may stand behind some parts of a key, and their rules."""
    kinds: list[Any] = [Config]
    for part in path:
        kinds = [below for kind in kinds for below in _below(kind, part)]
    return kinds


def _below(kind: Any, part: str) -> Iterator[Any]:
    if isinstance(kind, type) and issubclass(kind, Slice):
        if field := kind.fields().get(part):
            yield from (*_members(field.annotation), *field.metadata)
        elif kind is CallbacksConfig:
            yield from LOOKS.values()
    elif get_origin(kind) in (dict, list):
        yield from _members(get_args(kind)[-1])  # of a dict's values, or a list's entries


def _members(kind: Any) -> Iterator[Any]:
    """A type, or those that it is a union of, and what it is annotated with."""
    yield kind
    if get_origin(kind) not in (dict, list):
        for each in get_args(kind):
            yield from _members(each)


def _answer(problem: Mapping[str, Any]) -> str:
    """One of pydantic's errors as a line of ours."""
    path = [str(part) for part in problem["loc"]]
    key, value, wanted = ".".join(path), problem["input"], TABLE.expected
    match problem["type"]:
        case "extra_forbidden":
            kinds = [kind for kind in _kinds(path[:-1]) if isinstance(kind, type)]
            ours = [kind for kind in kinds if issubclass(kind, Slice) and not issubclass(kind, Own)]
            known = {name for kind in ours for name in kind.fields()}
            return f"{key}: no such key; {nearest(path[-1], known)}"
        case "missing" if path[:2] == ["finetune", "phases"]:
            rule = find_rule(key)
            assert rule is not None  # every key of a phase has one
            value, wanted = None, rule.expected
        case "missing" if path[0] == "callbacks" and len(path) > 2:
            return f"{key}: it is missing: the callback does not take such values"
        case "missing":
            return f"the key {key} is missing (KeyError)"
        case "unfit":
            wanted = problem["ctx"]["expected"]
    ending = "" if "expected" in wanted else " is expected"
    return f"{key}={_shown(value)}: {wanted}{ending}"


def _shown(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:80]}…"
