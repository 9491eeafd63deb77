"""Redraw the pictures of the tour with the commands on its pages.

    .venv/bin/python docs/tour/draw.py FOLDER [01 02 …]

The script runs the first block of commands of every page in FOLDER, and cuts the pictures out of
the run folders. Existing run folders are reused. If all exist, the script takes seconds; if none
exists, half an hour on two cores. Data and weights come from `$CONVLENS_DATA`,
`$CONVLENS_WEIGHTS`, or a download.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from convlens.draw.canvas import PAD, add_margin, blank, hstack, text_band, vstack
from convlens.draw.jpeg import encode_jpeg
from convlens.draw.palette import INK
from convlens.draw.text import TITLE

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
LIGHT = 120_000  # maximum bytes of a picture
QUALITIES = (90, 80, 70, 60)  # of JPEG; the first one that is small enough is used
TITLED = 62  # pixels: the words above learning curves, the same for each
# places in a panel of `make kernel`, in pixels
HEAD, NUMBERS = slice(0, 315), slice(-330, None)  # rows: image and kernel; the patch as numbers
MAPS, POOLED = slice(362, 628), slice(722, 988)  # rows of the maps, and of the pooled maps
ANSWER, FILTER_NUMBERS = slice(645, 950), slice(-360, None)  # rows in the panel of a filter
POOLED_WIDTH = 970  # of the three pooled maps
KERNEL_ROW = 72  # height of a row of kernels with their numbers

Cut = Callable[[Path], np.ndarray]


def commands(page: Path) -> list[list[str]]:
    """Return the words of the commands in a page's first block, without ``make``."""
    block = re.search(r"```sh\n(.*?)```", page.read_text(), re.S)[1]
    return [shlex.split(line.partition("  #")[0])[1:] for line in block.splitlines()]


def run(words: list[str], folder: Path) -> None:
    """Run a command in ``folder``, unless its run folder exists."""
    home = next((word.partition("=")[2] for word in words if word.startswith("run_dir=")), None)
    if home is None or not (folder / home).exists():
        print(" ".join(words), flush=True)
        command = [sys.executable, "-m", "convlens", *words]
        subprocess.run(command, check=True, cwd=folder, stdout=subprocess.DEVNULL)


def picture(file: Path) -> np.ndarray:
    return np.asarray(Image.open(file).convert("RGB"))


def last(home: Path) -> Path:
    """Return the folder of a run's last look."""
    return max((home / "explanations").glob("epoch_*"))


def named(image: np.ndarray, text: str) -> np.ndarray:
    return vstack([text_band(image.shape[1], text, size=TITLE, bold=True, ink=INK), image])


def curves(runs: dict[str, Path]) -> np.ndarray:
    """Stack the learning curves of runs; the keys are their titles."""
    charts = {text: picture(last(home) / "learning_curves.jpg") for text, home in runs.items()}
    return add_margin(vstack([named(chart[TITLED:], text) for text, chart in charts.items()]))


def numbers(tour: Path) -> np.ndarray:
    panel = picture(tour / "numbers" / "kernel.jpg")
    return add_margin(hstack([panel[60:290, :265], panel[NUMBERS, :640]]))


def kernel(tour: Path) -> np.ndarray:
    panel = picture(tour / "kernel" / "kernel.jpg")
    below = hstack([_together(panel[MAPS]), panel[NUMBERS, :640]])
    return vstack([panel[HEAD, : below.shape[1]], below])


def filter_maps(tour: Path) -> np.ndarray:
    """Draw the image and the kernels; below, the sum with the bias, before and after ReLU."""
    panel = picture(tour / "filter" / "kernel.jpg")[:, :660]
    return vstack([panel[HEAD], panel[ANSWER]])


def filter_arithmetic(tour: Path) -> np.ndarray:
    return picture(tour / "filter" / "kernel.jpg")[FILTER_NUMBERS, :640]


def pooling(tour: Path) -> np.ndarray:
    """Draw the map before pooling, and the three pooled maps below it."""
    panel = picture(tour / "pooled" / "kernel.jpg")
    before = named(_together(panel[MAPS]), "values of the kernel, 98×148")
    pooled = named(panel[POOLED, :POOLED_WIDTH], "after pooling, 49×74")
    return add_margin(vstack([before, pooled]))


def _together(maps: np.ndarray) -> np.ndarray:
    """Cut out the last of four maps in a row, the sum of the colours."""
    cut = maps[:, -maps.shape[1] // 4 :]
    return hstack([blank(len(cut), PAD), cut], gap=0)


def losses(runs: Path, titles: Sequence[str], columns: int = 2) -> np.ndarray:
    """Draw the loss charts (left halves of the learning curves) of a multirun, in order."""
    charts = []
    for number, text in enumerate(titles):
        chart = picture(last(runs / str(number)) / "learning_curves.jpg")
        charts.append(named(chart[TITLED:, : chart.shape[1] // 2], text))
    rows = [hstack(charts[at : at + columns]) for at in range(0, len(charts), columns)]
    return add_margin(vstack(rows))


def lesson(name: str) -> Cut:
    """Return what cuts the picture of `make lesson` out of the run folder ``name``."""
    return lambda tour: picture(tour / name / "lesson.jpg")


def activations(tour: Path) -> np.ndarray:
    """Draw the star and the strongest channels of block 1, then those of two more blocks."""
    grids = tour / "activations" / "star" / "layers" / "activations"
    grid = {block: picture(grids / f"backbone.block{block}.activation.jpg") for block in (1, 2, 4)}
    # rows and columns of whole channels
    deeper = [
        named(grid[2][104:402, 288:960], "block 2"),
        named(grid[4][104:250, 288:960], "block 4"),
    ]
    first = grid[1][:402, :960]
    return vstack([hstack([first, blank(len(first), PAD)], gap=0), add_margin(vstack(deeper))])


def early_filters(tour: Path) -> np.ndarray:
    """Draw the first three rows of kernels, and a middle layer."""
    folder = last(tour / "filters") / "layers" / "filters"
    kernels = picture(folder / "backbone.block1.conv1.jpg")[: -PAD - KERNEL_ROW]
    return vstack([kernels, picture(folder / "backbone.block3.conv1.jpg")])


def late_filters(tour: Path) -> np.ndarray:
    return picture(last(tour / "filters") / "layers" / "filters" / "backbone.block5.conv1.jpg")


def sparse_channels(tour: Path) -> np.ndarray:
    """Draw the strongest channels of the first and of the last block for the cat."""
    grids = tour / "sparsity_cat" / "cat" / "layers" / "activations"
    first, late = (
        picture(grids / f"backbone.{name}.jpg")
        for name in ("block1.activation2", "block5.activation3")
    )
    grids = vstack([first[:368, :1000], late[:402, :1096]])  # two rows of six channels each
    return hstack([grids, blank(len(grids), PAD)], gap=0)


def inception_filters(tour: Path) -> np.ndarray:
    folder = tour / "flowers_filters" / "layers" / "filters"
    first = picture(folder / "backbone.Conv2d_1a_3x3.conv.jpg")
    later = picture(folder / "backbone.Mixed_5d.branch3x3dbl_3.conv.jpg")[:, :806]  # five columns
    return vstack([first, hstack([later, blank(len(later), PAD)], gap=0)])


def looks(tour: Path) -> np.ndarray:
    names = ("ring", "triangle")
    return vstack([picture(tour / "looks" / name / "grad_cam.jpg") for name in names])


def mistakes(tour: Path) -> np.ndarray:
    """Draw the first two rows of mistakes."""
    evaluation = tour / "regularized" / "evaluation" / "best"
    return picture(next(evaluation.glob("epoch_*/predictions/mistakes/test.jpg")))[:668]


def occlusion(tour: Path) -> np.ndarray:
    names = ("01_disc", "04_square")
    return vstack([picture(tour / "occlusion" / name / "occlusion.jpg") for name in names])


HORSES = {"with a mark": "marked", "without": "unmarked"}


def horses(tour: Path) -> np.ndarray:
    """Draw the same probe in both runs."""
    panels = [
        named(picture(last(tour / run_dir) / "grad_cam" / "07_ring.jpg"), text)
        for text, run_dir in HORSES.items()
    ]
    return add_margin(vstack(panels))


def class_means(tour: Path) -> np.ndarray:
    means = [
        named(picture(last(tour / run_dir) / "grad_cam_means.jpg"), text)
        for text, run_dir in HORSES.items()
    ]
    return add_margin(vstack(means))


METHODS = {"Grad-CAM": "grad_cam", "LeGrad": "legrad", "leaving patches out": "token_occlusion"}


def evidence(tour: Path) -> np.ndarray:
    """Stack the maps of a star for two classes, by three methods, without the image itself."""
    folder = tour / "attention" / "star"
    maps = [
        named(picture(folder / f"{name}.jpg")[62:430, 342:994], text)
        for text, name in METHODS.items()
    ]
    return add_margin(vstack(maps))


PICTURES: dict[str, Cut] = {
    "01_numbers": numbers,
    "02_kernel": kernel,
    "03_filter": filter_maps,
    "03_arithmetic": filter_arithmetic,
    "04_pooling": pooling,
    "05_one_weight": lesson("one_weight"),
    "05_step_sizes": lesson("step_sizes"),
    "06_softmax": lesson("softmax"),
    "06_losses": lesson("losses"),
    "07_functions": lesson("functions"),
    "07_network": lesson("with_and_without"),
    "08_convnet": lambda tour: curves(
        {"dense layers only": tour / "dense", "a convnet": tour / "convnet"}
    ),
    "09_overfitting": lambda tour: curves({"450 images, no regularisation": tour / "overfit"}),
    "10_augmentation": lambda tour: picture(
        next((tour / "regularized").glob("explanations/epoch_*/training/augmentation/*.jpg"))
    ),
    "10_curves": lambda tour: curves({"augmentation and dropout": tour / "regularized"}),
    "11_size": lambda tour: losses(
        tour / "size",
        ["4, 4, 4, 4 kernels", "16, 32, 64, 128 kernels", "64, 128, 256, 512 kernels"],
    ),
    "12_optimizers": lambda tour: losses(
        tour / "optimizers",
        ["batch norm, SGD", "batch norm, Adam", "no batch norm, SGD", "no batch norm, Adam"],
    ),
    "12_decay": lambda tour: losses(
        tour / "decay", [f"weight decay {value}" for value in (0, 1, 10)]
    ),
    "13_features": lambda tour: curves({"a new head on VGG16's features": tour / "features"}),
    "14_finetuning": lambda tour: curves({"the head, then the last block": tour / "finetuned"}),
    "15_activations": activations,
    "16_sparsity": lambda tour: picture(
        last(tour / "sparsity") / "layers" / "depth" / "sparsity.jpg"
    ),
    "16_cat": sparse_channels,
    "17_early": early_filters,
    "17_late": late_filters,
    "18_grad_cam": looks,
    "18_cat": lambda tour: picture(tour / "cat" / "cat" / "grad_cam.jpg"),
    "19_depths": lambda tour: picture(tour / "depths" / "cat" / "grad_cam.jpg"),
    "19_objects": lambda tour: picture(tour / "objects" / "coffee" / "grad_cam.jpg"),
    "20_flowers": lambda tour: curves({"InceptionV3 on five kinds of flowers": tour / "flowers"}),
    "20_filters": inception_filters,
    "21_mistakes": mistakes,
    "21_occlusion": occlusion,
    "22_clever_horse": horses,
    "22_class_means": class_means,
    "23_attention": lambda tour: picture(tour / "attention" / "star" / "layers" / "attention.jpg"),
    "23_evidence": evidence,
}


def save(name: str, image: np.ndarray) -> None:
    file = HERE / "pictures" / f"{name}.jpg"
    found = [encode_jpeg(image, quality) for quality in QUALITIES]
    light = [data for data in found if len(data) < LIGHT]
    if not light:
        raise SystemExit(f"{name}: {len(found[-1]):,} bytes at the lowest quality; cut it smaller")
    file.write_bytes(light[0])
    print(f"{file.relative_to(ROOT)}: {file.stat().st_size // 1000} kB")


def main() -> None:
    folder = Path(sys.argv[1]).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("tests", "src"):  # folders of the images on the pages
        if not (folder / name).exists():
            (folder / name).symlink_to(ROOT / name)
    asked = sys.argv[2:] or [page.name[:2] for page in HERE.glob("[0-9]*.md")]
    for page in sorted(page for page in HERE.glob("[0-9]*.md") if page.name[:2] in asked):
        for words in commands(page):
            run(words, folder)
        for name, drawn in PICTURES.items():
            if name.startswith(page.name[:2]):
                save(name, drawn(folder / "outputs" / "tour"))


if __name__ == "__main__":
    main()
