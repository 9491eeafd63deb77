"""Images with annotated objects, of COCO or YOLO, as images with labels and a mask.

An image takes the class of its objects if they are all of one class. Images without an object, or
with objects of several classes, are left out, and lines count them. With ``data.multi_label`` an
image has all classes of its objects.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from convlens.config.schema import DataConfig
from convlens.core.errors import UserError, nearest
from convlens.data.index.files import ListingBuilder
from convlens.data.index.folders import count_noun, join_names
from convlens.data.index.labels import Keys
from convlens.data.index.listing import build_listing
from convlens.data.index.names import normalise_name
from convlens.data.index.several import SEPARATOR, add_rows, refuse_separator
from convlens.data.masks.objects import Objects, Region, import_coco_masks, make_object_masks
from convlens.data.sources.image_files import ImageFiles

WAY_OUT = "; correct it, or leave such images out with data.on_error=skip"


@dataclass(frozen=True)
class AnnotatedImage:
    """An image and its objects.

    Attributes:
        file: the image.
        split: split of the image; None for all images if there are no splits.
        source: the file that annotates it.
        objects: class and place of each object.
        size: (w, h) that the places refer to, in pixels; None: fractions of the image's sides.
    """

    file: Path
    split: str | None
    source: Path
    objects: tuple[tuple[str, Region], ...]
    size: tuple[int, int] | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes of its objects, sorted, each once."""
        return tuple(sorted({name for name, _ in self.objects}))


@dataclass
class Annotations:
    """What annotation files contain.

    Attributes:
        root: the folder of the data set.
        class_names: every class that is declared.
        images: the images, in any order.
        broken: (image, reason) of images that are left out because of a damaged annotation.
        notes: lines to report to the user.
    """

    root: Path
    class_names: tuple[str, ...]
    images: list[AnnotatedImage] = field(default_factory=list)
    broken: list[tuple[Path, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def check_class_names(names: Sequence[object], place: str) -> tuple[str, ...]:
    """Return the names of declared classes as text.

    Args:
        names: what a file declares.
        place: what an error calls the declaration, such as ``categories in FILE``.

    Raises:
        UserError: a name is missing, is not text, or occurs twice.
    """
    for number, name in enumerate(names):
        if isinstance(name, bool):  # YAML reads yes and no so
            raise UserError(f"{place}: name {number} is {str(name).lower()}: write it in quotes")
        if not isinstance(name, str | int) or not str(name).strip():
            raise UserError(f"{place}: class {number} has no name: add one")
    texts = [normalise_name(str(name).strip()) for name in names]
    if not texts:
        raise UserError(f"{place}: no class is declared")
    name, count = Counter(texts).most_common(1)[0]
    if count > 1:
        raise UserError(f"{place}: {count} classes are called {name!r}: rename or join them")
    return tuple(texts)


def label_images(spec: DataConfig, found: Annotations, for_test: bool) -> ImageFiles:
    """Return the images whose objects are all of one class, or of any, with masks of these objects.

    Args:
        spec: the config group ``data``; with ``data.categories``, other classes are ignored.
        found: the annotated images.
        for_test: nothing will be trained on them.

    Raises:
        UserError: ``data.categories`` names an unknown class, an image is annotated twice, or no
            image has objects of one class.
    """
    wanted, several_allowed = _check_categories(spec, found), bool(spec.multi_label)
    if several_allowed:
        refuse_separator(sorted(wanted), str(found.root))
    notes = list(found.notes)
    if found.broken:
        file, reason = found.broken[0]
        what = count_noun(len(found.broken), "image", "images")
        notes.append(f"left out: {what} with a damaged annotation, the first: {file} ({reason})")
    chosen: dict[Path, AnnotatedImage] = {}
    without, several = [], []
    seen: dict[Path, Path] = {}
    for image in found.images:
        if image.file in seen:
            raise UserError(
                f"{image.file} is annotated twice, in {seen[image.file]} and {image.source}: "
                "keep one"
            )
        seen[image.file] = image.source
        image = _keep_classes(image, wanted)
        if len(image.classes) == 1 or (several_allowed and image.classes):
            chosen[image.file] = image
        else:
            (several if image.classes else without).append(image)
    notes += _describe_left_out(without, several, len(found.images))
    if not chosen and several_allowed:
        raise UserError(
            f"no image in {found.root} has an object of the classes used: add annotations, or "
            f"choose classes with data.categories=[a,b]"
        )
    if not chosen:
        raise UserError(
            f"no image in {found.root} has objects of one class only ({len(without)} have none, "
            f"{len(several)} have several): choose classes with data.categories=[a,b]"
        )
    rows, keys = ListingBuilder(found.root), Keys(class_choice="data.categories")
    labelled = [
        (image.split, SEPARATOR.join(image.classes), _name_below(image.file, found.root))
        for image in chosen.values()
    ]
    if several_allowed:
        add_rows(rows, labelled)
        count = sum(len(image.classes) > 1 for image in chosen.values())
        notes.append(f"{count} of {len(chosen)} images have several classes")
    for split, label, name in () if several_allowed else labelled:
        rows.add(split, label, [name])
    listing = build_listing(rows, notes, keys, for_test, labelled if several_allowed else ())
    images = [chosen[file] for file in listing.files]
    places = [all(region.is_known for _, region in image.objects) for image in images]
    if not all(places):
        what = count_noun(places.count(False), "image has an object", "images have objects")
        notes.append(f"{what} without a box or outline, and no mask")
    objects = {
        image.file: _to_objects(image)
        for image, is_known in zip(images, places, strict=True)
        if is_known
    }
    if not objects:
        return ImageFiles(listing, notes=notes)
    if any(region.outlines for each in objects.values() for region in each.regions):
        import_coco_masks()  # raise now if it is missing, not after decoding
    sources = [image.source if image.file in objects else None for image in images]
    notes.append(f"objects of {len(objects)} of {len(images)} images are used as masks")
    kind = make_object_masks(objects, sorted(wanted) if spec.categories else None)
    by_class = objects if several_allowed else None
    return ImageFiles(listing, kind, sources, notes, objects=by_class)


def _to_objects(image: AnnotatedImage) -> Objects:
    regions, classes = (region for _, region in image.objects), (name for name, _ in image.objects)
    return Objects(tuple(regions), image.size, tuple(classes))


def _check_categories(spec: DataConfig, found: Annotations) -> set[str]:
    """Return the classes to use."""
    if not spec.categories:
        return set(found.class_names)
    wanted = [normalise_name(str(name)) for name in spec.categories]
    for name in wanted:
        if name not in found.class_names:
            raise UserError(f"data.categories: no class {name!r}; "
                            f"{nearest(name, found.class_names)}")  # fmt: skip
    return set(wanted)


def _keep_classes(image: AnnotatedImage, wanted: set[str]) -> AnnotatedImage:
    objects = tuple(each for each in image.objects if each[0] in wanted)
    return AnnotatedImage(image.file, image.split, image.source, objects, image.size)


def _describe_left_out(
    without: Sequence[AnnotatedImage], several: Sequence[AnnotatedImage], total: int
) -> list[str]:
    lines = []
    if without:
        what = count_noun(len(without), "image", "images")
        lines.append(
            f"left out: {what} without an object of the classes used, the first: {without[0].file}"
        )
    if several:
        lines.append(
            f"left out: {len(several)} of {total} images with objects of several classes, the "
            f"first: {several[0].file} ({join_names(several[0].classes)}); data.categories "
            "chooses classes, data.multi_label=true keeps all"
        )
    return lines


def _name_below(file: Path, root: Path) -> str:
    return str(file.relative_to(root) if file.is_relative_to(root) else file)
