"""What the schema is made of: rules of single values, and slices, the keys of one group.

A rule stands in a field's annotation (``Annotated[int, whole(1)]``), where pydantic asks it: a test
of a value, and the words that say what is wanted when it fails. It changes no value: what a person
typed, or a file holds, is what the run records.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Any, Self, get_origin

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, PlainValidator
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

TARGET = "_target_"  # Hydra's word for the class that a node of a config is made into
_MOST = 2**31 - 1  # of anything that is counted


@dataclass(frozen=True)
class Rule:
    """A test of a value, and the words for what is wanted.

    ``kinds``: a value may be of several kinds, such as one value or a list, so that the kind of
    the default says nothing about what else is right; null, which any key may start with, is none.

    ``below``: the type of what is inside, where the value is a table or a list of tables.
    """

    fits: Callable[[Any], bool]
    wanted: str
    kinds: bool = False
    below: Any = None

    def __or__(self, other: Rule) -> Rule:
        return Rule(
            lambda value: self.fits(value) or other.fits(value),
            f"{self.wanted} or {other.wanted}",
            kinds=self is not NULL or other.kinds,
        )

    def of(self, below: Any) -> Rule:
        """The same rule for a table (or a list) whose content is of the type ``below``."""
        return replace(self, below=below)

    def check(self, value: Any) -> Any:
        """The value, if it fits.

        Raises:
            PydanticCustomError: it does not.
        """
        if not self.fits(value):
            raise PydanticCustomError("wanted", "{wanted}", {"wanted": self.wanted})
        return value

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        if self.below is None:
            return core_schema.no_info_plain_validator_function(self.check)
        inside, table = handler.generate_schema(self.below), get_origin(self.below) or dict

        def checked(value: Any, inner: Callable[[Any], Any]) -> Any:
            return inner(value) if isinstance(self.check(value), table) else value

        return core_schema.no_info_wrap_validator_function(checked, inside)


def is_number(value: Any, most: float = 1e30) -> bool:
    """Whether a value is a finite number, by default one that any float can hold."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= most


def whole(least: int, most: int = _MOST) -> Rule:
    def fits(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most

    limit = "" if most == _MOST else f" and at most {most}"
    return Rule(fits, f"a whole number of at least {least}{limit}")


def least(low: float) -> Rule:
    return Rule(lambda value: is_number(value) and value >= low, f"a number of at least {low:g}")


def above(low: float) -> Rule:
    return Rule(lambda value: is_number(value) and value > low, f"a number above {low:g}")


def between(low: float, high: float) -> Rule:
    return Rule(
        lambda value: is_number(value) and low <= value <= high, f"a number in [{low:g}, {high:g}]"
    )


def one_of(*names: str) -> Rule:
    def fits(value: Any) -> bool:
        return isinstance(value, str | int) and not isinstance(value, bool) and str(value) in names

    return Rule(fits, " or ".join((", ".join(names[:-1]), names[-1]) if names[1:] else names))


def each(rule: Rule, count: int | None = None) -> Rule:
    def fits(value: Any) -> bool:
        right = isinstance(value, list) and (count is None or len(value) == count)
        return right and all(map(rule.fits, value))

    return Rule(fits, f"a list of {f'{count} values, ' if count else ''}each {rule.wanted}")


def range_of(most: float = math.inf) -> Rule:
    """A range of positive numbers, ``[low, high]``."""
    pair = each(above(0), 2)
    limit = "" if most == math.inf else f" and at most {most:g}"
    return Rule(
        lambda value: pair.fits(value) and value[0] <= value[1] <= most,
        f"[low, high], both above 0{limit}",
    )


NULL = Rule(lambda value: value is None, "null")
SWITCH = Rule(lambda value: isinstance(value, bool), "true or false")
TEXT = Rule(lambda value: isinstance(value, str), "text")
TABLE = Rule(lambda value: isinstance(value, dict), "keys and values, {a: b}")
SHARE = between(0, 1)
PART = Rule(lambda value: is_number(value) and 0 <= value < 1, "a number in [0, 1)")
CLASS = Rule(
    lambda v: isinstance(v, str) and "." in v and all(map(str.isidentifier, v.split("."))),
    "the dotted name of a class",
)


def key(description: str, **more: Any) -> Any:
    """A key of a slice, with its meaning and unit; it has no default, ``configs/`` holds those."""
    return Field(description=description, **more)


def optional_key(description: str) -> Any:
    """A key that only some choices of a group have; absent, it reads as None."""
    return Field(default=None, description=description)


class Slice(BaseModel):
    """Keys with their values, none of which can be set; an unknown key is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @classmethod
    def fields(cls) -> dict[str, FieldInfo]:
        """What is known of its keys, by their names in the config."""
        return {field.alias or name: field for name, field in cls.model_fields.items()}

    def plain(self) -> dict[str, Any]:
        """The keys that were given, by their names in the config, as plain values."""
        return self.model_dump(by_alias=True, exclude_unset=True, serialize_as_any=True)

    def replace(self, **values: Any) -> Self:
        """The same with some keys set anew, checked.

        Raises:
            pydantic.ValidationError: a value that does not fit its key.
        """
        return type(self).model_validate({**self.plain(), **values})

    @property
    def key_names(self) -> frozenset[str]:
        """The names of the keys that this choice of the group has."""
        return frozenset(self.plain())


class Own(Slice):
    """A node of a person's own config: a class by its dotted name, and what it is called with.

    Of its keys only the shape is known: each is handed to the class as it stands.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    class_path: Annotated[str, CLASS] = key("dotted name, such as mine.Network", alias=TARGET)

    @property
    def arguments(self) -> dict[str, Any]:
        """What the class is called with, by name."""
        return dict(self.model_extra or {})


def get_name(chosen: Slice) -> str:
    """What a group's choice is called: its name, or the class of a person's own."""
    return chosen.class_path if isinstance(chosen, Own) else chosen.name


def choose_slice(ours: type[Slice], own: type[Own]) -> PlainValidator:
    """A table is a person's own node where it names a ``_target_``, else a group of ours."""
    return PlainValidator(
        lambda value: (own if TARGET in TABLE.check(value) else ours).model_validate(value)
    )
