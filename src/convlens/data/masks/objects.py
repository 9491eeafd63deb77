"""Objects as COCO and YOLO annotate them: boxes, outlines and run lengths to pixels.

T.-Y. Lin et al., "Microsoft COCO: Common Objects in Context", ECCV 2014. Outlines become pixels
with pycocotools, the format's own library. Run lengths are expanded here, since pycocotools 2.0.11
does not check that they fit the image.

Legend: h, w height and width in pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
from PIL import Image

from convlens.core.optional import import_optional
from convlens.data.masks.boxes import find_covered
from convlens.data.masks.files import TURNED, USER_MASKS, choose_size, orient_mask
from convlens.data.masks.load import ImageShape, MaskKind, read_mask
from convlens.data.pixels.decode import MAX_PIXELS, ImageError, Recipe

# pixels along an outline; pycocotools keeps ten numbers for each
_LONGEST = 4_000_000
_KEPT = 1024  # masks of one class that are not drawn again: looks ask for the same ones


@dataclass(frozen=True)
class Region:
    """Where an object is: one of the three, or nothing if that is not annotated.

    Attributes:
        box: left, top, width and height.
        outlines: of the object's parts, each x1, y1, x2, y2, …, at least three points.
        runs: (h, w) and the lengths of runs of pixels column by column, outside first.
    """

    box: tuple[float, ...] | None = None
    outlines: tuple[tuple[float, ...], ...] = ()
    runs: tuple[tuple[int, int], tuple[int, ...]] | None = None

    @property
    def is_known(self) -> bool:
        """Whether the object's place is annotated."""
        return bool(self.box or self.outlines or self.runs)

    def check(self, width: float, height: float, slack: float) -> None:
        """Check that the region is possible and inside its image.

        Args:
            width: of the image.
            height: of the image.
            slack: how much a region may exceed the image: programs round differently.

        Raises:
            ValueError: it is not.
        """
        if self.box is not None:
            left, top, across, down = self.box
            text = f"the box {left:g} {top:g} {across:g} {down:g} (left top width height)"
            if across < 0 or down < 0:
                raise ValueError(f"{text} has a negative size")
            _check_inside((left, top, left + across, top + down), width, height, slack, text)
        for outline in self.outlines:
            if len(outline) < 6 or len(outline) % 2:
                raise ValueError(f"an outline of {len(outline)} numbers: expected three points")
            _check_inside(outline, width, height, slack, "an outline")
        if self.runs is not None:
            (high, wide), counts = self.runs
            if (high, wide) != (height, width):
                raise ValueError(f"run lengths of {wide}x{high} pixels in {width}x{height}")
            if min(counts, default=0) < 0 or sum(counts) != high * wide:
                raise ValueError(f"run lengths of {sum(counts)} pixels in {width}x{height}")

    def scaled(self, width: int, height: int) -> Region:
        """Return the region in pixels, for one in fractions of the image's sides."""
        box = self.box and tuple(np.multiply(self.box, (width, height) * 2).tolist())
        outlines = (np.multiply(o, (width, height) * (len(o) // 2)) for o in self.outlines)
        return Region(box, tuple(tuple(each.tolist()) for each in outlines))

    def mask(self, width: int, height: int) -> np.ndarray:
        """Return (height, width) bool, True on the object.

        A box covers the pixels whose centres are inside, and at least one.

        Args:
            width: of the image that the region is annotated on, in pixels.
            height: of that image.

        Raises:
            ValueError: an outline is too long.
        """
        mask = np.zeros((height, width), bool)
        if self.runs is not None:
            inside = np.arange(len(self.runs[1])) % 2 == 1
            return np.repeat(inside, self.runs[1]).reshape(width, height).T
        if self.outlines:
            return draw_outlines(self.outlines, width, height)
        if self.box is not None:
            left, top, across, down = self.box
            rows = find_covered(top + 1, top + down, 1, height)
            mask[rows, find_covered(left + 1, left + across, 1, width)] = True
        return mask


def _check_inside(
    points: Sequence[float], width: float, height: float, slack: float, text: str
) -> None:
    across, down = points[0::2], points[1::2]
    if (
        min(across) < -slack or max(across) > width + slack
        or min(down) < -slack or max(down) > height + slack
    ):  # fmt: skip
        raise ValueError(f"{text} is outside the {width:g}x{height:g} image")


def import_coco_masks():
    """Return ``pycocotools.mask``, which draws outlines.

    Raises:
        UserError: it is not installed.
    """
    return import_optional("pycocotools.mask", "coco", "reading outlines of objects")


def draw_outlines(outlines: Sequence[Sequence[float]], width: int, height: int) -> np.ndarray:
    """Return (height, width) bool, True inside any of the outlines.

    Raises:
        ValueError: an outline is so long that it would need gigabytes.
        UserError: pycocotools is not installed.
    """
    coco = import_coco_masks()
    for outline in outlines:
        points = np.reshape(outline, (-1, 2))
        steps = np.abs(points - np.roll(points, 1, axis=0)).max(axis=1)
        if steps.sum() > _LONGEST:
            raise ValueError(f"an outline is longer than {_LONGEST:,} pixels")
    encoded = coco.frPyObjects([list(outline) for outline in outlines], height, width)
    return coco.decode(coco.merge(encoded)).astype(bool)


def read_run_lengths(text: str) -> tuple[int, ...]:
    """Return run lengths from COCO's compressed text.

    Each number is written in base 32, the lowest digit first, in characters from "0" on; 32 is
    added to a digit that another follows. From the fourth number on, it is the difference to the
    one two places before.

    Raises:
        ValueError: the text is not of this form.
    """
    counts: list[int] = []
    value = shift = 0
    for character in text:
        digit = ord(character) - 48
        if not 0 <= digit < 64 or shift > 60:
            raise ValueError("its compressed run lengths are damaged")
        value |= (digit & 31) << shift
        shift += 5
        if digit & 32:
            continue
        if digit & 16:
            value -= 1 << shift  # the sign
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    if shift:
        raise ValueError("its compressed run lengths end early")
    return tuple(counts)


@dataclass(frozen=True)
class Objects:
    """The objects of one image.

    Attributes:
        regions: where they are.
        size: (w, h) of the image that they are annotated on, in pixels; None: regions are in
            fractions of the upright image's sides.
        names: the class of each.
    """

    regions: tuple[Region, ...]
    size: tuple[int, int] | None = None
    names: tuple[str, ...] = ()

    def select(self, name: str) -> Objects:
        """Return the objects of one class."""
        pairs = zip(self.regions, self.names, strict=True)
        return Objects(tuple(region for region, own in pairs if own == name), self.size)

    def draw(self, image: ImageShape) -> tuple[np.ndarray, int, str]:
        """Return the mask of all objects, as ``MaskKind.read`` does.

        Raises:
            ValueError: the objects do not fit the image, or cover no pixel.
        """
        if self.size is None:
            width, height = image.upright
            mask = _unite([region.scaled(width, height) for region in self.regions], width, height)
            return mask, 1, ""
        if self.size[0] * self.size[1] > MAX_PIXELS:
            raise ValueError(f"{self.size[0]}x{self.size[1]} pixels are more than {MAX_PIXELS:,}")
        goal = choose_size(self.size, image)
        mask = _unite(self.regions, *self.size)
        if goal != self.size:
            mask = np.asarray(Image.fromarray(mask).resize(goal, Image.Resampling.NEAREST))
        return orient_mask(mask, image, is_known=False)


def _unite(regions: Sequence[Region], width: int, height: int) -> np.ndarray:
    mask = np.zeros((height, width), bool)
    for region in regions:
        mask |= region.mask(width, height)
    if not mask.any():
        raise ValueError("its objects cover no pixel")
    return mask


def make_object_masks(objects: Mapping[Path, Objects], *depends_on: object) -> MaskKind:
    """Return the kind of masks that are drawn from annotated objects.

    Args:
        objects: the objects of each image file.
        *depends_on: what decides which objects are drawn besides the annotation file, JSON-able.
    """
    return MaskKind(
        version=("objects", 1, *depends_on),
        read=partial(_read_mask, objects),
        remarks={TURNED: USER_MASKS.remarks[TURNED]},
        way_out="; correct it, or skip such masks with data.on_error=skip",
        needed=False,
    )


def draw_classes(
    objects: Mapping[Path, Objects], files: Sequence[Path], class_names: Sequence[str], *,
    size: int, resize: str,
) -> Callable[[int, int], np.ndarray]:  # fmt: skip
    """Return a function that draws the objects of one class in an image, when they are needed.

    Objects of several classes may cover the same pixels, and few images are explained, so there is
    no array of all masks.

    Args:
        objects: the objects of image files, with their classes.
        files: N image files.
        class_names: K names.
        size: height and width of the masks in pixels.
        resize: "squash", "crop" or "pad".

    Returns:
        A function from the numbers of an image and a class to a mask, (H, W) bool; all False if
        they have no place that is annotated.
    """
    recipe = Recipe(size, size, channels=1, resize=resize, interpolation="nearest")

    @lru_cache(maxsize=_KEPT)
    def draw(image: int, label: int) -> np.ndarray:
        file = files[image]
        found = objects.get(file, Objects(())).select(class_names[label])
        if not found.regions:
            return np.zeros((size, size), bool)
        try:
            return read_mask(make_object_masks({file: found}), file, file, recipe)[0]
        except ImageError:  # it covers no pixel, or its image is of another size and was left out
            return np.zeros((size, size), bool)

    return draw


def _read_mask(
    objects: Mapping[Path, Objects], file: Path, image: ImageShape
) -> tuple[np.ndarray, int, str]:
    try:
        return objects[image.path].draw(image)
    except ValueError as error:
        raise ValueError(f"{image.path.name}: {error}") from None
