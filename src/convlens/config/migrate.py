"""Configs of earlier formats, as checkpoints and run folders hold them, in today's.

A config in a file carries the number of its format. Whoever adds, renames or removes a key raises
``FORMAT``, adds a step here, and keeps a checkpoint and a run folder of before as a fixture.
"""

from __future__ import annotations

from importlib import resources
from typing import Any

import yaml

from convlens.config.schema import LOOKS, TARGET, Config
from convlens.core.errors import UserError

FORMAT = 1
KEY = "format"


def dump_config(config: Config) -> dict:
    """A config as it is written into a checkpoint or a run folder: plain, with its format."""
    return {KEY: FORMAT, **config.plain()}


def dump_yaml(config: Config) -> str:
    """A config as a run folder holds it, the text of its ``config.yaml``."""
    return yaml.safe_dump(dump_config(config), sort_keys=False, allow_unicode=True)


def migrate_config(plain: dict, where: str) -> dict:
    """A stored config in today's format, without its number.

    Args:
        plain: groups of keys; one that is not there stays away.
        where: its file, for messages.

    Raises:
        UserError: a later version of convlens wrote it.
    """
    number = plain.get(KEY, 0)
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number <= FORMAT:
        raise UserError(
            f"{where}: {KEY}={number}: a later convlens wrote it (this one reads formats up to "
            f"{FORMAT}); use that version"
        )
    plain = {name: value for name, value in plain.items() if name != KEY}
    for step in _STEPS[number:]:
        plain = step(plain)
    return plain


def _to_1(plain: dict) -> dict:
    """Before formats were numbered: what was added later did not exist, and so had no effect."""
    scratch = "filters" in plain.get("model", {})
    added: dict[str, dict[str, Any]] = {
        "training": {
            "batch_size_is": "global", "accumulate": 1, "lr_is": "global", "validations": 1,
            "compile": False,
        },
        "model": {"weights": "none"} if scratch else {"head_classes": "order"},
        "data": {"masks": None} if "pattern" in plain.get("data", {}) else {},
        "looking": {"first_seconds": 10.0, "last_seconds": 60.0},
        "alarms": {
            "gap": 1.0, "gap_epochs": 3, "patience": 2, "evidence_lift": 1.0, "same_place": 0.7,
            "dead_share": 0.9, "mistaken_share": 0.5, "mistaken_pictures": 10,
        },
    }  # fmt: skip
    plain = {
        "finetune": {"batch_norm": "frozen_eval", "groups": None, "phases": None},
        "cache_features": "auto", "scores": "default", **plain,
    }  # fmt: skip
    for group, keys in added.items():
        if group in plain:
            plain[group] = {**keys, **plain[group]}
    looking = plain.get("looking", {})
    share = looking.pop("share", 0.05) if looking else 0.05  # of an epoch
    if "callbacks" in plain:
        looks = {name: _look(node) for name, node in plain["callbacks"].items()}
        plain["callbacks"] = {"budget": share, **looks}
    return plain


def _look(node: Any) -> Any:
    """A callback of ours with the options that it has today."""
    path = node.get(TARGET) if isinstance(node, dict) else None
    if not isinstance(path, str) or path not in (looks := _looks()):
        return node
    kept = LOOKS[path.rpartition(".")[2]].model_fields
    return {
        **looks[path],
        **{key: value for key, value in node.items() if key in kept or key == TARGET},
    }


def _looks() -> dict[str, dict]:
    """The callbacks of ``configs/callbacks`` by their class, as they are by default."""
    folder = resources.files("convlens.configs") / "callbacks"
    found: dict[str, dict] = {}
    for name in ("default", "all"):
        nodes = yaml.safe_load((folder / f"{name}.yaml").read_text(encoding="utf-8")).values()
        found |= {node[TARGET]: node for node in nodes if isinstance(node, dict)}
    found["convlens.callbacks.Scores"]["which"] = "default"
    return found


_STEPS = (_to_1,)
