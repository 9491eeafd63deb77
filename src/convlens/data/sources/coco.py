"""``data=coco``: images with objects in the format of COCO, ``instances_*.json``.

The layouts are the official one and that of Roboflow's exports:

    annotations/instances_train2017.json     train2017/000000000009.jpg
    train/_annotations.coco.json             train/cat.jpg

T.-Y. Lin et al., "Microsoft COCO: Common Objects in Context", ECCV 2014. Objects have a box
([left, top, width, height]), outlines or run lengths, in pixels counted from 0.
"""

from __future__ import annotations

import functools
import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field, FiniteFloat, TypeAdapter, ValidationError

from convlens.config.schema import DataConfig
from convlens.core.errors import UserError
from convlens.data.index.names import find_on_disk
from convlens.data.index.split_names import match_splits
from convlens.data.masks.objects import Region, read_run_lengths
from convlens.data.sources.annotated import (
    WAY_OUT,
    AnnotatedImage,
    Annotations,
    check_class_names,
    label_images,
)
from convlens.data.sources.image_files import ImageFiles
from convlens.data.sources.places import find_data_dir

_FILES, _LEAD = "instances_*.json", "instances_"
_BESIDE = "_annotations.coco.json"  # Roboflow: in the folder of the images
_SLACK = 1.0  # pixels by which an object may exceed its image
Name = int | str  # identifies an image, a category or an annotation
Length = Annotated[int, Field(gt=0)]


@dataclass(slots=True)
class _Runs:
    size: tuple[int, int]
    counts: str | list[int]


@dataclass(slots=True)
class _Category:
    id: Name
    name: str


@dataclass(slots=True)
class _Image:
    id: Name
    file_name: str
    width: Length
    height: Length


@dataclass(slots=True)
class _Annotation:
    id: Name
    image_id: Name
    category_id: Name
    bbox: tuple[FiniteFloat, FiniteFloat, FiniteFloat, FiniteFloat] | None = None
    segmentation: list[list[FiniteFloat]] | _Runs | None = None


@dataclass(slots=True)
class _Document:
    images: list[_Image]
    categories: list[_Category]
    annotations: list[_Annotation]


@functools.cache
def _get_adapter() -> TypeAdapter[_Document]:
    return TypeAdapter(_Document)


def find_coco(spec: DataConfig, for_test: bool = False) -> ImageFiles:
    """Find the images whose objects are of one class, or of any, in the layout of COCO.

    Args:
        spec: the config group ``data``.
        for_test: nothing will be trained on the images.

    Raises:
        UserError: a file is missing, damaged or contradicts itself.
    """
    root = find_data_dir(spec)
    documents = _find_documents(root, spec.annotations)
    splits = match_splits(list(documents.values()), str(root))
    found = Annotations(root, ())
    for path, name in documents.items():
        split = splits[name]
        if split is None and len(documents) > 1:
            found.notes.append(f"{path} is not used: its name is not that of a split")
            continue
        content = _read_document(path)
        class_names = check_class_names(
            [category.name for category in content.categories], f"categories in {path}"
        )
        found.class_names = tuple(dict.fromkeys([*found.class_names, *class_names]))
        _add_images(found, spec, path, name, split, content, class_names)
    return label_images(spec, found, for_test)


def _find_documents(root: Path, named: str | None) -> dict[Path, str]:
    """Return the annotation files, and the name of the part of the data set that each describes."""
    if named:
        path = find_on_disk(Path(named).expanduser())
        if path.is_file():
            return {path: path.stem.removeprefix(_LEAD)}
        folders = [path]
    else:
        folders = [root / "annotations", root]
    for folder in folders:
        if files := sorted(folder.glob(_FILES)):
            return {file: file.stem.removeprefix(_LEAD) for file in files}
    if files := sorted(root.glob(f"*/{_BESIDE}")):
        return {file: file.parent.name for file in files}
    where = " or ".join(str(folder / _FILES) for folder in folders)
    raise UserError(f"no {where}: point data.dir at a data set in COCO's format, or set "
                    "data.annotations to its file")  # fmt: skip


def _read_document(path: Path) -> _Document:
    """Read and check an annotation file.

    Raises:
        UserError: it cannot be read, is not JSON, or lacks something.
    """
    try:
        content = path.read_bytes()
        text = content.decode(json.detect_encoding(content))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not text: {error.reason}; save it as UTF-8") from None
    try:
        return _get_adapter().validate_json(text.removeprefix("\ufeff"))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(map(str, first["loc"]))
        what = f"{place}: {first['msg']}" if place else first["msg"]
        raise UserError(f"{path} is not in COCO's format: {what}; correct or export it "
                        "again") from None  # fmt: skip


def _add_images(
    found: Annotations, spec: DataConfig, path: Path, name: str, split: str | None,
    content: _Document, class_names: tuple[str, ...],
) -> None:  # fmt: skip
    """Add the images of one file."""
    numbers = _by_id(content.categories, path, "category")
    categories = dict(zip(numbers, class_names, strict=True))
    images = _by_id(content.images, path, "image")
    if not images:
        raise UserError(f"{path} lists no images")
    by_image: dict[Name, list[_Annotation]] = defaultdict(list)
    for each in content.annotations:
        for kind, number, known in (
            ("image", each.image_id, images), ("category", each.category_id, categories)
        ):  # fmt: skip
            if number not in known:
                raise UserError(f"{path}: annotation {each.id} names {kind} {number}, which is not "
                                "in the file")  # fmt: skip
        by_image[each.image_id].append(each)
    folder = _find_image_folder(found.root, path, name, content.images[0].file_name)
    files = {number: find_on_disk(folder / image.file_name) for number, image in images.items()}
    missing = [file for file in files.values() if not file.is_file()]
    if missing:
        raise UserError(f"{len(missing)} of {len(files)} images named in {path} do not exist, such "
                        f"as {missing[0]}: correct the file or data.dir")  # fmt: skip
    for number, image in images.items():
        try:
            regions = [_read_region(each, image) for each in by_image[number]]
        except ValueError as error:
            if spec.on_error == "raise":
                raise UserError(f"{path}, {image.file_name}: {error}{WAY_OUT}") from None
            found.broken.append((files[number], str(error)))
            continue
        names = [categories[each.category_id] for each in by_image[number]]
        objects = tuple(zip(names, regions, strict=True))
        size = (image.width, image.height)
        found.images.append(AnnotatedImage(files[number], split, path, objects, size))


def _by_id(items: list, path: Path, kind: str) -> dict[Name, object]:
    known = {}
    for item in items:
        if item.id in known:
            raise UserError(f"{path} lists {kind} {item.id} twice: keep one")
        known[item.id] = item
    return known


def _find_image_folder(root: Path, path: Path, name: str, first: str) -> Path:
    """Return the folder that file names are relative to: the first that has the first image."""
    folders = [root / name, root / "images" / name, root / "images", root]
    if path.name == _BESIDE:
        folders = [path.parent]
    for folder in folders:
        if find_on_disk(folder / first).is_file():
            return folder
    raise UserError(f"no image {first}, which {path} names, in {', '.join(map(str, folders))}: put "
                    "the images into one of them")  # fmt: skip


def _read_region(annotation: _Annotation, image: _Image) -> Region:
    """Return the place of an object: its pixels or outlines if annotated, else its box.

    Raises:
        ValueError: it is damaged or outside the image; the error names the annotation.
    """
    where = annotation.segmentation
    try:
        if isinstance(where, _Runs):
            counts = where.counts
            runs = read_run_lengths(counts) if isinstance(counts, str) else tuple(counts)
            region = Region(runs=(where.size, runs))
        else:
            region = Region(outlines=tuple(map(tuple, where))) if where else Region(annotation.bbox)
        region.check(image.width, image.height, _SLACK)
    except ValueError as error:
        raise ValueError(f"annotation {annotation.id}: {error}") from None
    return region
