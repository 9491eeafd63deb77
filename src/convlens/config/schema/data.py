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
    key,
    named,
    one_of,
    optional,
    range_of,
    whole,
)

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
    pictures: Annotated[int | None, whole(1)] = optional(
        "shapes: number of images, all splits together"
    )
    classes: Annotated[int | None, whole(1)] = optional("shapes: number of classes")
    objects: Annotated[int | None, whole(1, 2)] = optional(
        "shapes: objects in each image; 2: of different classes, so that an image has two classes"
    )
    shortcut: Annotated[float | None, FRACTION] = optional(
        "shapes: fraction of training and validation images with a mark in their class's colour"
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
    multi_label: Annotated[bool | None, SWITCH] = optional(
        "image folders: images may have several classes: CSV columns labels, or one per class; or "
        "equal files in several class folders"
    )
    masks: Annotated[str | None, NULL | TEXT] = optional(
        "image folders: object masks, such as cats/1.png or Pascal VOC's cats/1.xml; null: none"
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
