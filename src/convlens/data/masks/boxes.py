"""Boxes around objects, as Pascal VOC writes them beside images: XML to pixels.

M. Everingham et al., "The Pascal Visual Object Classes (VOC) Challenge", IJCV 2010; the form is in
the development kit's "annotation" files, which labelImg, CVAT and others also write.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_MOST_BYTES = 10_000_000  # some thirty thousand boxes


@dataclass(frozen=True)
class Boxes:
    """The boxes of one file.

    Attributes:
        size: (width, height) in pixels of the image they were drawn on; None: not said.
        corners: (xmin, ymin, xmax, ymax) of each, in pixels; counted from 1, both ends inside.
    """

    size: tuple[int, int] | None
    corners: tuple[tuple[float, float, float, float], ...]

    def mask(self, width: int, height: int) -> np.ndarray:
        """(height, width) bool, True in any box; scaled if ``size`` is another one.

        A box covers the pixels whose centres lie in it, and at least one. Many programs count from
        0, or end at the width: what reaches one pixel out of the image is cut off.

        Raises:
            ValueError: a box that reaches further out, or ends before it begins.
        """
        wide, high = self.size or (width, height)
        mask = np.zeros((height, width), bool)
        for xmin, ymin, xmax, ymax in self.corners:
            text = f"the box {xmin:g} {ymin:g} {xmax:g} {ymax:g} (xmin ymin xmax ymax)"
            if xmax < xmin or ymax < ymin:
                raise ValueError(f"{text} ends before it begins")
            inside = 0 <= xmin <= wide and 0 <= ymin <= high
            if not inside or xmax > wide + 1 or ymax > high + 1:
                raise ValueError(f"{text} lies outside of the {wide}x{high} pixels")
            rows = _covered(ymin, ymax, height / high, height)
            mask[rows, _covered(xmin, xmax, width / wide, width)] = True
        return mask


def _covered(low: float, high: float, scale: float, length: int) -> slice:
    """The pixels of 0 … ``length`` - 1 whose centres lie from ``low`` - 1 to ``high``, both scaled.

    1e-6: a box that touches a centre by construction does so whatever the rounding.
    """
    first = math.ceil((low - 1) * scale - 0.5 - 1e-6)
    first = min(max(first, 0), length - 1)
    behind = min(math.ceil(high * scale - 0.5 - 1e-6), length)
    return slice(first, max(behind, first + 1))


class _Plain(ElementTree.TreeBuilder):
    """Refuses document types: entities that grow to gigabytes or name other files come in those."""

    def doctype(self, name: str, public: str | None, system: str | None) -> None:
        raise ValueError("it has a DOCTYPE, which annotations need not have and is not read")


def read_boxes(path: Path) -> Boxes:
    """The boxes of all objects in a file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no XML, no Pascal VOC, has a document type, no box, or no numbers in one.
    """
    with open(path, "rb") as file:
        content = file.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise ValueError(f"it has more than {_MOST_BYTES:,} bytes: no file of boxes")
    bare = content.replace(b"\0", b"").upper()  # UTF-16 too; looked for before anything is parsed
    if b"<!DOCTYPE" in bare or b"<!ENTITY" in bare:
        _Plain().doctype("", None, None)
    try:
        parser = ElementTree.XMLParser(target=_Plain())
        root = ElementTree.fromstring(content, parser)
    except (ElementTree.ParseError, LookupError) as error:  # or an encoding nobody knows
        raise ValueError(f"it is no XML: {error}") from None
    if root.tag != "annotation":
        raise ValueError(f"it begins with <{root.tag}>, Pascal VOC with <annotation>")
    found = root.findall("object")
    if not found:
        raise ValueError("it has no <object>, and so no box")
    return Boxes(_size(root), tuple(_corners(each) for each in found))


def _corners(found: ElementTree.Element) -> tuple[float, float, float, float]:
    box = found.find("bndbox")  # the object's own: its parts have some as well
    if box is None:
        raise ValueError(f"an <object> ({found.findtext('name', '?')[:40]}) has no <bndbox>")
    return tuple(_number(box, corner) for corner in _CORNERS)


def _size(root: ElementTree.Element) -> tuple[int, int] | None:
    size = root.find("size")
    if size is None:
        return None
    width, height = (_number(size, name) for name in ("width", "height"))
    if width == height == 0:  # what some programs write where they do not know
        return None
    if width < 1 or height < 1:
        raise ValueError(f"its <size> is {width:g}x{height:g}")
    return round(width), round(height)


def _number(parent: ElementTree.Element, name: str) -> float:
    text = parent.findtext(name, "").strip()
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"<{name}> in <{parent.tag}> is {text[:40]!r}, no number")
    return value
