"""Paths on the command line mean what they say: with blanks, umlauts, and as on Windows."""

from __future__ import annotations

import pytest

from convlens.config.compose import compose
from convlens.config.folder import search_path

WINDOWS = (
    r"C:\Users\me\pictures", r"C:\new\table", "C:/Users/me/my pictures", r"\\server\share\ü",
    r"..\data\n", r"D:\a,b\(c) [d]",
)  # fmt: skip


@pytest.mark.parametrize("path", WINDOWS)
def test_paths_of_windows_are_taken_as_they_are(path):
    config = compose(["data=image_folder", f"data.dir={path}", f"run_dir={path}"])
    assert config.data.dir == config.run_dir == path


def test_paths_of_windows_in_a_list():
    words = r"probes.files=[C:\new\a.png, '\\server\my pictures\b.png', C:/x/c.png]"
    assert compose([words]).probes.files == [
        r"C:\new\a.png", r"\\server\my pictures\b.png", "C:/x/c.png",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["mine", "my own", "für mich", "it's", "50%20", r"back\slash"])
def test_a_folder_of_groups_may_have_any_name(tmp_path, name):
    folder = tmp_path / name
    (folder / "optimizer").mkdir(parents=True)
    (folder / "optimizer" / "mine.yaml").write_text(
        "defaults: [adam, _self_]\nweight_decay: 0.125\n", encoding="utf-8"
    )
    assert compose([f"config_dir={folder}", "optimizer=mine"]).optimizer.weight_decay == 0.125


def test_hydra_is_given_slashes_on_windows():
    from pathlib import PureWindowsPath

    (word,) = search_path(PureWindowsPath(r"C:\my groups"))
    assert word == "hydra.searchpath=['file://C:/my groups']"
