"""Redraw the pictures of README and the guides.

    .venv/bin/python docs/pictures.py FOLDER [clever_hans cat …]

The script runs the commands of `docs/reading.md` that the pictures need in FOLDER, and draws from
their run folders. Existing run folders are reused. The training of two small networks takes three
minutes each on one core, `filters` four, all else two. The weights of EfficientNet-Lite0 and VGG16
come from `weights/`, `$CONVLENS_WEIGHTS` or a download. The photographs are scikit-image's, CC0.
"""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tour.draw import LIGHT, QUALITIES, last, picture, run

from convlens.config.compose import compose
from convlens.core.photograph import Photograph
from convlens.data.pixels.decode import Recipe, decode_image
from convlens.data.pixels.load import pillow_settings
from convlens.data.pixels.photograph import read_photograph
from convlens.draw.canvas import GAP, PAD, add_margin, blank, hstack, text_band, vstack
from convlens.draw.filter_sheet import filter_sheet
from convlens.draw.grad_cam_panel import ClassMap, LayerMap, grad_cam_panel
from convlens.draw.jpeg import encode_jpeg
from convlens.draw.palette import INK, MUTED, RED
from convlens.draw.picture import resize
from convlens.draw.text import BODY, wrap
from convlens.explain import grad_cam
from convlens.explain.filters import get_recipe, gradient_ascent, to_display
from convlens.models import build_model, imagenet_classes

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
RUNS = Path("outputs") / "reading"
NETWORK = "tf_efficientnet_lite0"
LAST = "backbone.blocks.6"
SCALES = (1.0, 0.85, 0.7)  # of a picture's sides
# places in pixels: in a Grad-CAM panel of one class, the overlay with its band and its peak; in a
# sheet of mean maps, rows of the colour bar, of the maps and of the names below them
OVERLAY = slice(-400, -35), slice(344, 664)
CELL = 168  # side of a mean map
BAR, HEAT, NAMES = slice(-237, -222), slice(-216, -48), slice(-46, -16)


def clever_hans(runs: Path) -> np.ndarray:
    """Draw a probe and the classes' mean maps of two runs: with the mark, and without."""
    homes = {"with": runs / "marked", "without": runs / "unmarked"}
    probe = _both_right([*homes.values()])[-1]
    columns = [_column(name, home, probe) for name, home in homes.items()]
    tallest = max(len(head) for head, _ in columns)
    heads = [
        vstack([head, blank(tallest - len(head), head.shape[1])], gap=0) for head, _ in columns
    ]
    bodies = [body for _, body in columns]
    return add_margin(
        hstack([vstack(pair) for pair in zip(heads, bodies, strict=True)], gap=2 * GAP)
    )


def _both_right(homes: list[Path]) -> list[str]:
    """Return probes that both networks predict correctly, so their panels show one class."""
    widths = [
        {file.name: Image.open(file).width for file in (last(home) / "grad_cam").glob("*.jpg")}
        for home in homes
    ]
    one_class = min(min(each.values()) for each in widths)
    return sorted(name for name in widths[0] if all(w[name] == one_class for w in widths))


def _column(name: str, home: Path, probe: str) -> tuple[np.ndarray, np.ndarray]:
    """Draw the heading of a run, and its maps: the probe's, and the mean of each class."""
    summary = json.loads((home / "summary.json").read_text())
    means = _shrink_means(picture(next(last(home).glob("*_means.jpg"))))
    parts = {
        "Grad-CAM of a validation image": picture(last(home) / "grad_cam" / probe)[OVERLAY],
        "mean map of each class": means,
    }
    width = means.shape[1]
    body = [part for text, drawn in parts.items() for part in (_head(width, text), drawn)]
    val, test = (summary[stage]["accuracy"] for stage in ("val", "test"))
    head = f"{name} a mark: validation {val:.3f}, test {test:.3f}"
    lines = [line.split(";")[0] for line in summary["alarms"]]
    lines = [part for line in lines for part in wrap(line, width, BODY, most=3)]
    alarms = text_band(width, *(lines or ["no alarm"]), size=BODY, ink=RED if lines else MUTED)
    top = vstack([text_band(width, head, size=16, bold=True, ink=INK), alarms], gap=4)
    return top, vstack(body)


def _head(width: int, text: str) -> np.ndarray:
    return text_band(width, text, size=BODY, bold=True, ink=INK)


def _shrink_means(sheet: np.ndarray) -> np.ndarray:
    """Draw every second pixel of the maps in a sheet of mean maps, with their bar and names."""
    cells = [
        vstack([sheet[HEAT, x : x + CELL][::2, ::2], sheet[NAMES, x : x + CELL // 2]], gap=2)
        for x in range(PAD, sheet.shape[1] - PAD, CELL + GAP)
    ]
    maps = hstack(cells)
    return vstack([sheet[BAR, PAD : PAD + maps.shape[1]], maps], gap=6)


@dataclass(frozen=True, eq=False)
class Example:
    """Grad-CAM of EfficientNet-Lite0 for one of the photographs.

    Attributes:
        photograph: at its own proportions.
        classes: names and probabilities of the two most probable classes.
        maps: by layer, (2, h, w).
    """

    photograph: Photograph
    classes: list[tuple[str, float]]
    maps: dict[str, torch.Tensor]

    def draw(self, title: str, count: int = 1, *, pixelated: bool = False) -> np.ndarray:
        """Draw the maps of the ``count`` most probable classes, the last layer at the bottom."""
        rows = []
        for row, (name, probability) in enumerate(self.classes[:count]):
            *others, end = (LayerMap(layer, maps[row]) for layer, maps in self.maps.items())
            role = "target" if row else "predicted"
            shown = ClassMap(end.map, name, role, probability, None, end.layer, tuple(others))
            rows.append(shown)
        return grad_cam_panel(self.photograph, rows, title=title, pixelated=pixelated)


def explain(name: str, layers: list[str], *, size: int = 224, resize: str = "squash") -> Example:
    """Explain a photograph in ``tests/photographs``."""
    names = imagenet_classes()
    words = ["model=timm", f"model.name={NETWORK}", "model.head=imagenet"]
    model = build_model(compose(words).model, channels=3, size=size, outputs=len(names)).eval()
    file, recipe = ROOT / "tests" / "photographs" / f"{name}.jpg", Recipe(size, size, 3, resize)
    with pillow_settings():
        photograph, pixels = read_photograph(file, recipe), decode_image(file, recipe)
    image = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255
    with torch.no_grad():
        probabilities = model(image).softmax(1)[0]
    likeliest = probabilities.topk(2).indices
    found = grad_cam(model, image, likeliest[None], layers)
    classes = [(names[k], float(probabilities[k])) for k in likeliest.tolist()]
    return Example(photograph, classes, {layer: found.maps[layer][0] for layer in layers})


def cat(runs: Path) -> np.ndarray:
    """Draw Grad-CAM at three depths, for the two most probable classes."""
    layers = ["backbone.blocks.2", "backbone.blocks.4", LAST]
    return explain("cat", layers).draw("EfficientNet-Lite0, ImageNet weights", 2)


def reading_cells(runs: Path) -> np.ndarray:
    """Draw a map of 4×4 cells, interpolated and with sharp edges."""
    example = explain("cat", [LAST], size=128)
    drawn = {"interpolated": False, "the cells": True}
    return vstack([example.draw(title, pixelated=sharp) for title, sharp in drawn.items()])


def reading_frame(runs: Path) -> np.ndarray:
    """Draw what a network sees of a photograph, by ``data.resize``."""
    ways = ("squash", "crop", "pad")
    return vstack([explain("coffee", [LAST], resize=w).draw(f"data.resize={w}") for w in ways])


def reading_any_class(runs: Path) -> np.ndarray:
    """Draw the map of the predicted class, and of one that is not in the image."""
    homes = (runs / name / "coffee" for name in ("coffee", "airliner"))
    return vstack([picture(home / "grad_cam.jpg") for home in homes])


def reading_padding(runs: Path) -> np.ndarray:
    """Draw maps and occlusion of an image without content."""
    home = runs / "grey" / "grey"
    return vstack([picture(home / f"{name}.jpg") for name in ("grad_cam", "occlusion")])


def reading_two_methods(runs: Path) -> np.ndarray:
    """Draw Grad-CAM and occlusion of one image."""
    home = runs / "cat" / "cat"
    return vstack([picture(home / f"{name}.jpg") for name in ("grad_cam", "occlusion")])


def reading_untrained(runs: Path) -> np.ndarray:
    """Draw a probe before training and after it."""
    looks = (runs / "unmarked" / "explanations" / "epoch_000", last(runs / "unmarked"))
    return vstack([picture(look / "grad_cam" / "07_ring.jpg") for look in looks])


def filters(runs: Path) -> np.ndarray:
    """Draw what eight units of an early, a middle and a late layer of VGG16 look for."""
    model = build_model(compose(["model=vgg16"]).model, channels=3, size=150, outputs=2).eval()
    sheets = []
    for layer in ("block1.conv2", "block3.conv3", "block5.conv3"):
        path = f"backbone.{layer}"
        total = model.get_submodule(path).out_channels
        units = [round(i * total / 8) for i in range(8)]
        found = gradient_ascent(
            model, path, units, size=150, channels=3, steps=60, step_size=0.02, seed=0,
            **get_recipe("robust"),
        )  # fmt: skip
        title = f"VGG16 {layer}, ImageNet weights"
        sheets.append(filter_sheet(to_display(found.images), units, title=title))
    return vstack(sheets)


Drawing = Callable[[Path], np.ndarray]
# by name: the drawing, and the runs that it needs
PICTURES: dict[str, tuple[Drawing, tuple[str, ...]]] = {
    "clever_hans": (clever_hans, ("marked", "unmarked")),
    "cat": (cat, ()),
    "filters": (filters, ()),
    "reading_any_class": (reading_any_class, ("coffee", "airliner")),
    "reading_cells": (reading_cells, ()),
    "reading_frame": (reading_frame, ()),
    "reading_padding": (reading_padding, ("grey",)),
    "reading_two_methods": (reading_two_methods, ("cat",)),
    "reading_untrained": (reading_untrained, ("unmarked",)),
}


def list_commands() -> dict[str, list[str]]:
    """Return the words of the commands in ``docs/reading.md`` by the name of their run."""
    blocks = re.findall(r"```sh\n(.*?)```", (HERE / "reading.md").read_text(), re.S)
    lines = [shlex.split(line, comments=True)[1:] for block in blocks for line in block.split("\n")]
    start = f"run_dir={RUNS}/"
    return {w.removeprefix(start): words for words in lines for w in words if w.startswith(start)}


def save(name: str, image: np.ndarray) -> None:
    """Write a picture at the largest size and the highest quality of JPEG that is light enough."""
    sizes = ([round(scale * side) for side in image.shape[:2]] for scale in SCALES)
    scaled = (resize(image, (height, width), "bilinear") for height, width in sizes)
    found = (encode_jpeg(each, quality) for each in scaled for quality in QUALITIES)
    light = next((data for data in found if len(data) < LIGHT), None)
    if light is None:
        raise SystemExit(f"{name}: more than {LIGHT:,} bytes; cut it smaller")
    file = HERE / f"{name}.jpg"
    file.write_bytes(light)
    print(f"{file.relative_to(ROOT)}: {file.stat().st_size // 1000} kB", flush=True)


def main() -> None:
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    folder = Path(sys.argv[1]).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("tests", "docs"):  # folders of the images on the page
        if not (folder / name).exists():
            (folder / name).symlink_to(ROOT / name)
    commands = list_commands()
    for name in sys.argv[2:] or PICTURES:
        drawing, needed = PICTURES[name]
        for each in needed:
            run(commands[each], folder)
        save(name, drawing(folder / RUNS))


if __name__ == "__main__":
    main()
