"""What a value has to be: a test, and the words that say so when it fails.

A rule stands in a field's annotation (``Annotated[int, whole(1)]``), where pydantic asks it. It
changes no value: what a person typed, or a file holds, is what the run records.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

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

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        if self.below is None:
            return core_schema.no_info_plain_validator_function(self._checked)
        inner = handler.generate_schema(self.below)
        return core_schema.no_info_wrap_validator_function(self._checked_inside, inner)

    def _checked(self, value: Any) -> Any:
        if not self.fits(value):
            raise PydanticCustomError("wanted", "{wanted}", {"wanted": self.wanted})
        return value

    def _checked_inside(self, value: Any, inner: Callable[[Any], Any]) -> Any:
        self._checked(value)
        return inner(value) if isinstance(value, dict | list) else value


def whole(least: int, most: int = _MOST) -> Rule:
    def fits(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most

    limit = "" if most == _MOST else f" and at most {most}"
    return Rule(fits, f"a whole number of at least {least}{limit}")


def _number(value: Any) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return abs(value) <= 1e30 and math.isfinite(value)  # of whole numbers a float can hold


def least(low: float) -> Rule:
    return Rule(lambda value: _number(value) and value >= low, f"a number of at least {low:g}")


def above(low: float) -> Rule:
    return Rule(lambda value: _number(value) and value > low, f"a number above {low:g}")


def between(low: float, high: float) -> Rule:
    return Rule(
        lambda value: _number(value) and low <= value <= high, f"a number in [{low}, {high}]"
    )


def below(low: float, high: float) -> Rule:
    return Rule(
        lambda value: _number(value) and low <= value < high, f"a number in [{low}, {high})"
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
SHARE, PART = between(0, 1), below(0, 1)
WEIGHTS = Rule(
    lambda v: isinstance(v, list) and bool(v) and all(map(least(0).fits, v)) and sum(v) > 0,
    "a list of weights of at least 0, not all 0",
)
SIDE = whole(1, 1000)  # of a kernel or window, in pixels
LAYERS = TEXT | each(TEXT)
