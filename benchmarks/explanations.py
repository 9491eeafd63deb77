"""Compare explanations with Captum, and the drawing of their pictures with matplotlib.

    .venv/bin/python benchmarks/explanations.py [--task NAME]…

- `grad_cam`: maps of 16 images of 150×150 pixels at three layers of VGG16. Captum's `LayerGradCam`
  needs a forward and a backward pass for each layer.
- `occlusion`: the 49 windows of the default callback on one image. Captum's `Occlusion` uses
  `perturbations_per_eval=8`, its fastest setting here.
- `grad_cam_vit`, `legrad`: Grad-CAM at the default layer, and LeGrad, of one class for 8 images of
  224×224 pixels with a ViT-S/16. The peer is one forward and backward pass of these images, as in
  training; the ratio must not fall below 1/1.5 and 1/3.
- `grad_cam_panel`: from the maps to bytes in the event file: the image, and overlays of two classes
  at three layers. The peer draws the same seven pictures with matplotlib, one axes each, and passes
  the figure to `SummaryWriter.add_figure`.
- `activation_grid`: the same for 512 channels, one axes each.

Before the timing, the maps of both sides are compared on two images in float64, to 1e-6 of the
largest value. Both sides run in turns in one process, with the same random weights and threads, and
the order alternates. The seconds, and the ratio peer / ours of each round, are printed and written
to `benchmarks/results/explanations.json`. The result is the ratio of one run.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import captum
import matplotlib
import matplotlib.pyplot as plt
import timm
import torch
from captum.attr import LayerGradCam
from captum.attr import Occlusion as CaptumOcclusion
from convlens.callbacks.logging.writing import write_picture
from pytorch_lightning.loggers import TensorBoardLogger
from results import RESULTS, processor, spread, write_result
from rounds import take_rounds, watched
from torch.utils.tensorboard import SummaryWriter

from convlens.config.compose import compose
from convlens.draw.activation_grid import activation_grid
from convlens.draw.grad_cam_panel import ClassMap, LayerMap, grad_cam_panel
from convlens.explain import choose_layers, grad_cam
from convlens.explain.legrad import legrad
from convlens.explain.occlusion import occlusion, window_pixels
from convlens.models import build_model

SIZE = 150
LAYERS = ["backbone.block3.conv3", "backbone.block4.conv3", "backbone.block5.conv3"]
CLASSES = ("cats", "dogs")
TRANSFORMER = ("grad_cam_vit", "legrad")  # tasks that need no VGG16


class Task(NamedTuple):
    """A comparison: both sides, repetitions per round, the target ratio, and the peer's name."""

    ours: Callable[[], object]
    peer: Callable[[], object]
    repeat: int
    peer_repeat: int
    target: float | None
    beside: str


def attributions(model, pictures: int = 16, dtype: torch.dtype = torch.float32) -> dict[str, Task]:
    """Return the tasks that compute maps."""
    images = torch.rand(pictures, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    images, targets = images.to(dtype), torch.arange(pictures) % 2
    captums = [LayerGradCam(model, model.get_submodule(layer)) for layer in LAYERS]

    def maps() -> list[torch.Tensor]:
        return list(grad_cam(model, images, targets, LAYERS).maps.values())

    def maps_one_by_one() -> list[torch.Tensor]:
        return [
            each.attribute(images, targets, relu_attributions=True).detach() for each in captums
        ]

    one, target = images[:1], targets[:1]
    window, stride = (window_pixels(share, (SIZE, SIZE)) for share in (0.25, 0.125))
    covering = CaptumOcclusion(model)

    def covered() -> list[torch.Tensor]:
        return [occlusion(model, one, target, window=window, stride=stride, batch=32).maps]

    def covered_one_by_one() -> list[torch.Tensor]:
        with torch.no_grad():
            found = covering.attribute(
                one, target=target, sliding_window_shapes=(3, *window), strides=(3, *stride),
                perturbations_per_eval=8,
            )  # fmt: skip
        return [found.mean(1)]

    return {
        "grad_cam": Task(maps, maps_one_by_one, 2, 1, 2.0, "three calls of LayerGradCam"),
        "occlusion": Task(covered, covered_one_by_one, 1, 1, None, "Captum's Occlusion"),
    }


def transformer() -> dict[str, Task]:
    """Return the tasks that explain a vision transformer, beside a plain pass of its images."""
    model = timm.create_model("vit_small_patch16_224", num_classes=2).eval()
    images = torch.rand(8, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    targets = torch.arange(8) % 2
    weights = list(model.parameters())
    layers = choose_layers(model, "auto", "grad_cam", example=images[:1])

    def maps() -> torch.Tensor:
        return grad_cam(model, images, targets, layers).maps[layers[0]]

    def legrad_maps() -> torch.Tensor:
        return legrad(model, images, targets).maps

    def training_pass() -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad(model(images)[range(8), targets].sum(), weights)

    beside = "one forward and backward pass"
    return {
        "grad_cam_vit": Task(maps, training_pass, 1, 1, 1 / 1.5, beside),
        "legrad": Task(legrad_maps, training_pass, 1, 1, 1 / 3, beside),
    }


def panels(model, folder: Path) -> dict[str, Task]:
    """Return the tasks that draw maps and write them to event files."""
    generator = torch.Generator().manual_seed(1)
    picture = torch.rand(3, SIZE, SIZE, generator=generator)
    found = grad_cam(model, picture[None], torch.tensor([[0, 1]]), LAYERS)
    shown = found.upsample((SIZE, SIZE))
    maps = {layer: found.maps[layer][0] for layer in LAYERS}
    channels = torch.rand(512, 9, 9, generator=generator)
    logger = TensorBoardLogger(folder / "ours", name="", version="")
    trainer = SimpleNamespace(loggers=[logger])
    writer = SummaryWriter(folder / "peer")
    steps = iter(range(10**9))

    def panel() -> None:
        rows = []
        for row, name in enumerate(CLASSES):
            drawn = [LayerMap(layer, maps[layer][row], 1.0) for layer in LAYERS]
            last = drawn.pop()
            rows.append(ClassMap(last.map, name, "predicted", 0.7, 1.0, last.layer, tuple(drawn)))
        drawn = grad_cam_panel(picture, rows, title="probe · epoch 1")
        write_picture(trainer, None, "grad_cam/probe", drawn, next(steps))

    def figure() -> None:
        drawn, axes = plt.subplots(3, 3, figsize=(10, 10))
        axes[0][0].imshow(picture.permute(1, 2, 0))
        for row, layer in enumerate(LAYERS):
            for column, name in enumerate(CLASSES):
                each = axes[row][column + 1]
                each.imshow(picture.permute(1, 2, 0))
                each.imshow(shown[layer][0, column], cmap="jet", alpha=0.4)
                each.set_title(f"{name} 0.70, {layer}")
        for each in axes.flat:
            each.axis("off")
        writer.add_figure("grad_cam/probe", drawn, next(steps))

    def grid() -> None:
        write_picture(
            trainer,
            None,
            "activations",
            activation_grid(channels, title="layer", channels=None),
            next(steps),
        )

    def grid_figure() -> None:
        drawn, axes = plt.subplots(16, 32, figsize=(32, 16))
        for each, values in zip(axes.flat, channels, strict=True):
            each.imshow(values, cmap="viridis")
            each.axis("off")
        writer.add_figure("activations", drawn, next(steps))

    return {
        "grad_cam_panel": Task(panel, figure, 100, 5, 10.0, "add_figure"),
        "activation_grid": Task(grid, grid_figure, 30, 1, 10.0, "add_figure"),
    }


def build_vgg16() -> torch.nn.Module:
    """Return VGG16 with random weights."""
    spec = compose(["experiment=finetune_vgg16", "model.weights=none"]).model
    model = build_model(spec, channels=3, size=SIZE, outputs=2, pretrained=False).eval()
    torch.manual_seed(0)
    for module in model.modules():  # with the default weights the signal fades out
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
    return model


def agree(model) -> None:
    """Check that both sides compute the same maps."""
    for task in attributions(model.double(), 2, torch.float64).values():
        for one, other in zip(task.ours(), task.peer(), strict=True):
            size = float(other.abs().max())
            torch.testing.assert_close(one.to(other.dtype), other, rtol=0, atol=1e-6 * size)
    model.float()


def seconds(run: Callable[[], object], repeat: int, clock: Callable[[], float]) -> float:
    start = clock()
    for _ in range(repeat):
        run()
    return (clock() - start) / repeat


def measure(name: str, task: Task, rounds: int, clock: Callable[[], float]) -> dict:
    """Measure all rounds of one task: seconds of each side, and the ratio peer / ours."""
    task.ours(), task.peer()  # warm up

    def one_round(number: int) -> tuple[dict, list]:
        taken, seen = {}, []
        for side in ("ours", "peer") if number % 2 else ("peer", "ours"):
            run, repeat = (
                (task.ours, task.repeat) if side == "ours" else (task.peer, task.peer_repeat)
            )
            taken[side] = watched(partial(seconds, run, repeat, clock), seen)
        line = {side: round(value, 5) for side, value in taken.items()}
        line["ratio"] = round(taken["peer"] / taken["ours"], 2)
        print(f"{name:>16}{line['ours']:>12.4f}{line['peer']:>12.4f}{line['ratio']:>9.2f}")
        # other processes cost time of the clock, hardly any of the processor
        return line, [None] if clock is time.process_time else seen

    lines = take_rounds(rounds, one_round)
    ratio = spread([line["ratio"] for line in lines])
    return {"beside": task.beside, "target": task.target, "rounds": lines, "ratio": ratio}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = ["grad_cam", "occlusion", *TRANSFORMER, "grad_cam_panel", "activation_grid"]
    parser.add_argument("--task", choices=names, action="append", help="default: all")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--processor-time",
        action="store_true",
        help="seconds of the processor, for a machine that is busy with others",
    )
    parser.add_argument("--check", action="store_true", help="exit status 1 below a task's target")
    parser.add_argument("--out", type=Path, default=RESULTS / "explanations.json")
    args = parser.parse_args()
    if args.rounds < 1:
        parser.error("--rounds must be at least 1")

    matplotlib.use("Agg")
    chosen = args.task or names
    clock = time.process_time if args.processor_time else time.perf_counter
    print(f"{'seconds':>16}{'convlens':>12}{'peer':>12}{'ratio':>9}")
    with tempfile.TemporaryDirectory() as folder:
        tasks = transformer() if {*chosen} & {*TRANSFORMER} else {}
        if {*chosen} - {*TRANSFORMER}:
            model = build_vgg16()
            agree(model)
            tasks |= {**attributions(model), **panels(model, Path(folder))}
        results = {n: measure(n, tasks[n], args.rounds, clock) for n in names if n in chosen}
    for name, each in results.items():
        ratio = each["ratio"]
        span = f"{ratio['median']:.2f} ({ratio['min']} to {ratio['max']})"
        print(f"{name}: {span} times as fast as {each['beside']}")
    print(f"{processor()}, {torch.get_num_threads()} threads")
    versions = {
        "torch": torch.__version__,
        "captum": captum.__version__,
        "matplotlib": matplotlib.__version__,
        "timm": timm.__version__,
    }
    write_result(
        args.out, f"explanations of VGG16 at {SIZE}x{SIZE} pixels, and their pictures",
        threads=torch.get_num_threads(), versions=versions, tasks=results,
    )  # fmt: skip
    short = [n for n, each in results.items() if each["ratio"]["median"] < (each["target"] or 0)]
    if short:
        print(f"below its target: {', '.join(short)}", file=sys.stderr)
    return int(args.check and bool(short))


if __name__ == "__main__":
    sys.exit(main())
