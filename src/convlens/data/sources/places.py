"""Where data sets and caches are."""

from __future__ import annotations

import os
from pathlib import Path

from convlens.config.schema import DataConfig
from convlens.data.index.names import find_on_disk


def find_data_dir(spec: DataConfig) -> Path:
    """Return ``data.dir``, or the default folder for the data set's name."""
    if spec.dir:
        return find_on_disk(Path(spec.dir).expanduser())
    return Path(os.environ.get("CONVLENS_DATA", "data")).expanduser() / spec.name


def resolve_cache(spec: DataConfig) -> Path | None:
    """Return where the decoded images of a run are cached; None: only in memory."""
    return None if spec.cache == "ram" else get_cache_dir()


def get_cache_dir() -> Path:
    """Return the folder of pixel and feature caches: ``$CONVLENS_CACHE`` or its default."""
    return Path(os.environ.get("CONVLENS_CACHE", "~/.cache/convlens")).expanduser()
