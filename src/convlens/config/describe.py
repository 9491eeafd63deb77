"""The keys of a config with meaning, type and default, for ``--help`` and shell completion.

Meanings and types come from the schema, defaults from the composed config.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from convlens.config.folder import list_groups
from convlens.config.schema import Config
from convlens.config.schema.keys import Own, Rule, Slice

# groups of config files that set keys of several groups, and have no keys themselves
CHOICES = {
    "experiment": "a recipe: sets keys of several groups (exp= for short)",
    "debug": "a short run, to see whether it works",
}
RUN = "run"  # title of the keys that belong to no group


@dataclass(frozen=True)
class KeyDescription:
    """One key of a config.

    Attributes:
        name: with dots, as it is typed.
        meaning: from the schema.
        kind: which values are accepted, in words; empty if the meaning already names them.
        default: the value in the composed config, as it is typed; None for a table whose keys
            have descriptions of their own.
    """

    name: str
    meaning: str
    kind: str
    default: str | None


@dataclass(frozen=True)
class GroupDescription:
    """A config group.

    Attributes:
        name: such as ``data``; ``run`` for the keys without a group.
        meaning: from the schema.
        choices: the names that ``name=…`` takes; empty if there is nothing to choose.
        keys: in the order of the schema.
    """

    name: str
    meaning: str
    choices: tuple[str, ...]
    keys: tuple[KeyDescription, ...]


def describe_groups(
    config: Config, choices: Mapping[str, Sequence[str]] | None = None
) -> list[GroupDescription]:
    """Return every group of a config with every key that this config has.

    Args:
        config: composed.
        choices: the names that each group takes; by default those of ``configs/``.
    """
    choices = list_groups() if choices is None else choices
    described = [
        GroupDescription(name, meaning, tuple(choices.get(name, ())), ())
        for name, meaning in CHOICES.items()
    ]
    single: list[KeyDescription] = []
    grouped: list[GroupDescription] = []
    for name, field in Config.fields().items():
        if name in CHOICES:
            continue
        value = getattr(config, name)
        if not isinstance(value, Slice):
            single += _describe_value(name, value, field.description or "", _kind_of(field))
            continue
        keys = tuple(_describe_slice(f"{name}.", value))
        names = tuple(choices.get(name, ()))
        grouped.append(GroupDescription(name, field.description or "", names, keys))
    described.append(GroupDescription(RUN, "keys without a group", (), tuple(single)))
    return described + grouped


def typed_text(value: Any) -> str:
    """Return a value as it is typed after ``key=``.

    >>> typed_text([1, 0.5, None, True]), typed_text({"head": 1e-3})
    ('[1, 0.5, null, true]', '{head: 0.001}')
    """
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {typed_text(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(typed_text, value)) + "]"
    return value if isinstance(value, str) else json.dumps(value)


def _describe_slice(prefix: str, node: Slice) -> Iterator[KeyDescription]:
    """Describe the keys that a slice has, without those of the group's other choices."""
    for name, field in type(node).model_fields.items():
        if name not in node.model_fields_set or field.alias is not None:
            continue  # a key that only other choices of the group have, or `_target_`
        value, meaning = getattr(node, name), field.description or ""
        yield from _describe_value(f"{prefix}{name}", value, meaning, _kind_of(field))
    for name, value in (node.model_extra or {}).items():
        if isinstance(node, Own):
            meaning = f"argument of {node.class_path}"
            yield KeyDescription(f"{prefix}{name}", meaning, "", typed_text(value))
        elif value is None:
            yield KeyDescription(f"{prefix}{name}", "removed", "", "null")
        else:
            meaning = (type(value).__doc__ or "").partition("\n")[0].rstrip(".")
            meaning = _lower_first(meaning)
            yield from _describe_value(f"{prefix}{name}", value, meaning, "null removes it")


def _describe_value(name: str, value: Any, meaning: str, kind: str) -> Iterator[KeyDescription]:
    """Describe a key, and the keys below it."""
    below = _below(value)
    if below is None:
        yield KeyDescription(name, meaning, kind, typed_text(_plain(value)))
        return
    if kind:  # the table may be set as a whole too
        yield KeyDescription(name, meaning, kind, None)
    for part, each in below.items():
        if isinstance(each, Slice):
            yield from _describe_slice(f"{name}.{part}.", each)
        else:
            yield KeyDescription(f"{name}.{part}", meaning, "", typed_text(each))
    if isinstance(value, Slice):
        yield from _describe_slice(f"{name}.", value)


def _lower_first(text: str) -> str:
    """Return a text with a small first letter, unless it begins with a name such as Grad-CAM."""
    is_name = any(letter.isupper() for letter in text.partition(" ")[0][1:])
    return text if is_name or text.startswith("Captum") else text[:1].lower() + text[1:]


def _below(value: Any) -> dict[Any, Any] | None:
    """Return what is below a key whose entries have keys of their own, or None."""
    if isinstance(value, Slice):
        return {}
    if isinstance(value, list):
        value = dict(enumerate(value))
    entries = value if isinstance(value, dict) else {}
    return entries if any(isinstance(each, Slice) for each in entries.values()) else None


def _plain(value: Any) -> Any:
    return value.plain() if isinstance(value, Slice) else value


def _kind_of(field: Any) -> str:
    """Return which values a field accepts, in words.

    The text is empty for a group of keys, and if the description already names all values.
    """
    rule = next((each for each in field.metadata if isinstance(each, Rule)), None)
    if rule is None:
        return ""
    names = rule.alternatives
    is_described = bool(names) and all(name in (field.description or "") for name in names)
    return "" if is_described else rule.expected
