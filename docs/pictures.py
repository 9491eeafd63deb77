"""Redraw the pictures of README and the guides.

    .venv/bin/python docs/pictures.py [clever_hans] [cat] [filters]

`clever_hans` trains two small networks (two minutes); `cat` and `filters` need the weights of
EfficientNet-Lite0 and VGG16 (`weights/`, `$CONVLENS_WEIGHTS`, or downloaded). The photograph is
scikit-image's cat, CC0.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from convlens.config.compose import compose
from convlens.draw.canvas import GAP, add_margin, blank, hstack, text_band, vstack
from convlens.draw.filter_sheet import filter_sheet
from convlens.draw.grad_cam_panel import ClassMap, LayerMap, grad_cam_panel
from convlens.draw.jpeg import encode_jpeg
from convlens.draw.palette import INK, MUTED, RED
from convlens.draw.text import BODY, wrap
from convlens.explain import grad_cam
from convlens.explain.filters import get_recipe, gradient_ascent, to_display
from convlens.models import build_model, imagenet_classes

HERE = Path(__file__).resolve().parent
CAT = HERE.parent / "tests" / "photographs" / "cat.jpg"


def clever_hans() -> np.ndarray:
    """Draw probes and the classes' mean maps of two runs: with the mark, and without."""
    with tempfile.TemporaryDirectory() as folder:
        homes = {name: Path(folder) / name for name in ("with", "without")}
        for name, home in homes.items():
            words = [f"run_dir={home}", "looking.last_seconds=5", "looking.seconds=60"]
            words += ["data.shortcut=0"] if name == "without" else []
            command = [sys.executable, "-m", "convlens", "train", "exp=clever_hans"]
            subprocess.run([*command, *words], check=True, stdout=subprocess.DEVNULL)
        probes = _both_right(list(homes.values()))[-2:]
        columns = [_column(name, home, probes) for name, home in homes.items()]
    tallest = max(len(head) for head, _ in columns)
    heads = [
        vstack([head, blank(tallest - len(head), head.shape[1])], gap=0) for head, _ in columns
    ]
    bodies = [body for _, body in columns]
    return add_margin(
        hstack([vstack(pair) for pair in zip(heads, bodies, strict=True)], gap=2 * GAP)
    )


def _last(home: Path) -> Path:
    return max((home / "explanations").glob("epoch_*"))


def _both_right(homes: list[Path]) -> list[str]:
    """Return probes that both networks predict correctly, so their panels have one map."""
    widths = [
        {file.name: Image.open(file).width for file in (_last(home) / "grad_cam").glob("*.jpg")}
        for home in homes
    ]
    one_map = min(min(each.values()) for each in widths)
    return sorted(name for name in widths[0] if all(w[name] == one_map for w in widths))


def _column(name: str, home: Path, probes: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Draw a run's panels below their title."""
    summary = json.loads((home / "summary.json").read_text())
    files = [
        *(_last(home) / "grad_cam" / probe for probe in probes),
        _last(home) / "grad_cam_means.jpg",
    ]
    body = vstack([np.asarray(Image.open(file)) for file in files])
    width = body.shape[1]
    val, test = (summary[stage]["accuracy"] for stage in ("val", "test"))
    head = f"{name} a mark: validation {val:.3f}, test {test:.3f}"
    lines = [line.split(";")[0] for line in summary["alarms"]]
    lines = [part for line in lines for part in wrap(line, width, BODY, most=3)]
    alarms = text_band(width, *(lines or ["no alarm"]), size=BODY, ink=RED if lines else MUTED)
    return vstack([text_band(width, head, size=16, bold=True, ink=INK), alarms], gap=4), body


def cat() -> np.ndarray:
    """Draw Grad-CAM of EfficientNet-Lite0 at three depths, for its two most probable classes."""
    names = imagenet_classes()
    words = ["model=timm", "model.name=tf_efficientnet_lite0", "model.head=imagenet"]
    model = build_model(compose(words).model, channels=3, size=224, outputs=len(names)).eval()
    photograph = Image.open(CAT).convert("RGB").resize((224, 224), Image.Resampling.BILINEAR)
    picture = torch.from_numpy(np.asarray(photograph).copy()).permute(2, 0, 1).float() / 255
    with torch.no_grad():
        probs = model(picture[None]).softmax(1)[0]
    likeliest = probs.topk(2).indices
    layers = ["backbone.blocks.2", "backbone.blocks.4", "backbone.blocks.6"]
    maps = grad_cam(model, picture[None], likeliest[None], layers).maps
    rows = []
    for row, number in enumerate(likeliest.tolist()):
        drawn = [LayerMap(layer, maps[layer][0, row]) for layer in layers]
        last = drawn.pop()
        role = "target" if row else "predicted"
        rows.append(
            ClassMap(
                last.map, names[number], role, float(probs[number]), None, last.layer, tuple(drawn)
            )
        )
    return grad_cam_panel(picture, rows, title="EfficientNet-Lite0, ImageNet weights")


def filters() -> np.ndarray:
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


def main() -> None:
    known = {"clever_hans": clever_hans, "cat": cat, "filters": filters}
    for name in sys.argv[1:] or known:
        file = HERE / f"{name}.jpg"
        file.write_bytes(encode_jpeg(known[name]()))
        print(f"{file.relative_to(HERE.parent)}: {file.stat().st_size // 1000} kB")


if __name__ == "__main__":
    main()
