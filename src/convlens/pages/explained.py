"""The page of ``make explain``: photographs with maps laid over them, classes and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from markupsafe import Markup

from convlens.core.photograph import Photograph
from convlens.draw.grad_cam_panel import format_probability
from convlens.draw.jpeg import encode_jpeg, shrink_jpeg
from convlens.pages.render import data_uri, render
from convlens.pages.viewer import Viewer, ViewerProbe, ViewerRun, build_viewer, spread_evenly
from convlens.rundir.maps import Maps, join_maps

MOST_BYTES = 3_000_000  # larger pages open slowly on a phone
SIDE = 28  # cells of the longer side of a map on the page, at most
PICTURES = "layers/"  # prefix of the tags of activation grids and filters; the others show maps
# longest side in pixels, and JPEG quality, of photographs and pictures; the files have full size
_PHOTOGRAPH, _PICTURE = (480, 80), (1000, 70)
_PAGE, _MARKUP = 50_000, 2000  # bytes of the viewer's script and style, and of an image's elements
_EMPTY = Viewer(Markup(""), (0, 0))


@dataclass(frozen=True)
class ImagePart:
    """One image's part of the page.

    Attributes:
        name: unique name of the image, and of its folder.
        source: its path.
        top: the most probable classes with their probabilities.
        notes: lines below the table of classes.
        probe: the photograph; None if there is none.
        maps: the maps of each method.
        pictures: tag to JPEG bytes.
        drawn: the number of pictures before some were left out.
    """

    name: str
    source: str
    top: Sequence[tuple[str, float]]
    notes: Sequence[str]
    probe: ViewerProbe | None
    maps: Sequence[Maps]
    pictures: Mapping[str, bytes]
    drawn: int

    @property
    def size(self) -> int:
        """The approximate number of bytes on the page without the pictures."""
        photograph = len(self.probe.photograph) if self.probe else 0
        cells = sum(values.size for each in self.maps for values in each.layers.values())
        # base64 turns three bytes into four; a cell has two
        return _MARKUP + (photograph + 2 * cells) * 4 // 3


@dataclass
class PageParts:
    """The parts of a page, as many as fit.

    Attributes:
        parts: the parts on the page.
        left_out: number of images that did not fit.
        size: approximate number of bytes of the page without the pictures.
    """

    parts: list[ImagePart] = field(default_factory=list)
    left_out: int = 0
    size: int = _PAGE

    def add(
        self, name: str, source: str, *, panels: Mapping[str, bytes],
        top: Sequence[tuple[str, float]] = (), notes: Sequence[str] = (),
        photograph: Photograph | None = None, maps: Sequence[Maps] = (),
    ) -> None:  # fmt: skip
        """Add an image if it fits; if necessary, pictures of all images give way.

        Args:
            name: unique name of the image, and of its folder.
            source: its path.
            panels: tag to JPEG bytes; those that show maps are not repeated on the page.
            top: the most probable classes with their probabilities.
            notes: lines below the table of classes.
            photograph: the image at its own proportions.
            maps: the maps of each method, each with this image as the only probe.
        """
        if self.left_out:
            self.left_out += 1
            return
        probe = None
        if photograph is not None:
            small = shrink_jpeg(encode_jpeg(photograph.picture), *_PHOTOGRAPH)
            probe = ViewerProbe(name, small, photograph.frame, photograph.seen, source)
        pictures = {
            tag: shrink_jpeg(panel, *_PICTURE)
            for tag, panel in panels.items() if tag.startswith(PICTURES)
        }  # fmt: skip
        maps = [replace(each, probes=[name]) for each in maps]
        part = ImagePart(name, source, top, notes, probe, maps, pictures, len(pictures))
        if self.size + part.size > MOST_BYTES:
            self.left_out += 1
            return
        self.size += part.size
        self.parts.append(part)
        self.fit_pictures(MOST_BYTES - self.size)

    def fit_pictures(self, room: int) -> None:
        """Keep pictures of each image, evenly spaced over its layers, within ``room`` bytes."""
        share = room // max(1, sum(bool(part.pictures) for part in self.parts))
        self.parts = [replace(part, pictures=_choose(part.pictures, share)) for part in self.parts]


def _choose(pictures: Mapping[str, bytes], room: int) -> dict[str, bytes]:
    """Return as many pictures as fit, evenly spaced; if only one does, the last."""
    tags = list(pictures)
    choices = [*(spread_evenly(tags, count) for count in range(len(tags), 1, -1)), tags[-1:], []]
    fitting = (
        chosen for chosen in choices
        if sum(len(pictures[tag]) * 4 // 3 + 500 for tag in chosen) <= room
    )  # fmt: skip
    return {tag: pictures[tag] for tag in next(fitting, [])}


def render_page(
    page: PageParts, *, heading: str, network: str, version: str, refused: Sequence[str] = ()
) -> str:
    """Return a self-contained HTML page.

    Args:
        page: the images.
        heading: the heading of the page.
        network: name of the network.
        version: version of convlens.
        refused: one line about each file that could not be explained.
    """
    what = "1 more image did" if page.left_out == 1 else f"{page.left_out} more images did"
    left_out = [f"{what} not fit on this page: see the folders next to it"] if page.left_out else []

    def fill(viewer: Viewer | None, *, pictures: bool) -> str:
        return render(
            "explained.html", heading=heading, network=network, version=version, refused=refused,
            left_out=left_out, side=SIDE, viewer=viewer,
            images=[_describe(part, pictures=pictures) for part in page.parts],
        )  # fmt: skip

    room = MOST_BYTES - len(fill(_EMPTY, pictures=False).encode())
    viewed = _view(page.parts)
    viewer = build_viewer([viewed], room=room - 500)  # for the lines about what is left out
    if viewer is None and viewed.maps:
        left_out.append("the maps did not fit on this page: see the folders next to it")
    left_out += viewer.left_out if viewer else []
    page.fit_pictures(MOST_BYTES - len(fill(viewer, pictures=False).encode()))
    return fill(viewer, pictures=True)


def _view(parts: Sequence[ImagePart]) -> ViewerRun:
    """Return all images with their maps as one run without epochs."""
    shown = [part for part in parts if part.probe and part.maps]
    by_method: dict[str, list[Maps]] = {}
    for part in shown:
        for maps in part.maps:
            by_method.setdefault(maps.method, []).append(maps)
    joined = {}
    for method, each in by_method.items():
        # a named class is the predicted one of some images, and not of others
        roles = each[0].roles if len({tuple(maps.roles) for maps in each}) == 1 else ["target"]
        joined[method] = {0: join_maps([replace(maps, roles=roles) for maps in each])}
    return ViewerRun("", [part.probe for part in shown if part.probe], joined)


def _describe(part: ImagePart, *, pictures: bool) -> dict:
    """Return the template's values for one image."""
    kinds: dict[str, list[dict]] = {}
    for tag, picture in part.pictures.items() if pictures else ():
        kinds.setdefault(tag.split("/")[1], []).append({"tag": tag, "uri": data_uri(picture)})
    missing = part.drawn - len(part.pictures)
    return {
        "name": part.name, "source": part.source, "notes": part.notes, "missing": missing,
        "top": [(name, format_probability(value), value) for name, value in part.top],
        "drawn": part.drawn, "kinds": kinds,
    }  # fmt: skip
