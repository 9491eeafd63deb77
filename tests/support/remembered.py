"""Let Hydra compose each choice of config files only once.

Hydra reads and merges some twenty files for every call. The tests compose a config a few thousand
times, with few choices of files (``exp=scratch data=shapes``) and many values (``seed=1``).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from copy import deepcopy

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import ConfigRepository
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from convlens.config import compose
from convlens.config.folder import list_groups


def remember_compositions() -> None:
    """Parse the package's config files once, and merge the same choice of them once, from now on.

    Hydra still applies the values, and the caller resolves interpolations. A folder of user configs
    is still read each time.
    """
    compose.hydra_compose = remember(compose.hydra_compose)
    read, files = ConfigRepository.load_config, {}

    def load_config(self: ConfigRepository, config_path: str) -> ConfigResult | None:
        sources = tuple(source.full_path() for source in self.get_sources())
        if any(source.startswith("file:") for source in sources):
            return read(self, config_path)
        if (sources, config_path) not in files:
            files[sources, config_path] = read(self, config_path)
        return deepcopy(files[sources, config_path])

    ConfigRepository.load_config = load_config


def remember(plain: Callable[..., DictConfig]) -> Callable[..., DictConfig]:
    """Return a function that composes what Hydra's ``compose`` does, faster."""
    groups = list_groups().keys()

    @functools.cache
    def choose(name: str, choices: tuple[str, ...]) -> DictConfig:
        return plain(name, overrides=list(choices))

    @functools.cache
    def remembered(name: str, overrides: tuple[str, ...]) -> DictConfig:
        choices = tuple(word for word in overrides if word.partition("=")[0] in groups)
        try:
            values = OverridesParser.create().parse_overrides(
                [word for word in overrides if word not in choices]
            )
            if not any(value.is_sweep_override() for value in values):
                config = deepcopy(choose(name, choices))
                ConfigLoaderImpl._apply_overrides_to_config(values, config)
                return config
        except (HydraException, OmegaConfBaseException):
            pass  # Hydra says it in its own words, below
        return plain(name, overrides=list(overrides))

    def composed(name: str, overrides: list[str]) -> DictConfig:
        if any(word.startswith("hydra.") for word in overrides):
            return plain(name, overrides=overrides)
        return remembered(name, tuple(overrides))

    return composed
