"""Named parameter groups: which pattern selects which parameters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import filter as fnfilter
from fnmatch import fnmatchcase

from torch import nn

from convlens.config.schema import OptimizerConfig, OwnOptimizerConfig, StagesConfig
from convlens.core.errors import UserError, nearest
from convlens.models import Classifier


@dataclass(frozen=True)
class Group:
    """Parameters that share a learning rate.

    Attributes:
        name: used in schedules and in ``lr/<name>``; ``base/block3`` for a stage of ``base``.
        parameters: names of the parameters, in the order of the classifier.
        factor: factor of the group's learning rate, below 1 for early stages.
    """

    name: str
    parameters: tuple[str, ...]
    factor: float = 1.0


def matches(pattern: str, name: str) -> bool:
    """Return whether a parameter is at or below a path or glob.

    >>> matches("backbone.block5", "backbone.block5.conv1.weight")
    True
    >>> matches("backbone.block[45]", "backbone.block3.conv1.weight")
    False
    """
    return (
        name == pattern
        or name.startswith(f"{pattern}.")
        or fnmatchcase(name, pattern)
        or fnmatchcase(name, f"{pattern}.*")
    )


def build_groups(
    patterns: Mapping[str, str | list[str] | StagesConfig], model: Classifier
) -> dict[str, list[Group]]:
    """Assign a network's parameters to the groups of the config key ``finetune.groups``.

    A parameter belongs to the first group that matches it, so a later pattern may be wider than an
    earlier one (``backbone`` after ``backbone.block5`` is the rest of the backbone).

    Args:
        patterns: name to a pattern, a list of patterns, or ``match`` and ``stage_decay``. The last
            makes a group of each stage; a stage's rate is that of the next stage times
            ``stage_decay`` (discriminative rates: J. Howard, S. Ruder, *Universal Language Model
            Fine-tuning for Text Classification*, ACL 2018, https://arxiv.org/abs/1801.06146).
        model: the network.

    Returns:
        Name to its groups: one, or one per stage, in the order of the stages.

    Raises:
        UserError: a pattern matches nothing, two groups overlap without the later one being wider,
            or a parameter is in no group.
    """
    names = [name for name, _ in model.named_parameters()]
    taken: dict[str, str] = {}
    matched: dict[str, set[str]] = {}
    groups: dict[str, list[Group]] = {}
    for group, value in patterns.items():
        decay = value.stage_decay if isinstance(value, StagesConfig) else None
        selected = value.match if isinstance(value, StagesConfig) else value
        mine: set[str] = set()
        for pattern in [selected] if isinstance(selected, str) else selected:
            hits = {name for name in names if matches(pattern, name)}
            if not hits:
                raise UserError(
                    f"finetune.groups.{group}: no parameter matches {pattern}; "
                    f"{nearest(pattern, _paths(names))}"
                )
            mine |= hits
        for other, theirs in matched.items():
            if mine & theirs and not theirs < mine:
                raise UserError(
                    f"finetune.groups: {other} and {group} overlap, both match "
                    f"{min(mine & theirs)} and {len(mine & theirs) - 1} more; put the narrower "
                    f"pattern first"
                )
        matched[group] = mine
        own = [name for name in names if name in mine and name not in taken]
        if not own:
            raise UserError(
                f"finetune.groups.{group}: earlier groups already contain all parameters it matches"
            )
        taken |= dict.fromkeys(own, group)
        groups[group] = (
            _split_by_stage(group, own, decay, model) if decay else [Group(group, tuple(own))]
        )
    left = [name for name in names if name not in taken]
    if left:
        raise UserError(
            f"finetune.groups: {len(left)} parameters are in no group, the first is {left[0]}; "
            f"add a group, such as base: backbone"
        )
    return groups


def list_optimizer_groups(
    groups: Iterable[Group], model: nn.Module, chosen: OptimizerConfig | OwnOptimizerConfig
) -> list[dict]:
    """Return the parameter groups of an optimizer: one for each group, or two.

    Args:
        groups: groups of the schedule.
        model: the network.
        chosen: the config group ``optimizer``. With ``decayed: matrices``, weight decay leaves out
            biases, the parameters of norms and layer scales (all of one axis), and what the network
            itself names in ``no_weight_decay``, as timm's networks name tokens and position
            embeddings (the rule of ``timm.optim.param_groups_weight_decay``).

    Returns:
        Dictionaries with ``name`` and ``params``. Parameters that are not decayed form a group of
        the same name, with ``weight_decay`` 0.
    """
    parameters = dict(model.named_parameters())
    spared: set[str] = set()
    if isinstance(chosen, OptimizerConfig) and chosen.decayed == "matrices":
        spared = {name for name, value in parameters.items() if value.ndim <= 1}
        for path, module in model.named_modules():
            for pattern in getattr(module, "no_weight_decay", tuple)():
                spared |= set(fnfilter(parameters, f"{path}.{pattern}".lstrip(".")))
    listed = []
    for group in groups:
        for chosen, values in (
            ([name for name in group.parameters if name not in spared], {}),
            ([name for name in group.parameters if name in spared], {"weight_decay": 0.0}),
        ):
            if chosen:
                params = [parameters[name] for name in chosen]
                listed.append({"name": group.name, "params": params, **values})
    return listed


def _split_by_stage(group: str, names: list[str], decay: float, model: Classifier) -> list[Group]:
    backbone, start = model.backbone, "backbone."
    if not backbone.stage_names or not all(name.startswith(start) for name in names):
        raise UserError(
            f"finetune.groups.{group}: stage_decay needs parameters of a backbone with stages"
        )
    stages: dict[int, list[str]] = {}
    for name in names:
        stages.setdefault(backbone.find_stage(name.removeprefix(start)), []).append(name)
    last = max(stages)
    return [
        Group(f"{group}/{backbone.stage_names[stage]}", tuple(members), decay ** (last - stage))
        for stage, members in sorted(stages.items())
    ]


def _paths(names: list[str]) -> set[str]:
    """Return every module path above the parameters, to suggest similar names."""
    paths = set()
    for name in names:
        parts = name.split(".")
        paths |= {".".join(parts[:depth]) for depth in range(1, len(parts))}
    return paths
