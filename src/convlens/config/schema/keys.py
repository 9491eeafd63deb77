"""Building blocks of the schema: rules for single values, and slices, the keys of one group.

A rule is part of a field's annotation (``Annotated[int, whole(1)]``), where pydantic calls it. It
tests a value and describes what is expected. It never changes a value: the run records exactly what
the user typed or what a file contains.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Any, Self, get_origin

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, PlainValidator
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

TARGET = "_target_"  # Hydra's word for the class that a node of a config describes
_LARGEST_COUNT = 2**31 - 1


@dataclass(frozen=True)
class Rule:
    """A test of a value, and a description of the values that pass it.

    Attributes:
        fits: the test.
        expected: what passes, as text for an error message.
        has_several_kinds: whether values of several kinds pass, such as one value or a list. The
            kind of the default then says nothing about other values. Null does not count as a kind.
        inner: type of the content, if the value is a table or a list of tables.
        alternatives: descriptions of the alternatives, if there are several.
    """

    fits: Callable[[Any], bool]
    expected: str
    has_several_kinds: bool = False
    inner: Any = None
    alternatives: tuple[str, ...] = ()

    def __or__(self, other: Rule) -> Rule:
        alternatives = tuple(
            text for rule in (self, other) for text in rule.alternatives or (rule.expected,)
        )
        return Rule(
            lambda value: self.fits(value) or other.fits(value),
            _join_or(alternatives),
            has_several_kinds=self is not NULL or other.has_several_kinds,
            alternatives=alternatives,
        )

    def of(self, inner: Any) -> Rule:
        """Return the same rule for a table or a list whose content has the type ``inner``."""
        return replace(self, inner=inner)

    def check(self, value: Any) -> Any:
        """Return the value if it passes the test.

        Raises:
            PydanticCustomError: it does not.
        """
        if not self.fits(value):
            raise PydanticCustomError("unfit", "{expected}", {"expected": self.expected})
        return value

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        if self.inner is None:
            return core_schema.no_info_plain_validator_function(self.check)
        inner_schema, table = handler.generate_schema(self.inner), get_origin(self.inner) or dict

        def validate(value: Any, validate_inner: Callable[[Any], Any]) -> Any:
            return validate_inner(value) if isinstance(self.check(value), table) else value

        return core_schema.no_info_wrap_validator_function(validate, inner_schema)


def is_number(value: Any, most: float = 1e30) -> bool:
    """Return whether a value is a number between ``-most`` and ``most``.

    The default is finite in float32, bfloat16 and float64.
    """
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= most


def whole(least: int, most: int = _LARGEST_COUNT) -> Rule:
    """Return a rule for a whole number in a range."""

    def fits(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most

    limits = f"of at least {least}" if most == _LARGEST_COUNT else f"from {least} to {most}"
    return Rule(fits, f"a whole number {limits}")


def at_least(low: float) -> Rule:
    """Return a rule for a number of at least ``low``."""
    return Rule(lambda value: is_number(value) and value >= low, f"a number of at least {low:g}")


def above(low: float) -> Rule:
    """Return a rule for a number greater than ``low``."""
    return Rule(lambda value: is_number(value) and value > low, f"a number above {low:g}")


def between(low: float, high: float) -> Rule:
    """Return a rule for a number in a closed range."""
    return Rule(
        lambda value: is_number(value) and low <= value <= high, f"a number in [{low:g}, {high:g}]"
    )


def one_of(*names: str) -> Rule:
    """Return a rule for one of some names."""

    def fits(value: Any) -> bool:
        return isinstance(value, str | int) and not isinstance(value, bool) and str(value) in names

    return Rule(fits, _join_or(names), alternatives=names)


def named(*names: str) -> Rule:
    """Return a rule for a text that is one of some names.

    It accepts any text: the code that uses the value refuses an unknown name and suggests a near
    one.
    """
    return replace(TEXT, expected=_join_or(names), alternatives=names)


def _join_or(texts: tuple[str, ...]) -> str:
    """Return texts as ``a, b or c``."""
    *first, last = texts
    return f"{', '.join(first)} or {last}" if first else last


def each(rule: Rule, count: int | None = None) -> Rule:
    """Return a rule for a list whose entries, ``count`` of them if given, all pass ``rule``."""

    def fits(value: Any) -> bool:
        is_right_length = isinstance(value, list) and (count is None or len(value) == count)
        return is_right_length and all(map(rule.fits, value))

    start = f"a list of {count} entries, each" if count else "a list, each entry"
    return Rule(fits, f"{start} {rule.expected}")


def one_or_each(rule: Rule) -> Rule:
    """Return a rule for one value that passes ``rule``, or a list of such values."""
    expected = f"{rule.expected}, or a list of such values"
    return replace(rule | each(rule), expected=expected, alternatives=())


def range_of(most: float = math.inf) -> Rule:
    """Return a rule for a range of positive numbers, ``[low, high]``."""
    pair = each(above(0), 2)
    limit = "" if most == math.inf else f" and at most {most:g}"
    return Rule(
        lambda value: pair.fits(value) and value[0] <= value[1] <= most,
        f"[low, high] with both values above 0{limit}",
    )


NULL = Rule(lambda value: value is None, "null")
SWITCH = Rule(lambda value: isinstance(value, bool), "true or false")
TEXT = Rule(lambda value: isinstance(value, str), "text")
TABLE = Rule(lambda value: isinstance(value, dict), "a table {key: value}")
FRACTION = between(0, 1)
FRACTION_BELOW_1 = Rule(lambda value: is_number(value) and 0 <= value < 1, "a number in [0, 1)")
CLASS = Rule(
    lambda v: isinstance(v, str) and "." in v and all(map(str.isidentifier, v.split("."))),
    "the dotted name of a class",
)


def key(description: str, **more: Any) -> Any:
    """Return the field of a key, with its meaning and unit; defaults are in ``configs/``."""
    return Field(description=description, **more)


def optional(description: str) -> Any:
    """Return the field of a key that only some choices of a group have; None if it is absent."""
    return Field(default=None, description=description)


class Slice(BaseModel):
    """The keys and values of one group, read-only; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @classmethod
    def fields(cls) -> dict[str, FieldInfo]:
        """Return the fields of the keys, by their names in the config."""
        return {field.alias or name: field for name, field in cls.model_fields.items()}

    def plain(self) -> dict[str, Any]:
        """Return the keys that the config has, by their names there, with plain values."""
        return self.model_dump(by_alias=True, exclude_unset=True, serialize_as_any=True)

    def replace(self, **values: Any) -> Self:
        """Return a copy with other values of some keys, which are checked.

        Args:
            **values: the new values by key.

        Raises:
            pydantic.ValidationError: a value does not fit its key.
        """
        return type(self).model_validate({**self.plain(), **values})

    @property
    def key_names(self) -> frozenset[str]:
        """The names of the keys that this choice of the group has."""
        return frozenset(self.plain())


class Own(Slice):
    """A node that names a user-defined class and the arguments to call it with.

    The meaning of its keys is unknown here: each is passed to the class as it is.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    class_path: Annotated[str, CLASS] = key(
        "dotted name of a user-defined class, such as mine.Network", alias=TARGET
    )

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of the class, by name."""
        return dict(self.model_extra or {})


def get_name(chosen: Slice) -> str:
    """Return the name of a group's choice, or its user-defined class."""
    return chosen.class_path if isinstance(chosen, Own) else chosen.plain()["name"]


def choose_slice(ours: type[Slice], own: type[Own]) -> PlainValidator:
    """Return a validator that reads a table with ``_target_`` as ``own``, others as ``ours``."""
    return PlainValidator(
        lambda value: (own if TARGET in TABLE.check(value) else ours).model_validate(value)
    )
