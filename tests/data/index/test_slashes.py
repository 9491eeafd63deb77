"""Names of images have slashes on every system, so that a split file can move between them."""

from __future__ import annotations

from pathlib import Path, PureWindowsPath

import numpy as np
import pytest

from convlens.data.index.class_folders import name_prefix
from convlens.data.index.files import Files


def test_the_prefix_of_names_has_slashes():
    root = PureWindowsPath(r"C:\data")
    assert name_prefix(root, root) == ""
    assert name_prefix(root / "train" / "cats", root) == "train/cats/"


@pytest.mark.parametrize(
    ("name", "is_plain"),
    [("cats/1.jpg", True), ("C:/other/1.jpg", False), ("/other/1.jpg", False), ("../1.jpg", False),
     ("a", True), ("cats/12:30.jpg", True)],
)  # fmt: skip
def test_absolute_names_of_either_system_are_recognised(name, is_plain):
    text = f"cats/0.jpg{name}".encode()
    files = Files("pets", text, np.array([0, 10, len(text)]))
    assert files._plain is is_plain
    assert next(iter(files)) == Path("pets/cats/0.jpg")
