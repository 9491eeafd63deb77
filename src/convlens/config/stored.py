"""The config in a run folder, for pages and tables, which only display it.

They also display runs of older versions and edited files, so the values are not checked. A missing
key raises KeyError; ``convlens.rundir.read.convert_run_errors`` turns it into a UserError.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from convlens.config.schema import AUGMENT_DETAILS, PhaseConfig, PlateauConfig


@dataclass(frozen=True)
class StoredConfig:
    """The config of a run folder.

    Attributes:
        plain: the content of the file.
    """

    plain: dict[str, Any]

    @property
    def experiment(self) -> str:
        """The name of the recipe."""
        return self.plain["experiment"]

    @property
    def seed(self) -> Any:
        """The seed; None if the file does not contain one."""
        return self.plain.get("seed")

    @property
    def precision(self) -> Any:
        """The floating-point precision of training."""
        return self.plain["precision"]

    @property
    def epochs(self) -> int | None:
        """The planned epochs; None if the phases decide, or the file does not contain them."""
        return self.plain.get("training", {}).get("epochs")

    @property
    def optimizer(self) -> str:
        """The name of the optimizer, or its user-defined class."""
        return _get_name(self.plain["optimizer"])

    @property
    def lr(self) -> float:
        """The learning rate after warm-up, in runs without phases."""
        return self.plain["optimizer"]["lr"]

    @property
    def scheduler(self) -> str:
        """The name of the scheduler, or its user-defined class."""
        return _get_name(self.plain["scheduler"])

    @property
    def augments(self) -> bool:
        """Whether ``data.augment`` changes images; True if the file does not contain it."""
        augment = self.plain.get("data", {}).get("augment")
        if augment is None:
            return True
        values = [value for key, value in augment.items() if key not in AUGMENT_DETAILS]
        return any(value not in (0, False, None) for value in values)

    def data_keys(self, name: str) -> dict[str, Any]:
        """Return the keys of ``data``, dotted, with values; none if its source has another name."""
        data = self.plain.get("data")
        if not isinstance(data, dict) or data.get("name") != name:
            return {}
        return {f"data.{key}": value for key, value in data.items()}

    @property
    def phases(self) -> list[PhaseConfig]:
        """The phases of ``finetune``; empty if everything is trained throughout."""
        phases = []
        for entry in self.plain.get("finetune", {}).get("phases") or []:
            until = entry.get("until") and PlateauConfig.model_construct(**entry["until"])
            phases.append(PhaseConfig.model_construct(**{**entry, "until": until}))
        return phases


def _get_name(group: dict[str, Any]) -> str:
    return group.get("_target_") or group["name"]
