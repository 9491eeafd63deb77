"""The model card of an exported network: what it is, what it was trained on, what it scored."""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from convlens.config.checks import restore_config
from convlens.config.compose import compose
from convlens.config.folder import take_folder
from convlens.config.schema import Config
from convlens.experiment.inputs import find_checkpoint, find_run_folder
from convlens.export.facts import Facts, describe_rule
from convlens.rundir.paths import holds_run
from convlens.rundir.read import read_run
from convlens.training.survival.checkpoint import read_checkpoint

_MOST_NAMES = 20  # classes named in the text; the metadata lists all


@dataclass(frozen=True)
class Origin:
    """Where a network comes from.

    Attributes:
        config: of the run, or composed from the words that name a library's network.
        checkpoint: the file; None for a library's network.
        epoch: completed epochs of the checkpoint.
    """

    config: Config
    checkpoint: Path | None = None
    epoch: int = 0


def read_origin(ckpt: str | None, words: list[str]) -> Origin:
    """Return where the network that a command names comes from.

    Args:
        ckpt: as for ``convlens.experiment.networks.load_network``.
        words: as for ``load_network``.

    Raises:
        UserError: the checkpoint cannot be read, or the words do not compose.
    """
    if ckpt is None:
        return Origin(compose(words))
    path = find_checkpoint(ckpt)
    content = read_checkpoint(path)
    plain = content["hyper_parameters"]["config"]
    config = restore_config(plain, str(path), take_folder(words)[1])
    return Origin(config, path, content["epoch"] + 1)


def write_card(network: nn.Module, facts: Facts, origin: Origin) -> str:
    """Return the model card of a network, in Markdown.

    Args:
        network: the network.
        facts: what the file says about it, without the card.
        origin: where the network comes from.
    """
    config, recipe = origin.config, facts.recipe
    parameters = sum(each.numel() for each in network.parameters())
    names = ", ".join(facts.class_names[:_MOST_NAMES])
    more = len(facts.class_names) - _MOST_NAMES
    lines = [
        f"network: {config.model.name}, {parameters:,} parameters",
        f"classes: {names}{f' and {more} more' if more > 0 else ''}",
    ]
    if origin.checkpoint is None:
        lines.append("trained on: ImageNet, with the weights of its library")
    else:
        lines += [
            f"trained on: data={config.data.name}",
            f"run: {config.experiment}, seed {config.seed}, after epoch {origin.epoch}",
            *_list_results(origin),
        ]
    calibrated = "" if facts.temperature != 1 else ", not calibrated"
    lines += [
        f"input: (B, {recipe.channels}, {recipe.height}, {recipe.width}), values in [0, 1]; the "
        f"network normalises them",
        f"preprocessing: {describe_rule(recipe)}, divided by 255",
        f"temperature: {facts.temperature:g}{calibrated}",
    ]
    if facts.thresholds is not None:
        limits = ", ".join(f"{limit:.3g}" for limit in facts.thresholds[:_MOST_NAMES])
        lines.append(
            f"several classes per image: each probability is a sigmoid, and a class is predicted "
            f"from its threshold on: {limits}{', …' if more > 0 else ''}"
        )
    if facts.layer is not None:
        which = "the predicted class" if facts.thresholds is None else "each class"
        lines.append(f"map: Grad-CAM of {which} at {facts.layer}")
    versions = (f"{each} {importlib.metadata.version(each)}" for each in ("convlens", "torch"))
    lines.append(f"written by: {', '.join(versions)}")
    title = f"# {config.model.name}, {len(facts.class_names)} classes"
    return "\n".join([title, "", *(f"- {line}" for line in lines), ""])


def _list_results(origin: Origin) -> list[str]:
    """Return a line with the test results of the run, if they are those of its checkpoint."""
    home = find_run_folder(origin.checkpoint)
    if home is None or not holds_run(home):
        return []
    summary = read_run(home).summary or {}
    test = summary.get("test")
    if not isinstance(test, dict) or summary.get("best_epoch") != origin.epoch:
        return []
    found = [
        f"{key} {test[key]:.4f}" for key in ("accuracy", "mean_ap", "macro_f1", "loss")
        if isinstance(test.get(key), int | float)
    ]  # fmt: skip
    return [f"test split of the run: {', '.join(found)}"] if found else []
