"""The config of a run folder as a reader sees it: by whatever version, or edited; nothing is run.

Pages and tables show old and foreign runs too, so nothing is checked here but what is shown; what
is missing and needed raises, which the reader tells as a failing of the run's files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from convlens.config.schema import PhaseConfig, PlateauConfig


@dataclass(frozen=True)
class StoredConfig:
    """A config out of a run folder.

    Attributes:
        plain: all of it, as it stands there.
    """

    plain: dict[str, Any]

    @property
    def experiment(self) -> str:
        return self.plain["experiment"]

    @property
    def seed(self) -> Any:
        """None where the file does not tell."""
        return self.plain.get("seed")

    @property
    def precision(self) -> Any:
        return self.plain["precision"]

    @property
    def epochs(self) -> int | None:
        """Planned; None where the file does not tell, or the phases do."""
        return self.plain.get("training", {}).get("epochs")

    @property
    def optimizer(self) -> str:
        """Its name, or the class of a person's own."""
        return _name(self.plain["optimizer"])

    @property
    def lr(self) -> float:
        return self.plain["optimizer"]["lr"]

    @property
    def scheduler(self) -> str:
        """Its name, or the class of a person's own."""
        return _name(self.plain["scheduler"])

    @property
    def augments(self) -> bool:
        """Whether ``data.augment`` changes anything: what is 0, false or null does not."""
        ranges = self.plain.get("data", {}).get("augment")
        if ranges is None:  # a config that does not tell
            return True
        hows = ("fill", "crop_ratio")
        return any(value not in (0, False, None) for k, value in ranges.items() if k not in hows)

    def places(self, name: str) -> dict[str, Any]:
        """The keys of ``data``, with dots, where it is the source of that name; else nothing."""
        data = self.plain.get("data")
        if not isinstance(data, dict) or data.get("name") != name:
            return {}
        return {f"data.{key}": value for key, value in data.items()}

    @property
    def phases(self) -> list[PhaseConfig]:
        """Of ``finetune``; empty where everything is trained throughout."""
        found = []
        for entry in self.plain.get("finetune", {}).get("phases") or []:
            until = entry.get("until") and PlateauConfig.model_construct(**entry["until"])
            found.append(PhaseConfig.model_construct(**{**entry, "until": until}))
        return found


def _name(group: dict[str, Any]) -> str:
    return group.get("_target_") or group["name"]
