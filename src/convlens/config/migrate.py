"""Migrate configs of earlier formats, from checkpoints and run folders, to the current format.

A config in a file contains the number of its format. If you add, rename or remove a key, increase
``FORMAT``, add a step here, and keep a checkpoint and a run folder of the old format as fixtures.
"""

from __future__ import annotations

from importlib import resources
from typing import Any

import yaml

from convlens.config.schema import LOOKS, TARGET, Config
from convlens.core.errors import UserError

FORMAT = 4
KEY = "format"


def dump_config(config: Config) -> dict:
    """Return a config as checkpoints and run folders store it: plain values and the format."""
    return {KEY: FORMAT, **config.plain()}


def dump_yaml(config: Config) -> str:
    """Return the text of a run folder's ``config.yaml``."""
    return yaml.safe_dump(dump_config(config), sort_keys=False, allow_unicode=True)


def migrate_config(plain: dict, where: str) -> dict:
    """Return a stored config in the current format, without the format's number.

    Args:
        plain: the stored config; groups that it lacks are not added.
        where: the file that it comes from, for messages.

    Raises:
        UserError: the format is unknown here, so a later version of convlens wrote the config.
    """
    number = plain.get(KEY, 0)
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number <= FORMAT:
        raise UserError(
            f"{where}: {KEY}={number}: a later version of convlens wrote it (this one reads "
            f"formats up to {FORMAT}); use that version"
        )
    plain = {name: value for name, value in plain.items() if name != KEY}
    for step in _STEPS[number:]:
        plain = step(plain)
    return plain


def _to_1(plain: dict) -> dict:
    """Add keys that were introduced before formats had numbers, with values without effect."""
    is_scratch = "filters" in plain.get("model", {})
    added: dict[str, dict[str, Any]] = {
        "training": {
            "batch_size_is": "global", "accumulate": 1, "lr_is": "global", "validations": 1,
            "compile": False,
        },
        "model": {"weights": "none"} if is_scratch else {"head_classes": "order"},
        "data": {"masks": None} if "pattern" in plain.get("data", {}) else {},
        "looking": {"first_seconds": None, "last_seconds": None},
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
    budget = looking.pop("share", 0.05) if looking else 0.05  # fraction of an epoch
    if "callbacks" in plain:
        looks = {name: _migrate_look(node) for name, node in plain["callbacks"].items()}
        plain["callbacks"] = {"budget": budget, **looks}
    return plain


def _migrate_look(node: Any) -> Any:
    """Return one of our callbacks with its current options; any other node as it is."""
    path = node.get(TARGET) if isinstance(node, dict) else None
    if not isinstance(path, str) or path not in (defaults := _read_default_looks()):
        return node
    current = LOOKS[path.rpartition(".")[2]].model_fields
    options = {key: value for key, value in node.items() if key in current or key == TARGET}
    return {**defaults[path], **options}


def _read_default_looks() -> dict[str, dict]:
    """Return the callbacks in ``configs/callbacks`` with their default options, by class."""
    folder = resources.files("convlens.configs") / "callbacks"
    looks: dict[str, dict] = {}
    for name in ("default", "all"):
        nodes = yaml.safe_load((folder / f"{name}.yaml").read_text(encoding="utf-8")).values()
        looks |= {node[TARGET]: node for node in nodes if isinstance(node, dict)}
    looks["convlens.callbacks.Scores"]["which"] = "default"  # in place of references
    for name in ("GradCam", "LeGrad"):
        looks[f"convlens.callbacks.{name}"]["classes"] = 2
    return looks


def _to_2(plain: dict) -> dict:
    """Keep what filter pictures showed: units of all layers."""
    callbacks = plain.get("callbacks", {})
    for name, node in callbacks.items():
        if isinstance(node, dict) and node.get(TARGET) == "convlens.callbacks.FilterVisuals":
            callbacks[name] = {"limit": None, **node}
    return plain


def _to_3(plain: dict) -> dict:
    """Add what pictures show, with the values that draw what they showed."""
    if "looking" in plain:
        plain["looking"] = {"classes": 2, **plain["looking"]}
    added: dict[str, dict[str, Any]] = {
        "convlens.callbacks.GradCam": {"classes": 2, "pixelated": False},
        "convlens.callbacks.ActivationGrids": {"order": "index", "channels": None},
        "convlens.callbacks.FilterVisuals": {"choose": "even"},
        "convlens.callbacks.Attribution": {"smooth": 0.0},
    }
    callbacks = plain.get("callbacks", {})
    for name, node in callbacks.items():
        if isinstance(node, dict):
            callbacks[name] = {**node, **added.get(str(node.get(TARGET)), {})}
    return plain


def _to_4(plain: dict) -> dict:
    """Add whether kernels are deterministic; they always were."""
    if "training" in plain:
        plain["training"] = {"deterministic": True, **plain["training"]}
    return plain


_STEPS = (_to_1, _to_2, _to_3, _to_4)
