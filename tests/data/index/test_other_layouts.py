"""A data set of another format is not refused as a bad folder: the error names its source."""

from __future__ import annotations

import json
import tarfile

import pytest

from convlens.core.errors import UserError
from convlens.data.index.labels import Keys
from convlens.data.index.listing import list_images
from support.annotated_made import coco_document, draw, make_coco, make_yolo, scenes
from support.tiny import draw_folder

PARTS = {"train": scenes(3, 1), "val": scenes(3, 2)}


def refused(folder, **keys) -> str:
    with pytest.raises(UserError) as error:
        list_images(folder, **keys)
    return str(error.value)


def test_coco(tmp_path):
    make_coco(tmp_path, PARTS)
    message = refused(tmp_path)
    assert "annotations/instances_" in message and "did you mean data=coco?" in message
    # the arguments of `convlens split` have other names
    assert "data=coco" not in refused(tmp_path, keys=Keys("src", "pattern", "csv"))


def test_roboflow(tmp_path):
    for part, images in PARTS.items():
        for file, (size, objects) in images.items():
            draw(tmp_path / part / file, objects, size)
        (tmp_path / part / "_annotations.coco.json").write_text(json.dumps(coco_document(images)))
    assert "did you mean data=coco?" in refused(tmp_path)


def test_yolo(tmp_path):
    assert "data.yaml: did you mean data=yolo?" in refused(make_yolo(tmp_path, PARTS))


@pytest.mark.parametrize("name", ["dataset_dict.json", "state.json", "train-00000.parquet"])
def test_hugging_face(tmp_path, name):
    (tmp_path / name).write_text("{}")
    assert f"{name}: did you mean data=huggingface?" in refused(tmp_path)


def test_tar_shards(tmp_path):
    (tmp_path / "train").mkdir()
    tarfile.open(tmp_path / "train" / "000000.tar", "w").close()
    assert "did you mean data=webdataset?" in refused(tmp_path)


def test_class_folders_beside_such_files_are_read(tmp_path):
    folder = draw_folder(tmp_path, {"cats": 3, "dogs": 3})
    (folder / "state.json").write_text("{}")
    assert len(list_images(folder)) == 6
    assert "did you mean" not in refused(draw_folder(tmp_path / "flat", {".": 3}))
