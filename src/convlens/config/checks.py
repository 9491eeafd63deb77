"""From plain values to a checked config; every mistake is answered in one line.

What depends on the data or the network (a layer's name, a list's length) is checked by the part
that knows it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, get_args, get_origin

from pydantic import ValidationError

from convlens.config.migrate import lifted
from convlens.config.schema import LOOKS, CallbacksConfig, Config, Slice
from convlens.config.schema.rules import Rule
from convlens.config.schema.slices import Either
from convlens.config.targets import check_repeated
from convlens.core.errors import UserError, nearest

NODES = 20_000  # values in a config: ours have some hundred
_DEEP = 20  # levels
_LARGEST = 2**64  # whole numbers in a file; larger ones fit no float and no tensor
# of every config; `experiment` and `debug` leave no group of their own
GROUPS = tuple(name for name in Config.model_fields if name not in (
    "seed", "precision", "run_dir", "cache_features", "scores", "overwrite", "experiment"
))  # fmt: skip


def checked(plain: dict) -> Config:
    """The config with these values.

    Raises:
        UserError: naming the first key that does not fit, its value and what is expected.
    """
    try:
        return Config.model_validate(plain)
    except ValidationError as error:
        raise UserError(_answer(error.errors(include_url=False)[0])) from None


def with_values(config: Config, values: Mapping[str, Any]) -> Config:
    """A config with some keys, named with dots, set anew.

    Raises:
        UserError: a value that does not fit its key.
    """
    plain = config.plain()
    for name, value in values.items():
        *parents, leaf = name.split(".")
        place = plain
        for part in parents:
            place = place[int(part) if isinstance(place, list) else part]
        place[int(leaf) if isinstance(place, list) else leaf] = value
    return checked(plain)


def stored_config(plain: Any, where: str, words: Iterable[str] | None = ()) -> Config:
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
    plain = lifted(plain, where)
    try:
        return checked(plain)
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


def rule_of(key: str) -> Rule | None:
    """The rule of a key with dots, if it has one."""
    rule, kinds = None, [Config]
    for part in key.split("."):
        found = [_inside(kind, part) for kind in kinds]
        marks = next((each for each in found if each is not None), ())
        rule = next((mark for mark in marks if isinstance(mark, Rule)), None)
        kinds = [kind for mark in marks for kind in _below(mark)]
    return rule


def _inside(kind: Any, part: str) -> tuple | None:
    """The marks (rules, or types) of a part of what is of a kind; None where it has none such."""
    if isinstance(kind, type) and issubclass(kind, Slice):
        for name, field in kind.model_fields.items():
            if part == (field.alias or name):
                return tuple(field.metadata)
        return tuple(LOOKS.values()) if kind is CallbacksConfig else None
    inner = get_args(kind)[-1]  # of a dict's values, or a list's entries
    return inner.__metadata__ if get_origin(inner) is Annotated else (inner,)


def _below(mark: Any) -> Iterator[Any]:
    if isinstance(mark, Rule):
        if mark.below is not None:
            yield mark.below
    elif isinstance(mark, Either):
        yield mark.ours
    elif isinstance(mark, type) or get_args(mark):
        yield mark


def _answer(problem: Mapping[str, Any]) -> str:
    """One of pydantic's errors as a line of ours."""
    path = [str(part) for part in problem["loc"]]
    key, value = ".".join(path), problem["input"]
    match problem["type"]:
        case "extra_forbidden":
            return f"{key}: no such key; {nearest(path[-1], _known(path[:-1]))}"
        case "missing":
            return _missing(path)
        case "unknown":
            name = problem["ctx"]["name"]
            return (
                f"callbacks: _target_={problem['ctx']['path']} is no callback of "
                f"convlens.callbacks; {nearest(name, LOOKS)}"
            )
        case "wanted":
            wanted = problem["ctx"]["wanted"]
        case _:
            rule = rule_of(key)
            wanted = rule.wanted if rule else "another kind of value"
    ending = "" if "expected" in wanted else " is expected"
    return f"{key}={_shown(value)}: {wanted}{ending}"


def _missing(path: list[str]) -> str:
    key, rule = ".".join(path), rule_of(".".join(path))
    if path[:2] == ["finetune", "phases"] and rule:
        return f"{key}=None: {rule.wanted} is expected"
    if path[0] == "callbacks" and len(path) > 2:
        return f"{key}: it is missing: the callback does not take such values"
    return f"the key {key} is missing (KeyError)"


def _known(path: list[str]) -> set[str]:
    """The keys that there are below a path."""
    kinds: list[Any] = [Config]
    for part in path:
        marks = next((m for kind in kinds if (m := _inside(kind, part)) is not None), ())
        kinds = [kind for mark in marks for kind in _below(mark)]
    slices = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Slice)]
    return {field.alias or name for kind in slices for name, field in kind.model_fields.items()}


def _shown(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:80]}…"
