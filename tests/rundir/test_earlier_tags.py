"""Pictures that an earlier version wrote under other tags are found under the current ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from convlens.rundir.read import read_run

EARLIER = {
    "activations/backbone.block1.conv/00_cat": "layers/activations/backbone.block1.conv/00_cat",
    "filters/head.dense1": "layers/filters/head.dense1",
    "depth/dead": "layers/depth/dead",
    "augmentation/00_cat": "training/augmentation/00_cat",
    "confusion_matrix": "predictions/confusion_matrix",
    "confusion_matrix/test": "predictions/confusion_matrix/test",
    "class_means": "grad_cam_means",
}
KEPT = [
    "grad_cam/00_cat", "occlusion/00_cat", "predictions/mistakes", "predictions/mistakes/test",
    "learning_curves", "filters2", "grad_cam/filters",
]  # fmt: skip


def write(home: Path, epoch: int, tag: str) -> Path:
    file = home / "explanations" / f"epoch_{epoch:03d}" / f"{tag}.jpg"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"")
    return file


@pytest.fixture
def home(tmp_path):
    (tmp_path / "config.yaml").write_text("experiment: scratch\n")
    return tmp_path


def test_earlier_tags_are_read_as_the_current_ones(home):
    files = {tag: write(home, 3, tag) for tag in (*EARLIER, *KEPT)}
    found = read_run(home).pictures
    assert set(found) == {*EARLIER.values(), *KEPT}
    for tag, file in files.items():
        assert found[EARLIER.get(tag, tag)] == {3: file}


def test_a_run_that_a_later_version_continued_has_one_series(home):
    for earlier, current in EARLIER.items():
        files = {0: write(home, 0, earlier), 1: write(home, 1, current)}
        assert read_run(home).pictures[current] == files
