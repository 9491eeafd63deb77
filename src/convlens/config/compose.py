"""Words from the command line to a resolved config, every mistake answered in one line.

Hydra composes; what stands here is what Hydra leaves out: near names for a misspelt group,
experiment or key, values checked against the default's type, ``~`` expanded, and no word lost.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_module
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from convlens.config.checks import check_config, find_rule, get_value, set_value
from convlens.config.folder import list_groups, search_path, take_folder
from convlens.config.habits import advice, prefix_advice
from convlens.config.schema import (
    TARGET,
    Config,
    OptimizerConfig,
    OwnOptimizerConfig,
    OwnSchedulerConfig,
    SchedulerConfig,
    Slice,
)
from convlens.config.targets import find_own_targets, find_owner, is_target
from convlens.core.errors import UserError, nearest

# by the model that was asked for, where no experiment was
DEFAULT_EXPERIMENTS = {
    "scratch": "scratch",
    "vgg16": "finetune_vgg16",
    "inception_v3": "finetune_inception_v3",
    "timm": "finetune_timm",
}
# ours, and what may stand in for it, with the keys that both have
REPLACED: dict[str, tuple[type[Slice], type[Slice]]] = {
    "optimizer": (OptimizerConfig, OwnOptimizerConfig),
    "scheduler": (SchedulerConfig, OwnSchedulerConfig),
}
# taken as they are typed: paths and patterns may hold what Hydra's grammar gives a meaning
PATH_KEYS = ("run_dir", "data.dir", "data.csv", "data.pattern", "data.masks", "model.weights")
# of a default's kind: the kinds that a value may be of, and the words for them
KINDS = {
    bool: (bool, "true or false"),
    int: (int, "a whole number"),
    float: (int | float, "a number"),
    list: (list, "a list, [a, b]"),
    dict: (dict, "keys below it: "),
    str: (str | int | float | list, "one value"),
}


def compose(words: list[str]) -> Config:
    """The resolved config for words such as ``exp=scratch data.size=96``.

    Args:
        words: ``group=name`` or ``key=value``; ``exp`` means ``experiment``, and ``config_dir=DIR``
            adds a folder of a person's own to the groups.

    Raises:
        UserError: a word that is none of these, or a value that does not fit its key.
    """
    folder, words = take_folder(words)
    known, path = list_groups(folder), search_path(folder)
    chosen, values = _sorted_out(words, known)
    chosen.setdefault("experiment", DEFAULT_EXPERIMENTS.get(chosen.get("model", "scratch"), "own"))
    if f"data.{TARGET}" in values:
        chosen.setdefault("data", "own")
    with initialize_config_module("convlens.configs", version_base="1.3"):
        picks = [f"{group}={name}" for group, name in chosen.items()]
        plain = _composed(picks, path)
        added = _added(values, plain, [*known, "exp", "config_dir"])
        _check_nulls(values)
        raw = {key for key, text in values.items() if _override(key, text) is None}
        overrides = [
            f"{'+' if key in added else ''}{key}={values[key]}" for key in values if key not in raw
        ]
        config = _composed(picks + overrides, path)
        _forget_replaced(config, chosen, values, path)
    for key in sorted(values):  # what stands above before what is below it
        try:
            if key in raw:
                set_value(config, key, _plain(key, values[key]))
            value = get_value(config, key)
        except (LookupError, TypeError) as error:
            raise _contradiction(key, values) from error
        if key not in added:
            _check_type(key, get_value(plain, key), value, values[key])
    config = _expanded(config)
    config["experiment"] = chosen["experiment"]
    return check_config(config)


def _sorted_out(words: list[str], known: dict[str, list[str]]) -> tuple[dict, dict]:
    """Words as the groups' choices and the keys' values."""
    chosen: dict[str, str] = {}
    values: dict[str, str] = {}
    for word in words:
        meant = split_values(word)
        if len(meant) > 1:
            raise UserError(f"{word}: several values; say multirun=true to train one run for each")
        key, text = _pair(meant[0])
        if key in known:
            if text not in known[key]:
                raise UserError(f"{key}={text}: no such {key}; {nearest(text, known[key])}")
            chosen[key] = text
        else:
            values[key] = text
    return chosen, values


def _added(values: dict[str, str], plain: dict, more: list[str]) -> set[str]:
    """The keys that no config has: those of a person's own class, which takes what it takes."""
    keys = set(_flat(plain))
    typed = {key.rpartition(".")[0] for key in values if is_target(key)}
    own = typed | {key.rpartition(".")[0] for key, _ in find_own_targets(plain)}
    strange = {key for key in values if key not in keys}
    for key in strange:
        if find_owner(key, own) is None:
            answer = advice(f"{key}={values[key]}") or nearest(key, [*keys, *more])
            raise UserError(f"{key}: no such key; {answer}")
    return strange


def _check_nulls(values: dict[str, str]) -> None:
    """Refuse a key below one that is set to null, whichever comes first."""
    nulls = tuple(f"{key}." for key, text in values.items() if text.lower() == "null")
    for key in values:
        if key.startswith(nulls):
            raise _contradiction(key, values)


def _contradiction(key: str, values: dict[str, str]) -> UserError:
    above = max((each for each in values if key.startswith(f"{each}.")), key=len)
    return UserError(
        f"{key}={values[key]}: {above}={values[above]} leaves no such key; leave one of them out"
    )


def _forget_replaced(config: dict, chosen: dict, values: dict[str, str], path: list[str]) -> None:
    """A person's own optimizer or scheduler is not called with the keys of ours that it replaces.

    Those an experiment sets for ours, and those of the choice that a typed class stands in for.
    """
    for group, (ours, own) in REPLACED.items():
        if f"{group}.{TARGET}" in values:
            keys = set()
        elif TARGET in config[group] and group in chosen:
            keys = set(_composed([f"{group}={chosen[group]}", "~experiment"], path)[group])
        else:
            continue
        keys |= {key.removeprefix(f"{group}.") for key in values} | own.model_fields.keys()
        for name in ours.model_fields.keys() - keys:
            config[group].pop(name, None)


def split_values(word: str) -> list[str]:
    """A word for each of its values: ``seed=0,1`` and ``seed=range(0,2)`` are two, any other one.

    Raises:
        UserError: no key=value, or values without an end.
    """
    key, text = _pair(word)
    override = _override(key, text)
    if override is None or not override.is_sweep_override():
        return [f"{key}={text}"]
    try:
        found = [f"{key}={value}" for value in override.sweep_string_iterator()]
    except HydraException:
        found = []
    if not found:
        raise UserError(f"{word}: no list of values; write a,b or choice(a,b) or range(0,3)")
    return found


def _pair(word: str) -> tuple[str, str]:
    key, equals, text = word.partition("=")
    if answer := prefix_advice(word):
        raise UserError(f"{word}: {answer}")
    if not equals or not key:
        answer = advice(word) or "such as exp=scratch or training.epochs=5"
        raise UserError(f"{word}: expected key=value; {answer}")
    return ("experiment" if key == "exp" else key), text


def _composed(overrides: list[str], path: list[str]) -> dict:
    """The whole config as a plain dictionary, interpolations filled in."""
    try:
        config: DictConfig = hydra_compose("train", overrides=overrides + path)
        return cast(dict, OmegaConf.to_container(config, resolve=True))
    except (HydraException, OmegaConfBaseException, RecursionError) as error:
        raise UserError(f"{' '.join(overrides)}: {error}") from error


def _override(key: str, text: str) -> Override | None:
    """What Hydra's grammar reads; None for a path, or what it cannot read: that is plain text."""
    if key in PATH_KEYS and text not in ("null", ""):
        return None
    try:
        return OverridesParser.create().parse_override(f"{key}={text}")
    except (HydraException, ValueError, RecursionError):  # a number of 4300 digits, 400 brackets
        return None


def _plain(key: str, text: str) -> Any:
    """What Hydra's grammar cannot read: a list as YAML (``[~/a b.png]``), the rest as text."""
    if key in PATH_KEYS or text[:1] != "[":
        return text
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{key}={text[:200]}: no readable list; write [a, b]") from error


def _flat(config: dict | list, prefix: str = "") -> list[str]:
    """Every key with dots, groups of keys and the entries of lists of groups included."""
    keys = []
    pairs = config.items() if isinstance(config, dict) else enumerate(config)
    for key, value in pairs:
        keys.append(f"{prefix}{key}")
        groups = isinstance(value, list) and any(isinstance(each, dict) for each in value)
        if isinstance(value, dict) or groups:
            keys += _flat(value, f"{prefix}{key}.")
    return keys


def _check_type(key: str, default: Any, value: Any, text: str) -> None:
    """Refuse a value whose kind differs from the default's; null defaults take anything.

    A key that takes several kinds of values is held to its rule alone.
    """
    if default is None or value is None:
        return
    rule, kind = find_rule(key), type(default)
    if rule is not None and rule.has_several_kinds:
        fits, wanted = rule.fits(value), rule.expected
    else:
        kinds, wanted = KINDS[kind]
        wanted += ", ".join(default) if kind is dict else ""
        fits = isinstance(value, kinds) and not (isinstance(value, bool) and kind in (int, float))
    if not fits:
        raise UserError(f"{key}={text}: expected {wanted} (the default is {default})")


def _expanded(value: Any) -> Any:
    """``~`` at the start of any text becomes the home folder."""
    if isinstance(value, dict):
        return {key: _expanded(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_expanded(each) for each in value]
    if isinstance(value, str) and (value == "~" or value.startswith("~/")):
        return str(Path(value).expanduser())
    return value


def _merged(key: str, before: Any, value: Any) -> Any:
    """Keys below a key are set anew one by one, as Hydra does it; the others stay."""
    if not isinstance(before, dict) or not isinstance(value, dict):
        return value
    for name in value:
        if name not in before and not key.startswith("finetune"):  # whose groups are free
            raise UserError(f"{key}.{name}: no such key; {nearest(str(name), before)}")
    return {**before, **value}


def apply_overrides(config: Config, words: list[str]) -> Config:
    """A resolved config with some keys set anew; ``data=NAME`` takes another source's defaults.

    Raises:
        UserError: a word that fits no key of the config.
    """
    folder, words = take_folder(words)
    known, plain = list_groups(folder), _expanded(config.plain())
    own = dict(find_own_targets(plain))
    with initialize_config_module("convlens.configs", version_base="1.3"):
        for key, text in map(_pair, words):
            if key in ("data", "trainer"):
                if text not in known[key]:
                    raise UserError(f"{key}={text}: no such {key}; {nearest(text, known[key])}")
                plain[key] = _composed([f"{key}={text}"], search_path(folder))[key]
                continue
            if key in own and own[key] == text:
                continue  # a class of one's own, named again
            if is_target(key):
                raise UserError(f"{key}={text}: a run keeps its own classes; leave this key out")
            keys = _flat(plain)
            if key not in keys:
                answer = advice(f"{key}={text}") or nearest(key, [*keys, "data", "trainer"])
                raise UserError(f"{key}: no such key; {answer}")
            override, before = _override(key, text), get_value(plain, key)
            value = _plain(key, text) if override is None else override.value()
            set_value(plain, key, _expanded(_merged(key, before, value)))
            _check_type(key, before, get_value(plain, key), text)
    return check_config(plain)
