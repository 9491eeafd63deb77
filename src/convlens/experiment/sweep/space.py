"""The space of a sweep: which values each key may have.

    {optimizer.lr: log(1e-5, 1e-2), finetune.phases.1.epochs: [5, 10, 15]}

| written as | values |
|---|---|
| ``[a, b, c]`` | one of these, as they are written |
| ``uniform(a, b)``, ``log(a, b)`` | a number from a to b; with ``log`` each factor is as likely |
| ``int(a, b)``, ``logint(a, b)`` | a whole number from a to b, both included |
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from convlens.core.errors import UserError

if TYPE_CHECKING:
    from optuna.trial import Trial

FORMS = "[a,b], uniform(a,b), log(a,b), int(a,b) or logint(a,b)"
_RANGE = re.compile(r"(uniform|log|int|logint)\s*\(([^,()]+),([^,()]+)\)")
_OPENING, _CLOSING = "[({", "])}"


@dataclass(frozen=True)
class Choice:
    """Some values, in no order."""

    values: tuple[str, ...]

    @property
    def examples(self) -> tuple[str, ...]:
        """Values that must be possible, for all others to be possible, too."""
        return self.values

    def draw(self, trial: Trial, key: str) -> str:
        """Return the value of a trial, as a word of the command line has it."""
        return trial.suggest_categorical(key, self.values)


@dataclass(frozen=True)
class Range:
    """Numbers between two ends, both included.

    Attributes:
        low, high: the ends.
        whole: whether the numbers are whole.
        log: whether each factor is as likely, instead of each difference.
    """

    low: float
    high: float
    whole: bool
    log: bool

    @property
    def examples(self) -> tuple[str, ...]:
        """Values that must be possible, for all others to be possible, too."""
        return tuple(str(int(end)) if self.whole else repr(end) for end in (self.low, self.high))

    def draw(self, trial: Trial, key: str) -> str:
        """Return the value of a trial, as a word of the command line has it."""
        if self.whole:
            return str(trial.suggest_int(key, int(self.low), int(self.high), log=self.log))
        return repr(trial.suggest_float(key, self.low, self.high, log=self.log))


Domain = Choice | Range


def parse_space(text: str) -> dict[str, Domain]:
    """Return the domain of each key.

    Raises:
        UserError: the text is not a space; or a key has two domains, or an empty one.

    >>> parse_space("{a: [x, y], b: log(0.1, 1)}")
    {'a': Choice(values=('x', 'y')), 'b': Range(low=0.1, high=1.0, whole=False, log=True)}
    """
    inner = text.strip()
    if inner[:1] == "{" and inner[-1:] == "}":
        inner = inner[1:-1]
    space: dict[str, Domain] = {}
    for part in split_outside_brackets(inner):
        key, colon, domain = (each.strip() for each in part.partition(":"))
        if not (key and colon and domain):
            raise UserError(f"space: {part.strip() or text}: expected key: {FORMS}")
        if key in space:
            raise UserError(f"space: {key} is there twice; give each key once")
        space[key] = _parse_domain(key, domain)
    return space


def _parse_domain(key: str, text: str) -> Domain:
    if text[0] == "[" and text[-1] == "]":
        values = tuple(each.strip() for each in split_outside_brackets(text[1:-1]))
        if not all(values) or len(set(values)) < len(values):
            raise UserError(f"space: {key}: {text}: expected values, each once, such as [1,2,5]")
        return Choice(values)
    if not (match := _RANGE.fullmatch(text)):
        raise UserError(f"space: {key}: {text}: expected {FORMS}")
    kind, *ends = match.groups()
    whole, log = kind.endswith("int"), kind.startswith("log")
    try:
        low, high = (int(end) if whole else float(end) for end in ends)
    except ValueError:
        what = "whole numbers" if whole else "numbers"
        raise UserError(f"space: {key}: {text}: expected two {what}") from None
    if not (math.isfinite(low) and math.isfinite(high) and low < high) or (log and low <= 0):
        rule = "above 0, the smaller one first" if log else "the smaller one first"
        raise UserError(f"space: {key}: {text}: expected two numbers, {rule}")
    return Range(low, high, whole, log)


def split_outside_brackets(text: str) -> Iterator[str]:
    """Yield the parts between the commas that are in no brackets.

    >>> list(split_outside_brackets("a: [1, 2], b: log(1, 2)"))
    ['a: [1, 2]', ' b: log(1, 2)']
    """
    depth, start = 0, 0
    for place, character in enumerate(text):
        depth += (character in _OPENING) - (character in _CLOSING)
        if character == "," and depth == 0:
            yield text[start:place]
            start = place + 1
    yield text[start:]


def list_corners(space: Mapping[str, Domain]) -> Iterator[list[str]]:
    """Yield words that compose if all values of the space do, one key at a time.

    The other keys have their first value.
    """
    first = {key: domain.examples[0] for key, domain in space.items()}
    yield [f"{key}={value}" for key, value in first.items()]
    for key, domain in space.items():
        for value in domain.examples[1:]:
            yield [f"{k}={v}" for k, v in {**first, key: value}.items()]
