"""Recognise data sets that are not folders of images, to name the source that reads them."""

from __future__ import annotations

from pathlib import Path

# a file that only such a data set has, and the source that reads it
_MARKS = (
    ("annotations/instances_*.json", "coco"),
    ("instances_*.json", "coco"),
    ("*/_annotations.coco.json", "coco"),
    ("data.yaml", "yolo"),
    ("dataset_dict.json", "huggingface"),
    ("state.json", "huggingface"),
    ("*.parquet", "huggingface"),
    ("*.tar", "webdataset"),
    ("*/*.tar", "webdataset"),
)


def suggest_source(root: Path) -> str:
    """Return a hint that ends an error about a folder of images; "" without one."""
    for pattern, name in _MARKS:
        found = next(root.glob(pattern), None)
        if found is not None:
            return f" (there is {found.relative_to(root)}: did you mean data={name}?)"
    return ""
