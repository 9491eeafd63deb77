"""The interface of experiment trackers, such as MLflow."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from convlens.callbacks.logging.table import Table

Part = Literal["report", "model"]
STEPS = "train_step/"  # tags that begin so have optimiser steps as their clock, all others epochs


class Tracker(ABC):
    """One run in an experiment tracker.

    Every method may raise any exception of the service; ``Trackers`` handles it.

    Attributes:
        name: the service, as in ``logger=NAME``.
        run_id: the service's name of the run, by which a resumed run continues it.
        place: where a person finds the run.
    """

    name: ClassVar[str]
    run_id: str
    place: str

    def rename(self, tag: str) -> str:
        """Return the name that the service uses for a tag."""
        return tag

    @abstractmethod
    def find_logged(self) -> Iterable[tuple[str, int]] | None:
        """Return name and step of each entry that the service has; None if it cannot say."""

    @abstractmethod
    def log_numbers(self, values: Mapping[str, float], step: int) -> None:
        """Log numbers by tag."""

    @abstractmethod
    def log_picture(self, tag: str, file: Path, step: int) -> None:
        """Log a picture, a JPEG file."""

    @abstractmethod
    def log_text(self, tag: str, text: str, step: int) -> None:
        """Log a line of text."""

    @abstractmethod
    def log_table(self, tag: str, table: Table, step: int) -> None:
        """Log a table."""

    @abstractmethod
    def log_file(self, part: Part, file: Path) -> None:
        """Log a file that the run ends with."""

    def flush(self) -> None:  # noqa: B027 most services have nothing to do
        """Write all that was logged to where it is kept, if the service does so later by itself."""

    @abstractmethod
    def close(self, finished: bool = False) -> None:
        """End the run in the service; ``finished`` is False if it was interrupted or failed."""


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a nested config by its dotted keys; lists are values.

    >>> flatten({"data": {"name": "shapes"}, "seed": 0})
    {'data.name': 'shapes', 'seed': 0}
    """
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
