"""Grad-CAM beside the two libraries made for it: pytorch-grad-cam and torch-cam.

    .venv/bin/python benchmarks/cams.py

Maps of 16 pictures of 150×150 pixels, at the last convolution of VGG16 and at three, by each
library's own call for one layer and for several. The network is one object of plain torch modules
for all, with random weights (they cost the same), and its ReLUs are not in place: with in-place
ones neither library gives the right maps on the CPU. What a library gives is compared with ours
before anything is timed, and the lowest correlation of a picture's map is told.

pytorch-grad-cam enlarges its maps to the pictures' size and gives the mean over the layers; against
it ours are enlarged too. torch-cam gives each layer's map in its own size, as ours are.

The libraries run in an environment of their own that the first use makes, ours in this process; in
turns, one at a time, who goes first alternates. Printed and written to
`benchmarks/results/cams.json`: seconds a call, and the ratio peer / ours formed within each round.
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
SIZE, PICTURES, CALLS = 150, 16, 2
LAYERS = ("block3.conv3", "block4.conv3", "block5.conv3")
LIBRARIES = ("pytorch-grad-cam", "torch-cam")
ALIKE = 0.999  # correlation below which the maps are not the same thing


def plain_network() -> tuple[torch.nn.Sequential, dict[str, int]]:
    """VGG16 with its head as one sequence of torch's own modules; the places of its layers."""
    spec = compose(["experiment=finetune_vgg16", "model.weights=none", "model.normalisation=unit"])
    torch.manual_seed(0)
    model = build_model(spec.model, channels=3, size=SIZE, outputs=2, pretrained=False)
    named = [
        (name, module) for name, module in model.named_modules() if not list(module.children())
    ]
    named = [(name, module) for name, module in named if name != "normalise"]
    for _, module in named:
        if isinstance(module, torch.nn.ReLU):
            module.inplace = False
        if isinstance(module, torch.nn.Conv2d):  # as drawn, a picture fades out on its way
            torch.nn.init.kaiming_normal_(module.weight)
    places = {name.removeprefix("backbone."): place for place, (name, _) in enumerate(named)}
    return torch.nn.Sequential(*(module for _, module in named)).eval(), places


def ours(model, layers: list[int], images, classes, enlarged: bool) -> list[torch.Tensor]:
    """A map of each layer, (B, h, w) or, enlarged, (B, H, W)."""
    found = grad_cam(model, images, torch.tensor(classes)[:, None], [str(n) for n in layers])
    maps = found.upsample((SIZE, SIZE)) if enlarged else found.maps
    return [each[:, 0] for each in maps.values()]


def scaled(maps: torch.Tensor) -> torch.Tensor:
    """Each picture's map to [0, 1], as both libraries do it."""
    low = maps.amin((1, 2), keepdim=True)
    high = maps.amax((1, 2), keepdim=True)
    return (maps - low) / (high - low).clamp(min=1e-7)


def correlation(one: torch.Tensor, other: torch.Tensor) -> float:
    """The lowest over the pictures; a map that is blank for both sides counts as the same."""
    found = []
    for pair in zip(one.flatten(1), other.flatten(1), strict=True):
        blank = [bool((each == each[0]).all()) for each in pair]
        value = float(torch.corrcoef(torch.stack(pair))[0, 1]) if not any(blank) else all(blank)
        found.append(float(value))
    return min(found)


def likeness(library: str, theirs: list[torch.Tensor], mine: list[torch.Tensor]) -> float:
    """Lowest correlation of what a library gave with ours, the layers' mean with the mean."""
    if library == "pytorch-grad-cam":
        mine = [torch.stack([scaled(each) for each in mine]).mean(0)]
    return min(correlation(a.double(), b.double()) for a, b in zip(theirs, mine, strict=True))


def measure(library: str, layers: list[int], rounds: int, folder: Path) -> dict:
    """All rounds of one library at some layers: seconds of each side, and peer / ours."""
    work = torch.load(folder / "work.pt", weights_only=False)
    task = (work["model"], layers, work["images"], work["classes"], library == "pytorch-grad-cam")
    command = [peer_python("cam"), HERE / "peers" / "cam_maps.py", "--library", library]
    command += ["--work", folder / "work.pt", "--maps", folder / "maps.pt"]
    command += ["--steps", CALLS, "--layers", *layers]
    log = RESULTS / f"{library}.log"
    side = Side(library, list(map(str, command)), available_cores(), log)
    try:
        mine = ours(*task)  # warms up, too
        alike = likeness(library, torch.load(folder / "maps.pt"), mine)

        def our_calls() -> float:
            start = time.perf_counter()
            for _ in range(CALLS):
                ours(*task)
            return time.perf_counter() - start

        def one_round(number: int) -> tuple[dict, list]:
            took, seen = {}, []
            for name in ("ours", "peer") if number % 2 else ("peer", "ours"):
                if name == "ours":
                    took[name] = watched(our_calls, seen) / CALLS
                    continue
                figure = side.round()
                took[name] = figure["seconds"] / CALLS
                seen.append(figure["others"])
            line = {name: round(value, 5) for name, value in took.items()}
            return {**line, "ratio": round(took["peer"] / took["ours"], 2)}, seen

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
        parser.error("rounds are at least 1")

    RESULTS.mkdir(parents=True, exist_ok=True)
    model, places = plain_network()
    pictures = torch.rand(PICTURES, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    classes = [number % 2 for number in range(PICTURES)]
    told = {}
    with tempfile.TemporaryDirectory() as folder:
        work = {"model": model, "images": pictures, "classes": classes}
        torch.save(work, Path(folder) / "work.pt")
        for library in LIBRARIES:
            for layers in (LAYERS[-1:], LAYERS):
                name = f"{library}_{len(layers)}"
                found = measure(library, [places[n] for n in layers], args.rounds, Path(folder))
                told[name] = found
                ratio = found["ratio"]
                print(
                    f"{name}: {ratio['median']:.2f} ({ratio['min']} to {ratio['max']}) times as "
                    f"fast; correlation of the maps {found['correlation']:.6f}",
                    flush=True,
                )
    print(f"{processor()}, {torch.get_num_threads()} threads")
    write_result(
        args.out, f"Grad-CAM of {PICTURES} pictures on VGG16 at {SIZE}x{SIZE} pixels",
        threads=torch.get_num_threads(), versions={"torch": torch.__version__}, tasks=told,
    )  # fmt: skip
    wrong = [name for name, found in told.items() if not found["correlation"] > ALIKE]
    if wrong:
        print(f"not the same maps as ours: {', '.join(wrong)}", file=sys.stderr)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
