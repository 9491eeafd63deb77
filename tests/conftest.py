"""What all tests share: a cache of their own, the real data if it lies there."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

pytest.register_assert_rewrite("support")  # before any of it is imported

from support.masks_made import with_masks  # noqa: E402, F401  a fixture
from support.pictures_made import damaged, photos  # noqa: E402, F401  fixtures
from support.places import SHARED  # noqa: E402
from support.remembered import remember_compositions  # noqa: E402
from support.tiny import draw_folder  # noqa: E402

remember_compositions()  # before the tests are collected, some of which depend on configs


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    """Nothing of the person's caches is read or written; drawn and decoded pictures are shared."""
    os.environ["CONVLENS_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    os.environ.pop("CONVLENS_DATA", None)
    os.environ.pop("CONVLENS_WEIGHTS", None)
    os.environ.pop("CONVLENS_RUN_DIR", None)
    os.environ.pop("CONVLENS_MAKE", None)  # messages name commands without make


@pytest.fixture
def said(monkeypatch) -> list[str]:
    """The lines of level WARNING and up that convlens says, whatever commands ran before."""
    lines: list[str] = []
    ear = logging.Handler(logging.WARNING)
    ear.emit = lambda record: lines.append(record.getMessage())
    monkeypatch.setattr(logging.getLogger("convlens"), "handlers", [ear])
    monkeypatch.setattr(logging.getLogger("convlens"), "propagate", False)
    return lines


@pytest.fixture
def at(tmp_path, monkeypatch) -> Path:
    """An empty folder to stand in; runs land in its outputs/."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def folder_of_two(tmp_path) -> Path:
    """train/, validation/ and test/ with cats/ and dogs/."""
    counts = {
        f"{split}/{name}": count
        for split, count in (("train", 10), ("validation", 4), ("test", 4))
        for name in ("cats", "dogs")
    }
    return draw_folder(tmp_path / "pictures", counts)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    folder = SHARED / "data"
    if not folder.is_dir():
        pytest.skip("the real data sets are not beside this checkout")
    return folder


@pytest.fixture(scope="session")
def shared_weights() -> Path:
    folder = SHARED / "weights"
    if not folder.is_dir():
        pytest.skip("the real weights are not beside this checkout")
    return folder
