"""A slice of the config: the keys of one group, fixed once they are checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from convlens.config.schema.rules import TABLE, Rule

TARGET = "_target_"  # Hydra's word for the class that a node of a config is made into
CLASS = Rule(
    lambda value: (
        isinstance(value, str)
        and value.count(".") > 0
        and all(part.isidentifier() for part in value.split("."))
    ),
    "the dotted name of a class",
)


def key(description: str, **more: Any) -> Any:
    """A key of a slice, with its meaning and unit; it has no default, ``configs/`` holds those."""
    return Field(description=description, **more)


def some(description: str) -> Any:
    """A key that only some choices of a group have; absent, it reads as None."""
    return Field(default=None, description=description)


class Slice(BaseModel):
    """Keys with their values, none of which can be set; an unknown key is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def plain(self) -> dict[str, Any]:
        """The keys that were given, by their names in the config, as plain values."""
        found = {}
        for name, field in type(self).model_fields.items():
            if name in self.model_fields_set:
                found[field.alias or name] = _plain(getattr(self, name))
        return found | {name: _plain(value) for name, value in (self.model_extra or {}).items()}

    def updated(self, **values: Any) -> Self:
        """The same with some keys set anew, checked.

        Raises:
            pydantic.ValidationError: a value that does not fit its key.
        """
        return type(self).model_validate({**self.plain(), **values})

    @property
    def given(self) -> frozenset[str]:
        """The names of the keys that this choice of the group has."""
        return frozenset(self.plain())


class Own(Slice):
    """A node of a person's own config: a class by its dotted name, and what it is called with.

    Of its keys only the shape is known: each is handed to the class as it stands.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    class_path: Annotated[str, CLASS] = Field(
        alias=TARGET, description="dotted name of the class, such as mine.Network"
    )

    @property
    def arguments(self) -> dict[str, Any]:
        """What the class is called with, by name."""
        return {name: _plain(value) for name, value in (self.model_extra or {}).items()}


def name_of(chosen: Slice) -> str:
    """What a group's choice is called: its name, or the class of a person's own."""
    return chosen.class_path if isinstance(chosen, Own) else chosen.name


def _plain(value: Any) -> Any:
    if isinstance(value, Slice):
        return value.plain()
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value


@dataclass(frozen=True)
class Either:
    """A table that is a person's own node where it names a ``_target_``, else a group of ours."""

    ours: type[Slice]
    own: type[Own]

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self._made)

    def _made(self, value: Any) -> Slice:
        if not isinstance(value, dict):
            raise PydanticCustomError("wanted", "{wanted}", {"wanted": TABLE.wanted})
        return (self.own if TARGET in value else self.ours).model_validate(value)
