"""Boxes around objects in Pascal VOC files: XML to pixels.

M. Everingham et al., "The Pascal Visual Object Classes (VOC) Challenge", IJCV 2010. The format is
that of the development kit's "annotation" files, which labelImg, CVAT and others also write.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_MOST_BYTES = 10_000_000  # about thirty thousand boxes


@dataclass(frozen=True)
class Boxes:
    """The boxes of one file.

    Attributes:
        size: (width, height) in pixels of the image they were drawn on; None if not stated.
        corners: (xmin, ymin, xmax, ymax) of each box in pixels, counted from 1, both ends included.
    """

    size: tuple[int, int] | None
    corners: tuple[tuple[float, float, float, float], ...]

    def mask(self, width: int, height: int) -> np.ndarray:
        """Return (height, width) bool, True in any box; scaled if ``size`` differs.

        A box covers the pixels whose centres are inside, and at least one. Many programs count from
        0 or end at the width, so a box that exceeds the image by one pixel is clipped.

        Args:
            width: mask width in pixels.
            height: mask height in pixels.

        Raises:
            ValueError: a box exceeds the image by more, or ends before it begins.
        """
        wide, high = self.size or (width, height)
        mask = np.zeros((height, width), bool)
        for xmin, ymin, xmax, ymax in self.corners:
            text = f"the box {xmin:g} {ymin:g} {xmax:g} {ymax:g} (xmin ymin xmax ymax)"
            if xmax < xmin or ymax < ymin:
                raise ValueError(f"{text} ends before it begins")
            inside = 0 <= xmin <= wide and 0 <= ymin <= high
            if not inside or xmax > wide + 1 or ymax > high + 1:
                raise ValueError(f"{text} is outside the {wide}x{high} pixels")
            rows = find_covered(ymin, ymax, height / high, height)
            mask[rows, find_covered(xmin, xmax, width / wide, width)] = True
        return mask


def find_covered(low: float, high: float, scale: float, length: int) -> slice:
    """Return the pixels 0 … ``length`` - 1 with centres from ``low`` - 1 to ``high``, both scaled.

    The tolerance of 1e-6 makes a box that touches a centre cover it, whatever the rounding.
    """
    first = math.ceil((low - 1) * scale - 0.5 - 1e-6)
    first = min(max(first, 0), length - 1)
    behind = min(math.ceil(high * scale - 0.5 - 1e-6), length)
    return slice(first, max(behind, first + 1))


class _SafeBuilder(ElementTree.TreeBuilder):
    """Refuses document types, which can expand to gigabytes or name other files."""

    def doctype(self, name: str, public: str | None, system: str | None) -> None:
        raise ValueError("it has a DOCTYPE, which is not read: remove that line")


def read_boxes(path: Path) -> Boxes:
    """Read the boxes of all objects in a file.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is not XML or not Pascal VOC, has a document type or no box, or a
            corner is not a number.
    """
    with open(path, "rb") as file:
        content = file.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise ValueError(f"it has more than {_MOST_BYTES:,} bytes: too many for a file of boxes")
    bare = content.replace(b"\0", b"").upper()  # also finds UTF-16; searched before any parsing
    if b"<!DOCTYPE" in bare or b"<!ENTITY" in bare:
        _SafeBuilder().doctype("", None, None)
    try:
        parser = ElementTree.XMLParser(target=_SafeBuilder())
        root = ElementTree.fromstring(content, parser)
    except (ElementTree.ParseError, LookupError) as error:  # LookupError: an unknown encoding
        raise ValueError(f"it is not XML: {error}") from None
    if root.tag != "annotation":
        raise ValueError(f"it begins with <{root.tag}>, but Pascal VOC begins with <annotation>")
    objects = root.findall("object")
    if not objects:
        raise ValueError("it has no <object>, so no box")
    return Boxes(_read_size(root), tuple(_read_corners(each) for each in objects))


def _read_corners(element: ElementTree.Element) -> tuple[float, float, float, float]:
    box = element.find("bndbox")  # the object's own box; its parts may have boxes too
    if box is None:
        raise ValueError(f"an <object> ({element.findtext('name', '?')[:40]}) has no <bndbox>")
    return tuple(_read_number(box, corner) for corner in _CORNERS)


def _read_size(root: ElementTree.Element) -> tuple[int, int] | None:
    size = root.find("size")
    if size is None:
        return None
    width, height = (_read_number(size, name) for name in ("width", "height"))
    if width == height == 0:  # some programs write this for an unknown size
        return None
    if width < 1 or height < 1:
        raise ValueError(f"its <size> is {width:g}x{height:g}")
    return round(width), round(height)


def _read_number(parent: ElementTree.Element, name: str) -> float:
    text = parent.findtext(name, "").strip()
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"<{name}> in <{parent.tag}> is {text[:40]!r}, not a number")
    return value
