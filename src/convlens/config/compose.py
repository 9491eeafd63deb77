"""Compose a resolved config from the words of a command line; every error is one line.

Hydra does the composing. This module adds what Hydra lacks: it suggests similar names for a
misspelt group, experiment or key, checks values against the types of the defaults, expands ``~``,
and never ignores a word.
"""

from __future__ import annotations

import os
from copy import deepcopy
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

from convlens.config.checks import check_config, check_kind, get_value, set_value
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

# the experiment that each model uses if the user chose none
DEFAULT_EXPERIMENTS = {
    "scratch": "scratch",
    "vgg16": "finetune_vgg16",
    "inception_v3": "finetune_inception_v3",
    "timm": "finetune_timm",
    "scratch_vit": "scratch_vit",
}
# by group: the schema of our choices, and that of a user-defined class
REPLACEABLE: dict[str, tuple[type[Slice], type[Slice]]] = {
    "optimizer": (OptimizerConfig, OwnOptimizerConfig),
    "scheduler": (SchedulerConfig, OwnSchedulerConfig),
}
# taken as typed: paths and patterns may contain characters that mean something in Hydra's grammar
PATH_KEYS = (
    "run_dir", "data.dir", "data.csv", "data.pattern", "data.masks", "data.annotations",
    "data.class_names", "model.weights", "logger.mlflow.uri", "logger.trackio.dir",
)  # fmt: skip
OPTIONS = "model.options"  # a table of any arguments of timm's constructors


def compose(words: list[str]) -> Config:
    """Return the resolved config for words such as ``exp=scratch data.size=96``.

    Args:
        words: ``group=name`` or ``key=value``; ``exp`` means ``experiment``, and ``config_dir=DIR``
            adds the groups in a user's folder.

    Raises:
        UserError: a word is none of these, or a value does not fit its key.
    """
    folder, words = take_folder(words)
    known, path = list_groups(folder), search_path(folder)
    chosen, values = _split_words(words, known)
    chosen.setdefault("experiment", DEFAULT_EXPERIMENTS.get(chosen.get("model", "scratch"), "own"))
    if f"data.{TARGET}" in values:
        chosen.setdefault("data", "own")
    with initialize_config_module("convlens.configs", version_base="1.3"):
        picks = [f"{group}={name}" for group, name in chosen.items()]
        plain = _compose_plain(picks, path)
        added = _find_added_keys(values, plain, [*known, "exp", "config_dir"])
        _check_nulls(values)
        raw = {key for key, text in values.items() if _parse_override(key, text) is None}
        raw |= {key for key in values if f"{key}.".startswith(f"{OPTIONS}.")}
        overrides = [
            f"{'+' if key in added else ''}{key}={values[key]}" for key in values if key not in raw
        ]
        # nothing is overridden by `convlens train --help`, say: composing takes a tenth of a second
        config = _compose_plain(picks + overrides, path) if overrides else deepcopy(plain)
        _remove_replaced_keys(config, chosen, values, path)
    for key in sorted(values):  # a table before the keys in it
        try:
            if key in raw:
                set_value(config, key, _parse_raw(key, values[key]))
            value = get_value(config, key)
        except (LookupError, TypeError) as error:
            raise _contradiction(key, values) from error
        if key not in added:
            check_kind(key, get_value(plain, key), value, values[key])
    config = _expand_home(config)
    config["experiment"] = chosen["experiment"]
    return check_config(config)


def _split_words(
    words: list[str], known: dict[str, list[str]]
) -> tuple[dict[str, str], dict[str, str]]:
    """Return the choices by group, and the values by key."""
    chosen: dict[str, str] = {}
    values: dict[str, str] = {}
    for word in words:
        key, text = _split_single(word, "set multirun=true to train one run for each")
        if key in known:
            for name in _list_choices(key, text):
                if name not in known[key]:
                    raise UserError(f"{key}={text}: no such {key}; {nearest(name, known[key])}")
            chosen[key] = text
        else:
            values[key] = text
    return chosen, values


def _list_choices(key: str, text: str) -> list[str]:
    """Return the names in a choice of a group: one, or the loggers in a list such as ``[a,b]``.

    Raises:
        UserError: the list is empty, or names a logger twice.
    """
    if key != "logger" or not text.startswith("["):
        return [text]
    override = _parse_override(key, text)
    names = override.value() if override else None
    if not isinstance(names, list) or not names or len(set(map(str, names))) < len(names):
        raise UserError(
            f"{key}={text}: expected names, each once, as in logger=[tensorboard,mlflow]"
        )
    return [str(name) for name in names]


def _find_added_keys(values: dict[str, str], plain: dict, more: list[str]) -> set[str]:
    """Return the keys that the config does not have yet: arguments of user-defined classes.

    Raises:
        UserError: such a key belongs to no user-defined class.
    """
    keys = set(_flat_keys(plain))
    typed = {key.rpartition(".")[0] for key in values if is_target(key)}
    own = typed | {key.rpartition(".")[0] for key, _ in find_own_targets(plain)}
    unknown = {key for key in values if key not in keys}
    for key in unknown:
        if find_owner(key, own) is None and not (OPTIONS in keys and key.startswith(f"{OPTIONS}.")):
            answer = advice(f"{key}={values[key]}") or nearest(key, [*keys, *more])
            raise UserError(f"{key}: no such key; {answer}")
    return unknown


def _check_nulls(values: dict[str, str]) -> None:
    """Refuse a key in a table that another word sets to null, whichever comes first."""
    nulls = tuple(f"{key}." for key, text in values.items() if text.lower() == "null")
    for key in values:
        if key.startswith(nulls):
            raise _contradiction(key, values)


def _contradiction(key: str, values: dict[str, str]) -> UserError:
    above = max((each for each in values if key.startswith(f"{each}.")), key=len)
    return UserError(
        f"{key}={values[key]}: {above}={values[above]} leaves no such key; leave one of them out"
    )


def _remove_replaced_keys(
    config: dict, chosen: dict, values: dict[str, str], path: list[str]
) -> None:
    """Remove the keys of our optimizer or scheduler if a user-defined class replaces it.

    The class is called with the keys of the group. Keys that an experiment or the replaced choice
    sets for our own optimizer or scheduler must not become arguments of the class.
    """
    for group, (ours, own) in REPLACEABLE.items():
        if f"{group}.{TARGET}" in values:
            keys = set()
        elif TARGET in config[group] and group in chosen:
            keys = set(_compose_plain([f"{group}={chosen[group]}", "~experiment"], path)[group])
        else:
            continue
        keys |= {key.removeprefix(f"{group}.") for key in values} | own.model_fields.keys()
        for name in ours.model_fields.keys() - keys:
            config[group].pop(name, None)


def split_values(word: str) -> list[str]:
    """Return one word per value: two for ``seed=0,1`` or ``seed=range(0,2)``, usually one.

    Raises:
        UserError: the word is not ``key=value``, or its list of values is empty or infinite.
    """
    key, text = _split_word(word)
    override = _parse_override(key, text)
    if override is None or not override.is_sweep_override():
        return [f"{key}={text}"]
    try:
        single = [f"{key}={value}" for value in override.sweep_string_iterator()]
    except HydraException:
        single = []
    if not single:
        raise UserError(f"{word}: not a list of values; write a,b or choice(a,b) or range(0,3)")
    return single


def _split_single(word: str, way_out: str) -> tuple[str, str]:
    """Return the key and the value of a word; refuse a list of values, which makes several runs."""
    single = split_values(word)
    if len(single) > 1:
        raise UserError(f"{word}: several values; {way_out}")
    return _split_word(single[0])


def _split_word(word: str) -> tuple[str, str]:
    """Return the key and the value of a word."""
    key, equals, text = word.partition("=")
    if answer := prefix_advice(word):
        raise UserError(f"{word}: {answer}")
    if not equals or not key:
        answer = advice(word) or "such as exp=scratch or training.epochs=5"
        raise UserError(f"{word}: expected key=value; {answer}")
    return ("experiment" if key == "exp" else key), text


def _compose_plain(overrides: list[str], path: list[str]) -> dict:
    """Return the whole config as a plain dictionary, with its interpolations resolved."""
    try:
        config: DictConfig = hydra_compose("train", overrides=overrides + path)
        return cast(dict, OmegaConf.to_container(config, resolve=True))
    except (HydraException, OmegaConfBaseException, RecursionError) as error:
        raise UserError(f"{' '.join(overrides)}: {error}") from error


def _parse_override(key: str, text: str) -> Override | None:
    """Parse a value with Hydra's grammar; None for a path, or if the grammar does not fit."""
    if key in PATH_KEYS and text not in ("null", ""):
        return None
    try:
        return OverridesParser.create().parse_override(f"{key}={text}")
    # ValueError: a number of more than 4300 digits; RecursionError: hundreds of brackets
    except (HydraException, ValueError, RecursionError):
        return None


def _parse_raw(key: str, text: str) -> Any:
    """Parse a value; if Hydra's grammar does not fit, a list is YAML, anything else is text."""
    if (override := _parse_override(key, text)) is not None:
        return override.value()
    if key in PATH_KEYS or text[:1] != "[":
        return text
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{key}={text[:200]}: not a readable list; write [a, b]") from error


def _flat_keys(config: dict | list, prefix: str = "") -> list[str]:
    """Return every dotted key, including tables and the entries of lists of tables."""
    keys = []
    pairs = config.items() if isinstance(config, dict) else enumerate(config)
    for key, value in pairs:
        keys.append(f"{prefix}{key}")
        has_tables = isinstance(value, list) and any(isinstance(each, dict) for each in value)
        if isinstance(value, dict) or has_tables:
            keys += _flat_keys(value, f"{prefix}{key}.")
    return keys


def _expand_home(value: Any) -> Any:
    """Replace ``~`` at the start of any text by the home folder."""
    if isinstance(value, dict):
        return {key: _expand_home(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_expand_home(each) for each in value]
    if isinstance(value, str) and (value == "~" or value.startswith(("~/", f"~{os.sep}"))):
        return str(Path(value).expanduser())
    return value


def _merge_table(key: str, before: Any, value: Any) -> Any:
    """Merge a new table into the old one, as Hydra does; any other value replaces the old one."""
    if not isinstance(before, dict) or not isinstance(value, dict):
        return value
    for name in value:
        if name not in before and not key.startswith(("finetune", OPTIONS)):  # any names
            raise UserError(f"{key}.{name}: no such key; {nearest(str(name), before)}")
    return {**before, **value}


def apply_overrides(config: Config, words: list[str]) -> Config:
    """Return a copy of a resolved config with other values of some keys.

    Args:
        config: the config, which does not change.
        words: ``key=value``; ``data=NAME`` and ``trainer=NAME`` replace the whole group by the
            defaults of that choice.

    Raises:
        UserError: a word fits no key of the config, or names another user-defined class.
    """
    folder, words = take_folder(words)
    known, plain = list_groups(folder), _expand_home(config.plain())
    own = dict(find_own_targets(plain))
    with initialize_config_module("convlens.configs", version_base="1.3"):
        for word in words:
            key, text = _split_single(word, "give one")
            if key in ("data", "trainer"):
                if text not in known[key]:
                    raise UserError(f"{key}={text}: no such {key}; {nearest(text, known[key])}")
                plain[key] = _compose_plain([f"{key}={text}"], search_path(folder))[key]
                continue
            if key in own and own[key] == text:
                continue  # the user types a user-defined class again to allow it
            if is_target(key):
                raise UserError(f"{key}={text}: a run keeps its own classes; leave this key out")
            keys = _flat_keys(plain)
            if key not in keys:
                answer = advice(f"{key}={text}") or nearest(key, [*keys, "data", "trainer"])
                raise UserError(f"{key}: no such key; {answer}")
            before, value = get_value(plain, key), _parse_raw(key, text)
            set_value(plain, key, _expand_home(_merge_table(key, before, value)))
            check_kind(key, before, get_value(plain, key), text)
    return check_config(plain)
