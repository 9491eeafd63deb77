"""``make split``: folders appear complete or not at all, and nothing is overwritten."""

from __future__ import annotations

import os

import pytest

from convlens.cli import split as command
from convlens.core.errors import UserError
from convlens.data.index import split_copy as splits
from convlens.data.index.listing import list_images


@pytest.fixture
def src(tmp_path):
    for name, pictures in (("cats", 20), ("dogs", 10)):
        (tmp_path / "src" / name / "deep").mkdir(parents=True)
        for number in range(pictures):
            sub = "deep/" if number == 0 else ""
            (tmp_path / "src" / name / f"{sub}{number}.jpg").write_text(f"{name} {number}")
    return tmp_path / "src"


def run(src, dst, **kwargs):
    return command.divide(src, dst, **{"validation": 0.2, "test": 0.1, "seed": 0, **kwargs})


def test_copies_everything_once_and_prints_the_counts(src, tmp_path, capsys):
    counts = run(src, tmp_path / "new" / "dst")
    assert counts == {
        "train": {"cats": 14, "dogs": 7},
        "validation": {"cats": 4, "dogs": 2},
        "test": {"cats": 2, "dogs": 1},
    }
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("cats", "dogs", "validation", "30"))
    made = list_images(tmp_path / "new" / "dst")
    texts = {file.read_text() for file in made.files}
    assert len(made) == len(texts) == 30
    assert all(file.read_text().startswith(file.parts[-2]) for file in made.files
               if file.parts[-2] != "deep")  # fmt: skip
    assert sum("deep" in file.parts for file in made.files) == 2
    assert os.listdir(tmp_path / "new") == ["dst"]


def test_same_seed_same_split_and_links(src, tmp_path):
    run(src, tmp_path / "a")
    run(src, tmp_path / "b", link=True)
    a, b = list_images(tmp_path / "a"), list_images(tmp_path / "b")
    assert list(a.files.names()) == list(b.files.names())
    assert all(file.stat().st_nlink == 2 for file in b.files)
    assert all(file.stat().st_nlink == 1 for file in a.files)


def test_empty_folder_is_taken_a_filled_one_refused(src, tmp_path):
    (tmp_path / "dst").mkdir()
    run(src, tmp_path / "dst")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match="exists and will not be overwritten"):
        run(src, tmp_path / "dst", seed=1)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="exists and will not be overwritten"):
        run(src, tmp_path / "file")
    assert sorted(set(tmp_path.rglob("*")) - {tmp_path / "file"}) == before


def test_refusals_name_the_words_of_this_command(src, tmp_path):
    with pytest.raises(UserError, match="is inside src"):
        run(src, src / "split")
    with pytest.raises(UserError, match=r"no folder .*: set src to"):
        run(tmp_path / "sr", tmp_path / "dst")
    with pytest.raises(UserError, match="leave 1 of 30 for training"):
        run(src, tmp_path / "dst", validation=26)
    run(src, tmp_path / "dst")
    with pytest.raises(UserError, match="split already"):
        run(tmp_path / "dst", tmp_path / "again")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        run(src, tmp_path / "file" / "dst")


def test_nothing_is_left_when_copying_fails(src, tmp_path, monkeypatch):
    copies = []

    def failing(source, place):
        if len(copies) == 5:
            raise OSError(28, "No space left on device")
        copies.append(place)
        os.link(source, place)

    monkeypatch.setattr(splits.shutil, "copy2", failing)
    with pytest.raises(UserError, match="No space left on device"):
        run(src, tmp_path / "dst")
    assert os.listdir(tmp_path) == ["src"]
