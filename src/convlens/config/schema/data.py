"""The config group ``data``: which images, and how they are read, split and augmented."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from convlens.config.schema.keys import (
    FRACTION,
    NULL,
    SWITCH,
    TEXT,
    Own,
    Slice,
    at_least,
    between,
    each,
    key,
    named,
    one_of,
    optional,
    range_of,
    whole,
)

NAME = replace(TEXT | whole(0), expected="a name")
# keys of data.augment that have no effect without another one
AUGMENT_DETAILS = frozenset({
    "fill", "crop_ratio", "policy_operations", "policy_magnitude", "erasing_area", "erasing_ratio",
    "erasing_grey", "mix_fraction",
})  # fmt: skip
SPLIT = one_of("train", "validation", "test")
# the code that reads images refuses 2 with its own message
CHANNELS = replace(whole(1, 3), expected="1 or 3")


class SplitConfig(Slice):
    """Images to hold out where the source has no such split."""

    validation: Annotated[float | None, NULL | at_least(0)] = key(
        "validation images to hold out: a fraction below 1 or a count; null: 0.15"
    )
    test: Annotated[float | None, NULL | at_least(0)] = key(
        "test images to hold out: a fraction below 1 or a count; null: 0.15"
    )
    folds: Annotated[int | None, NULL | whole(2)] = optional(
        "cross-validation: number of folds, set by folds=N; null: no cross-validation"
    )
    fold: Annotated[int | None, NULL | whole(0)] = optional(
        "cross-validation: fold whose images are the test images, counted from 0"
    )


class AugmentConfig(Slice):
    """Random changes of training images."""

    rotation_degrees: Annotated[float, between(0, 180)] = key(
        "largest random rotation in either direction, degrees"
    )
    width_shift: Annotated[float, FRACTION] = key(
        "largest random shift left or right, fraction of the width"
    )
    height_shift: Annotated[float, FRACTION] = key(
        "largest random shift up or down, fraction of the height"
    )
    shear_degrees: Annotated[float, between(0, 89)] = key(
        "largest random shear angle in either direction, degrees"
    )
    zoom: Annotated[float, between(0, 0.99)] = key(
        "random zoom of each axis by a factor in 1 ± this value"
    )
    horizontal_flip: Annotated[bool, SWITCH] = key("mirror a random half of the images left-right")
    vertical_flip: Annotated[bool, SWITCH] = key("mirror a random half of the images top-bottom")
    fill: Annotated[str, one_of("nearest", "reflect", "constant")] = key(
        "what fills the area outside the image after a shift, rotation, shear or zoom"
    )
    random_resized_crop: Annotated[list[float] | None, NULL | range_of(1)] = key(
        "[low, high]: area of a random crop, fraction of the image; null: no crop"
    )
    crop_ratio: Annotated[list[float], range_of()] = key(
        "[low, high]: width / height of the random crop"
    )
    brightness: Annotated[float, FRACTION] = key("random brightness factor in 1 ± this value")
    contrast: Annotated[float, FRACTION] = key("random contrast factor in 1 ± this value")
    saturation: Annotated[float, FRACTION] = key("random saturation factor in 1 ± this value")
    hue: Annotated[float, between(0, 0.5)] = key(
        "largest random hue shift in either direction, turns of the colour circle"
    )
    policy: Annotated[str | None, NULL | one_of("rand_augment", "trivial_augment")] = optional(
        "policy of random operations on each image: rand_augment, trivial_augment; null: none"
    )
    policy_operations: Annotated[int | None, whole(1, 14)] = optional(
        "rand_augment: number of operations on each image"
    )
    policy_magnitude: Annotated[int | None, whole(0, 30)] = optional(
        "rand_augment: magnitude of the operations, 0 (weakest) to 30 (strongest)"
    )
    erasing: Annotated[float | None, FRACTION] = optional(
        "fraction of the images in which a random rectangle is erased"
    )
    erasing_area: Annotated[list[float] | None, range_of(1)] = optional(
        "[low, high]: area of the erased rectangle, as a fraction of the image"
    )
    erasing_ratio: Annotated[list[float] | None, range_of()] = optional(
        "[low, high]: height / width of the erased rectangle"
    )
    erasing_grey: Annotated[float | None, FRACTION] = optional(
        "brightness of the erased rectangle: 0 (black) to 1 (white)"
    )
    mixup: Annotated[float | None, at_least(0)] = optional(
        "MixUp: alpha of the Beta distribution of the weights of two images; 0: no MixUp"
    )
    cutmix: Annotated[float | None, at_least(0)] = optional(
        "CutMix: alpha of the Beta distribution of the area that is kept; 0: no CutMix"
    )
    mix_fraction: Annotated[float | None, FRACTION] = optional(
        "mixup, cutmix: fraction of the batches whose images are mixed"
    )

    @property
    def mixes(self) -> bool:
        """Whether images are mixed with one another, so that targets are shares of classes."""
        return bool(self.mixup or self.cutmix)


class DataConfig(Slice):
    """The images of a run; only some sources have the keys from ``pictures`` on."""

    name: Annotated[str, TEXT] = key("data source; set by data=NAME, which sets its other keys too")
    dir: Annotated[str | None, NULL | TEXT] = key(
        "folder of the data set; null: $CONVLENS_DATA/<name> or data/<name>"
    )
    size: Annotated[int, whole(8, 8192)] = key("height and width of the images, pixels")
    channels: Annotated[int, CHANNELS] = key("colour channels: 3 for colour, 1 for grey")
    resize: Annotated[str, named("squash", "crop", "pad")] = key(
        "how images become square: squash, crop (shorter side, centre) or pad (longer side)"
    )
    interpolation: Annotated[str, named("bilinear", "nearest", "bicubic")] = key(
        "interpolation when images are resized: bilinear, nearest or bicubic"
    )
    cache: Annotated[str, named("auto", "device", "disk", "ram")] = key(
        "where decoded images are kept: disk (memory-mapped), ram, device or auto (device if they "
        "fit in a quarter of a GPU's free memory, else disk)"
    )
    split: SplitConfig = key("images held out for validation and test")
    augment: AugmentConfig = key("random changes of training images")
    corrections: Annotated[str | None, NULL | TEXT] = optional(
        "image files: CSV file of corrected labels, as `review` saves it; null: none"
    )
    corrections_of: Annotated[list[str] | None, each(SPLIT)] = optional(
        "corrections: splits whose images are corrected, such as [train,validation]"
    )
    threshold_samples: Annotated[int | None, NULL | whole(1, 2)] = optional(
        "set by `audit`: random part of the training images, 1 or 2, with a class of its own"
    )
    pictures: Annotated[int | None, whole(1)] = optional(
        "shapes: number of images, all splits together"
    )
    classes: Annotated[int | None, whole(1)] = optional("shapes: number of classes")
    objects: Annotated[int | None, whole(1, 2)] = optional(
        "shapes: number of objects in each image: 1, or 2 of different classes"
    )
    shortcut: Annotated[float | None, FRACTION] = optional(
        "shapes: fraction of training and validation images with a mark that reveals their class"
    )
    shortcut_kind: Annotated[
        str | None, one_of("corner", "tint", "border", "watermark", "texture")
    ] = optional(
        "shapes: the mark: a square in a corner, a tint or fine waves over a quarter of the image, "
        "a line along a side, the class's name"
    )
    label_noise: Annotated[float | None, FRACTION] = optional(
        "shapes: fraction of training and validation images with a wrong label"
    )
    labels: Annotated[str | None, named("species", "breeds")] = optional(
        "pets: species (2 classes, cat and dog) or breeds (37 classes)"
    )
    pattern: Annotated[str | None, NULL | TEXT] = optional(
        "image folders: where names contain the class, such as '{class}.*'; null: class folders"
    )
    csv: Annotated[str | None, NULL | TEXT] = optional(
        "image folders: CSV file of the images, with the columns file,label[,split]; null: none"
    )
    encoding: Annotated[str | None, NULL | TEXT] = optional(
        "image folders: encoding of the CSV file, such as utf-8, utf-16 or cp1252; null: detect it"
    )
    multi_label: Annotated[bool | None, SWITCH] = optional(
        "images may have several classes; image folders: from a CSV file or identical files in "
        "several folders; coco, yolo: from their objects"
    )
    masks: Annotated[str | None, NULL | TEXT] = optional(
        "image folders: object masks, such as cats/1.png or Pascal VOC's cats/1.xml; null: none"
    )
    annotations: Annotated[str | None, NULL | TEXT] = optional(
        "coco, yolo: annotation file (coco: or folder); null: search the data set's folder for it"
    )
    categories: Annotated[list[str | int] | None, NULL | each(NAME)] = optional(
        "coco, yolo: the classes to use; objects of other classes are ignored; null: all"
    )
    hub: Annotated[str | None, NULL | TEXT] = optional(
        "huggingface: name of a data set on the hub, such as owner/name; null: the folder data.dir"
    )
    subset: Annotated[str | None, NULL | TEXT] = optional(
        "huggingface: configuration of the data set; null: its only or default one"
    )
    image_column: Annotated[str | None, NULL | TEXT] = optional(
        "huggingface: column of the images; null: the only column of images"
    )
    label_column: Annotated[str | None, NULL | TEXT] = optional(
        "huggingface: column of the labels; null: the only column of class labels"
    )
    label_member: Annotated[str | None, NULL | TEXT] = optional(
        "webdataset: member with the label: cls, txt or json.FIELD; null: cls, or txt without json"
    )
    class_names: Annotated[str | None, NULL | TEXT] = optional(
        "webdataset: text file with one class name per line; labels are line numbers from 0"
    )
    on_error: Annotated[str | None, one_of("raise", "skip")] = optional(
        "what to do about a broken image or mask: stop with an error (raise) or skip it"
    )
    decode: Annotated[str | None, NULL | one_of("exact", "fast")] = optional(
        "how JPEGs are decoded: exact (Pillow) or fast (torchcodec where it saves a quarter of the "
        "time; pixels may be one grey level off); null: exact"
    )

    @property
    def has_several_classes(self) -> bool:
        """Whether an image may have several classes."""
        return self.objects == 2 if self.name == "shapes" else bool(self.multi_label)


class OwnDataConfig(DataConfig, Own):
    """Images from a user-defined class; see ``docs/extending.md``."""
