"""The config of a run, read back from its folder."""

from __future__ import annotations

from pathlib import Path

import yaml

from convlens.config.checks import check_shape
from convlens.core.errors import UserError
from convlens.rundir.paths import OUTPUTS

_MOST_LETTERS = 1_000_000  # of a config.yaml; ours have some thousand


def read_config(folder: Path) -> dict:
    """The resolved config of a run.

    Raises:
        UserError: the folder holds no run.
    """
    file = folder / "config.yaml"
    if not folder.is_dir():
        raise UserError(f"there is no run folder {folder}; runs lie in {OUTPUTS}/")
    if not file.exists():
        raise UserError(f"{folder} holds no run: it has no config.yaml")
    try:
        config = yaml.safe_load(_text_of(file))
    except (
        OSError,
        yaml.YAMLError,
        ValueError,
        RecursionError,
    ) as error:  # dates and numbers that are none
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{file} is no readable config ({reason})") from error
    if not isinstance(config, dict) or "experiment" not in config:
        raise UserError(f"{file} is not the config of a run")
    check_shape(config, str(file))
    return config


def _text_of(file: Path) -> str:
    """A config's text; one that is longer than any config is not read."""
    with open(file, encoding="utf-8") as text:
        content = text.read(_MOST_LETTERS + 1)
    if len(content) > _MOST_LETTERS:
        raise UserError(f"{file} is no config: it has more than {_MOST_LETTERS:,} letters")
    return content
