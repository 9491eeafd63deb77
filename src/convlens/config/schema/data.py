"""The config group ``data``: which images, how they are read, divided and augmented."""

from __future__ import annotations

from typing import Annotated

from convlens.config.schema.keys import (
    NULL,
    SHARE,
    SWITCH,
    TEXT,
    Own,
    Slice,
    between,
    key,
    least,
    one_of,
    optional_key,
    range_of,
    whole,
)


class SplitConfig(Slice):
    """What is held out where a source has no such split of its own.

    Below 1 a share of the images, from 1 on a count, null 15 %.
    """

    validation: Annotated[float | None, NULL | least(0)] = key("share or count of images, or null")
    test: Annotated[float | None, NULL | least(0)] = key("share or count of images, or null")


class AugmentConfig(Slice):
    """Random changes of training images; ranges are ± around no change."""

    rotation_degrees: Annotated[float, between(0, 180)] = key("angle, ± degrees")
    width_shift: Annotated[float, SHARE] = key("shift, ± share of the width")
    height_shift: Annotated[float, SHARE] = key("shift, ± share of the height")
    shear_degrees: Annotated[float, between(0, 89)] = key("shear angle, ± degrees")
    zoom: Annotated[float, between(0, 0.99)] = key("factor of each axis, in 1 ± this")
    horizontal_flip: Annotated[bool, SWITCH] = key("mirror half of the images left to right")
    vertical_flip: Annotated[bool, SWITCH] = key("mirror half of the images top to bottom")
    fill: Annotated[str, one_of("nearest", "reflect", "constant")] = key(
        "what is outside the image"
    )
    random_resized_crop: Annotated[list[float] | None, NULL | range_of(1)] = key(
        "[low, high]: share of the area cut out and resized; null: no cut"
    )
    crop_ratio: Annotated[list[float], range_of()] = key("[low, high]: width / height of that cut")
    brightness: Annotated[float, SHARE] = key("factor in 1 ± this")
    contrast: Annotated[float, SHARE] = key("factor in 1 ± this")
    saturation: Annotated[float, SHARE] = key("factor in 1 ± this")
    hue: Annotated[float, between(0, 0.5)] = key("± turns of the colour circle")


class DataConfig(Slice):
    """The images of a run; the keys behind ``shortcut`` are those of some sources only."""

    name: Annotated[str, TEXT] = key("the source, such as shapes or image_folder")
    dir: Annotated[str | None, NULL | TEXT] = key(
        "folder of the data set; null: $CONVLENS_DATA/<name> or data/<name>"
    )
    size: Annotated[int, whole(8, 8192)] = key("height and width of the images, pixels")
    channels: Annotated[int, whole(1, 3)] = key("3 colour, 1 grey")
    resize: Annotated[str, TEXT] = key("squash, crop (shorter side, centre) or pad (longer side)")
    interpolation: Annotated[str, TEXT] = key("bilinear, nearest or bicubic")
    cache: Annotated[str, TEXT] = key("decoded images: on disk, memory-mapped, or in ram")
    split: SplitConfig = key("what is held out")
    augment: AugmentConfig = key("changes while training")
    pictures: Annotated[int | None, whole(1)] = optional_key(
        "shapes: images of all splits together"
    )
    classes: Annotated[int | None, whole(1)] = optional_key("shapes: number of classes")
    shortcut: Annotated[float | None, SHARE] = optional_key(
        "shapes: share of training and validation images with a mark in their class's colour"
    )
    labels: Annotated[str | None, TEXT] = optional_key("pets: species (cat or dog) or breeds (37)")
    pattern: Annotated[str | None, NULL | TEXT] = optional_key(
        "flat folder: where the class stands in a file's name, '{class}.*'"
    )
    csv: Annotated[str | None, NULL | TEXT] = optional_key(
        "a table with the columns file,label[,split]"
    )
    masks: Annotated[str | None, NULL | TEXT] = optional_key(
        "folder of masks, cats/1.png or Pascal VOC's cats/1.xml, for some images or all"
    )
    on_error: Annotated[str | None, one_of("raise", "skip")] = optional_key(
        "what a broken image does"
    )


class OwnDataConfig(DataConfig, Own):
    """Images from a class of a person's own; see ``docs/extending.md``."""
