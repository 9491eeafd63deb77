"""Compare Grad-CAM with two libraries made for it: pytorch-grad-cam and torch-cam.

    .venv/bin/python benchmarks/cams.py

The maps are those of 16 images of 150×150 pixels, at the last convolution of VGG16 and at three
convolutions, by each library's own call for one layer and for several. All use the same network of
plain torch modules, with random weights (which cost the same). Its ReLUs do not work in place,
because with in-place ReLUs neither library returns correct maps on the CPU. Before the timing, the
maps of a library are compared with those of convlens, and the lowest correlation of an image's map
is reported.

pytorch-grad-cam enlarges its maps to the size of the images and returns the mean over the layers;
the maps of convlens are then enlarged too. torch-cam returns each layer's map in the size of the
layer, as convlens does.

The libraries run in their own environment, which the first use creates, and convlens in this
process. They run in turns, one at a time, and the order alternates. The seconds per call, and the
ratio peer / ours of each round, are printed and written to `benchmarks/results/cams.json`.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import torch
from peers.environment import peer_python
from results import RESULTS, processor, spread, write_result
from rounds import Side, available_cores, take_rounds, watched

from convlens.config.compose import compose
from convlens.explain import grad_cam
from convlens.models import build_model

HERE = Path(__file__).resolve().parent
SIZE, IMAGES, CALLS = 150, 16, 2
LAYERS = ("block3.conv3", "block4.conv3", "block5.conv3")
LIBRARIES = ("pytorch-grad-cam", "torch-cam")
ALIKE = 0.999  # correlation below which the maps count as different


def plain_network() -> tuple[torch.nn.Sequential, dict[str, int]]:
    """Return VGG16 with its head as one sequence of plain torch modules, and its layer indices."""
    spec = compose(
        [
            "experiment=finetune_vgg16",
            "model.weights=none",
            "model.normalisation=unit",
            "model.head.pool=average",
        ]
    )
    torch.manual_seed(0)
    model = build_model(spec.model, channels=3, size=SIZE, outputs=2, pretrained=False)
    named = [
        (name, module) for name, module in model.named_modules() if not list(module.children())
    ]
    named = [(name, module) for name, module in named if name != "normalise"]
    for _, module in named:
        if isinstance(module, torch.nn.ReLU):
            module.inplace = False
        if isinstance(module, torch.nn.Conv2d):  # with the default weights the signal fades out
            torch.nn.init.kaiming_normal_(module.weight)
    places = {name.removeprefix("backbone."): place for place, (name, _) in enumerate(named)}
    return torch.nn.Sequential(*(module for _, module in named)).eval(), places


def ours(model, layers: list[int], images, classes, enlarged: bool) -> list[torch.Tensor]:
    """Compute a map for each layer: (B, h, w), or enlarged to (B, H, W)."""
    result = grad_cam(model, images, torch.tensor(classes)[:, None], [str(n) for n in layers])
    maps = result.upsample((SIZE, SIZE)) if enlarged else result.maps
    return [each[:, 0] for each in maps.values()]


def scaled(maps: torch.Tensor) -> torch.Tensor:
    """Scale each image's map to [0, 1], as both libraries do."""
    low = maps.amin((1, 2), keepdim=True)
    high = maps.amax((1, 2), keepdim=True)
    return (maps - low) / (high - low).clamp(min=1e-7)


def correlation(one: torch.Tensor, other: torch.Tensor) -> float:
    """Return the lowest correlation over the images; two blank maps count as equal."""
    result = []
    for pair in zip(one.flatten(1), other.flatten(1), strict=True):
        blank = [bool((each == each[0]).all()) for each in pair]
        value = float(torch.corrcoef(torch.stack(pair))[0, 1]) if not any(blank) else all(blank)
        result.append(float(value))
    return min(result)


def likeness(library: str, theirs: list[torch.Tensor], mine: list[torch.Tensor]) -> float:
    """Return the lowest correlation of a library's maps with ours; means of layers with means."""
    if library == "pytorch-grad-cam":
        mine = [torch.stack([scaled(each) for each in mine]).mean(0)]
    return min(correlation(a.double(), b.double()) for a, b in zip(theirs, mine, strict=True))


def measure(library: str, layers: list[int], rounds: int, folder: Path) -> dict:
    """Measure all rounds of one library: seconds of each side, and the ratio peer / ours."""
    work = torch.load(folder / "work.pt", weights_only=False)
    task = (work["model"], layers, work["images"], work["classes"], library == "pytorch-grad-cam")
    command = [peer_python("cam"), HERE / "peers" / "cam_maps.py", "--library", library]
    command += ["--work", folder / "work.pt", "--maps", folder / "maps.pt"]
    command += ["--steps", CALLS, "--layers", *layers]
    log = RESULTS / f"{library}.log"
    side = Side(library, list(map(str, command)), available_cores(), log)
    try:
        mine = ours(*task)  # also warms up
        alike = likeness(library, torch.load(folder / "maps.pt"), mine)

        def our_calls() -> float:
            start = time.perf_counter()
            for _ in range(CALLS):
                ours(*task)
            return time.perf_counter() - start

        def one_round(number: int) -> tuple[dict, list]:
            seconds, others = {}, []
            for name in ("ours", "peer") if number % 2 else ("peer", "ours"):
                if name == "ours":
                    seconds[name] = watched(our_calls, others) / CALLS
                    continue
                figure = side.round()
                seconds[name] = figure["seconds"] / CALLS
                others.append(figure["others"])
            line = {name: round(value, 5) for name, value in seconds.items()}
            return {**line, "ratio": round(seconds["peer"] / seconds["ours"], 2)}, others

        lines = take_rounds(rounds, one_round)
    finally:
        side.close()
    ratio = spread([line["ratio"] for line in lines])
    return {
        "beside": library, "peer": side.about, "rounds": lines, "ratio": ratio,
        "correlation": round(alike, 6),
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS / "cams.json")
    args = parser.parse_args()
    if args.rounds < 1:
        parser.error("--rounds must be at least 1")

    RESULTS.mkdir(parents=True, exist_ok=True)
    model, places = plain_network()
    images = torch.rand(IMAGES, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    classes = [number % 2 for number in range(IMAGES)]
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        work = {"model": model, "images": images, "classes": classes}
        torch.save(work, Path(folder) / "work.pt")
        for library in LIBRARIES:
            for layers in (LAYERS[-1:], LAYERS):
                name = f"{library}_{len(layers)}"
                result = measure(library, [places[n] for n in layers], args.rounds, Path(folder))
                results[name] = result
                ratio = result["ratio"]
                print(
                    f"{name}: {ratio['median']:.2f} ({ratio['min']} to {ratio['max']}) times as "
                    f"fast; correlation of the maps {result['correlation']:.6f}",
                    flush=True,
                )
    print(f"{processor()}, {torch.get_num_threads()} threads")
    write_result(
        args.out, f"Grad-CAM of {IMAGES} images on VGG16 at {SIZE}x{SIZE} pixels",
        threads=torch.get_num_threads(), versions={"torch": torch.__version__}, tasks=results,
    )  # fmt: skip
    wrong = [name for name, result in results.items() if not result["correlation"] > ALIKE]
    if wrong:
        print(f"maps differ from ours: {', '.join(wrong)}", file=sys.stderr)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
