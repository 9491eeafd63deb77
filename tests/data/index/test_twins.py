"""Labels that contradict: one line, whatever the layout the same image lies in twice."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from convlens.config.compose import compose
from convlens.data.sources.registry import build_index
from support.tiny import draw_folder


def notes(folder: Path, *more: str) -> list[str]:
    words = ["data=image_folder", f"data.dir={folder}", "data.size=16", *more]
    return build_index(compose(words).data, 0).notes


def copy(folder: Path, pairs: dict[str, str]) -> None:
    for source, target in pairs.items():
        (folder / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / source, folder / target)


def test_files_in_two_classes_are_one_line_that_names_the_classes_and_counts(tmp_path):
    folder = draw_folder(tmp_path / "d", {"cat": 30, "dog": 30, "emu": 30})
    copy(folder, {f"cat/{i}.png": f"dog/also_{i}.png" for i in range(20)})
    line, *leaks = notes(folder)  # those that lie on both sides of the split are told as well
    assert len(leaks) <= 2
    assert line.startswith("conflicting labels: 20 images have several labels")
    assert "20 in both cat and dog" in line and "emu" not in line
    assert "40 files" in line and "cat/0.png" in line and "dog/also_0.png" in line


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_within_one_split(folder_of_two, split):
    copy(folder_of_two, {f"{split}/cats/0.png": f"{split}/dogs/x.png"})
    (line,) = notes(folder_of_two)
    assert "1 image has several labels (1 in both cats and dogs; 2 files in all)" in line
    assert f"{split}/cats/0.png" in line and f"{split}/dogs/x.png" in line


def test_across_splits_the_labels_and_the_leak_are_a_line_each(folder_of_two):
    copy(folder_of_two, {"train/cats/0.png": "validation/dogs/x.png"})
    conflict, leak = notes(folder_of_two)
    assert conflict.startswith("conflicting labels: 1 image") and "cats and dogs" in conflict
    assert "1 image is in several splits" in leak and "train/cats/0.png" in leak


def test_many_leaks_are_one_line(folder_of_two):
    copy(folder_of_two, {f"train/cats/{i}.png": f"validation/cats/again_{i}.png" for i in range(9)})
    (line,) = notes(folder_of_two)
    assert line.startswith("9 ") and "validation/cats/again_0.png" in line


def test_a_picture_twice_in_one_class_of_one_split_is_no_contradiction(folder_of_two):
    copy(folder_of_two, {"train/cats/0.png": "train/cats/again.png"})
    assert notes(folder_of_two) == []


def test_rows_of_a_table_that_lead_to_one_file_by_two_ways(tmp_path):
    folder = draw_folder(tmp_path / "d", {"all": 24})
    (folder / "linked.png").symlink_to(folder / "all/0.png")
    lines = [f"all/{i}.png,{'cat' if i % 2 else 'dog'}" for i in range(24)] + ["linked.png,cat"]
    (folder / "labels.csv").write_text("file,label\n" + "\n".join(lines) + "\n")
    found = [line for line in notes(folder, "data.csv=labels.csv") if "conflicting labels" in line]
    assert len(found) == 1 and "1 in both cat and dog" in found[0] and "linked.png" in found[0]


def test_a_class_that_is_a_link_to_another_shares_all_its_images(tmp_path):
    folder = draw_folder(tmp_path / "d", {"cat": 12, "dog": 12})
    (folder / "kitten").symlink_to(folder / "cat")
    found = [line for line in notes(folder) if "conflicting labels" in line]
    assert len(found) == 1 and "12 in both cat and kitten" in found[0]


def test_of_many_pairs_of_classes_the_worst_are_named_and_the_others_counted(tmp_path):
    names = [f"k{i}" for i in range(7)]
    folder = draw_folder(tmp_path / "d", dict.fromkeys(names, 8))
    copy(folder, {f"k0/{i}.png": f"k1/x{i}.png" for i in range(3)})
    copy(folder, {"k6/0.png": "k5/z.png"} | {f"k2/{i}.png": f"k{i}/y.png" for i in (3, 4, 5, 6)})
    found = [line for line in notes(folder) if "conflicting labels" in line]
    assert len(found) == 1 and "(3 in both k0 and k1, 1 in both" in found[0]
    assert "and 2 more pairs of classes; 16 files" in found[0]


def test_a_divided_folder_says_it_too(tmp_path, capsys):
    from convlens.cli import split

    folder = draw_folder(tmp_path / "src", {"cat": 12, "dog": 12})
    copy(folder, {"cat/0.png": "dog/x.png"})
    assert split.run([f"src={folder}", f"dst={tmp_path / 'dst'}"]) == 0
    said = [line for line in capsys.readouterr().out.splitlines() if "conflicting labels" in line]
    assert len(said) == 1 and "cat and dog" in said[0]
