"""Where data sets are looked for and where caches lie."""

from __future__ import annotations

import os
from pathlib import Path

from convlens.config.schema import DataConfig
from convlens.data.index.names import find_on_disk


def find_data_dir(spec: DataConfig) -> Path:
    """``data.dir``, or the place where the data set is looked for by its name."""
    if spec.dir:
        return find_on_disk(Path(spec.dir).expanduser())
    return Path(os.environ.get("CONVLENS_DATA", "data")).expanduser() / spec.name


def resolve_cache(spec: DataConfig) -> Path | None:
    """Where the decoded images of a run are kept; None: in memory alone."""
    return get_cache_dir() if spec.cache == "disk" else None


def get_cache_dir() -> Path:
    """Where pixel and feature caches lie: ``$CONVLENS_CACHE`` or ``~/.cache/convlens``."""
    return Path(os.environ.get("CONVLENS_CACHE", "~/.cache/convlens")).expanduser()
