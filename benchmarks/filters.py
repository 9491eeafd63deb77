"""Compare filter pictures by gradient ascent with one filter at a time, and with lucent.

    .venv/bin/python benchmarks/filters.py

The first peer is the recipe of F. Chollet's book (*Deep Learning with Python*, 5.4.2) as it is
usually written in PyTorch. Each filter has a picture of 128×128 pixels. Every step is a forward
pass through the whole network with a hook at the layer, the normalised gradient of the channel's
mean with respect to the picture, and an update. `convlens.explain.gradient_ascent` takes the same
steps (recipe `plain`), but its forward pass ends at the layer, and its canvas is as large as the
unit's receptive field. The time to find that size is included. Its pictures are smaller if the unit
sees less.

The second peer is lucent (https://github.com/greentfrapp/lucent) with its defaults, in its own
environment, which the first use creates. Its steps are like those of the recipe `robust`. If lucent
cannot be installed or run, a line says so, and the first peer is still measured.

All use the same threads and random weights (which cost the same) and run in turns, one at a time.
The order alternates. Every filter costs a peer the same, so a peer draws only some of the filters,
and the times per filter are compared. The seconds per filter, and the ratios one by one / plain and
lucent / robust of each round, are printed and written to `benchmarks/results/filters.json`. Speeds
depend on the machine; the result is the ratio of one run.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from peers.environment import peer_python
from results import RESULTS, processor, spread, write_result
from rounds import Side, available_cores, take_rounds, watched

from convlens.config.compose import compose
from convlens.explain.filters import get_recipe, gradient_ascent
from convlens.models import build_model

HERE = Path(__file__).resolve().parent
SIZE = 128
STEP_SIZE = 0.02


class Task(NamedTuple):
    """A comparison.

    Attributes:
        layer: layer of convlens's VGG16.
        lucents: lucent's name of the same layer.
        filters: number of filters that convlens draws in a round.
        of_peer: number of filters that a peer draws in a round.
        target: target of the ratio lucent / robust.
    """

    layer: str
    lucents: str
    filters: int
    of_peer: int
    target: float


TASKS = {
    "early": Task("backbone.block1.conv2", "features_2", 64, 3, 10.0),
    "deep": Task("backbone.block5.conv1", "features_24", 8, 3, 1.1),
}


def one_by_one(model, layer: str, filters: int, steps: int) -> list[float]:
    """Run the peer; return the mean activation that each filter reaches on its own picture."""
    seen = {}
    hook = model.get_submodule(layer).register_forward_hook(
        lambda module, inputs, output: seen.update(output=output)
    )
    reached = []
    for unit in range(filters):
        generator = torch.Generator().manual_seed(unit)
        picture = 0.5 + 0.01 * torch.randn(1, 3, SIZE, SIZE, generator=generator)
        for _ in range(steps):
            picture = picture.detach().requires_grad_()
            model(picture)
            gradient = torch.autograd.grad(seen["output"][:, unit].mean(), picture)[0]
            gradient = gradient / (gradient.square().mean().sqrt() + 1e-5)
            picture = (picture + STEP_SIZE * gradient).clamp(0, 1)
        with torch.no_grad():
            model(picture)
        reached.append(float(seen["output"][:, unit].mean()))
    hook.remove()
    return reached


def ours(model, layer: str, filters: int, steps: int, name: str = "plain") -> list[float]:
    found = gradient_ascent(
        model, layer, range(filters), size=SIZE, channels=3, steps=steps, step_size=STEP_SIZE,
        seed=0, batch=32, **get_recipe(name),
    )  # fmt: skip
    return found.activations.tolist()


def timed(filters: int, run: Callable[[], list[float]]) -> tuple[float, float]:
    """Return the seconds per filter, and the mean activation reached."""
    start = time.perf_counter()
    reached = run()
    return (time.perf_counter() - start) / filters, sum(reached) / len(reached)


def lucent(task: Task, steps: int) -> Side:
    """Start lucent's process."""
    command = [peer_python("lucent"), HERE / "peers" / "lucent_filters.py"]
    command += ["--layer", task.lucents, "--filters", task.of_peer, "--steps", steps]
    RESULTS.mkdir(parents=True, exist_ok=True)
    return Side("lucent", list(map(str, command)), available_cores(), RESULTS / "lucent.log")


def measure(task: Task, model, rounds: int, steps: int) -> dict:
    """Measure all rounds of one task: seconds per filter, and the ratios peer / ours."""
    try:
        peer = lucent(task, steps)
    except SystemExit as error:
        print(f"without lucent: {error}", file=sys.stderr)
        peer = None

    def lucents_round(seen: list) -> tuple[float, None]:
        figure = peer.round()
        seen.append(figure["others"])
        return figure["seconds"] / figure["images"], None

    def here(filters: int, run: Callable[[], list[float]]):
        return lambda seen: watched(lambda: timed(filters, run), seen)

    sides = {
        "plain": here(task.filters, lambda: ours(model, task.layer, task.filters, steps)),
        "one by one": here(
            task.of_peer, lambda: one_by_one(model, task.layer, task.of_peer, steps)
        ),
        "robust": here(
            task.filters, lambda: ours(model, task.layer, task.filters, steps, "robust")
        ),
        "lucent": lucents_round,
    }
    if peer is None:
        del sides["robust"], sides["lucent"]
    for name in ("plain", "robust"):  # warm up every side before the first round
        ours(model, task.layer, 2, 1, name)
    one_by_one(model, task.layer, 1, 1)

    def one_round(number: int) -> tuple[dict, list]:
        seen: list[float | None] = []
        order = list(sides) if number % 2 else list(reversed(sides))
        figures = {side: sides[side](seen) for side in order}
        seconds = {side: figures[side][0] for side in sides}
        line = {side: round(value, 4) for side, value in seconds.items()}
        line["ratio"] = round(seconds["one by one"] / seconds["plain"], 2)
        if peer is not None:
            line["ratio_lucent"] = round(seconds["lucent"] / seconds["robust"], 2)
        line["reached"] = {side: round(figures[side][1], 4) for side in ("plain", "one by one")}
        cells = [f"{line[side]:>12.4f}" for side in sides]
        cells += [f"{line[key]:>10.2f}" for key in ("ratio", "ratio_lucent") if key in line]
        print(f"{task.layer:>24}" + "".join(cells), flush=True)
        return line, seen

    lines = take_rounds(rounds, one_round)
    result = {**task._asdict(), "rounds": lines, "ratio": spread([line["ratio"] for line in lines])}
    if peer is not None:
        peer.close()
        result["peer"] = peer.about
        result["ratio_lucent"] = spread([line["ratio_lucent"] for line in lines])
    return result


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--task", choices=[*TASKS, "both"], default="both")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10, help="steps of the ascent (default: 10)")
    parser.add_argument("--threads", type=int, help="threads of both sides (default: PyTorch's)")
    parser.add_argument("--check", action="store_true", help="exit status 1 below a task's target")
    parser.add_argument("--out", type=Path, default=RESULTS / "filters.json")
    args = parser.parse_args()
    if args.rounds < 1 or args.steps < 1:
        parser.error("--rounds and --steps must be at least 1")

    if args.threads:  # use one if other programs run: waiting threads distort the ratio
        torch.set_num_threads(args.threads)
    spec = compose(["experiment=finetune_vgg16", "model.weights=none"]).model
    model = build_model(spec, channels=3, size=SIZE, outputs=2, pretrained=False).eval()
    model.requires_grad_(False)  # so the peer computes no unused gradients either
    heads = [f"{name:>12}" for name in ("plain", "one by one", "robust", "lucent")]
    print(f"{'seconds per filter':>24}" + "".join(heads) + f"{'one/plain':>10}{'luc/robust':>11}")
    names = list(TASKS) if args.task == "both" else [args.task]
    tasks = {name: measure(TASKS[name], model, args.rounds, args.steps) for name in names}

    for name, result in tasks.items():
        beside = [
            f"{result[key]['median']:.2f} times as fast as {peer} "
            f"({result[key]['min']} to {result[key]['max']})"
            for key, peer in (("ratio", "one by one"), ("ratio_lucent", "lucent"))
            if key in result
        ]
        print(f"{name}: {result['filters']} filters of {result['layer']}, {', '.join(beside)}")
    print(f"{processor()}, {torch.get_num_threads()} threads")
    write_result(
        args.out, f"filter pictures of VGG16; the peers at {SIZE}x{SIZE} pixels",
        threads=torch.get_num_threads(), versions={"torch": torch.__version__}, steps=args.steps,
        tasks=tasks,
    )  # fmt: skip
    missed = [
        name
        for name, result in tasks.items()
        if "ratio_lucent" not in result or result["ratio_lucent"]["median"] < result["target"]
    ]
    if missed:
        print(f"below its target, or without lucent: {', '.join(missed)}", file=sys.stderr)
    return int(args.check and bool(missed))


if __name__ == "__main__":
    sys.exit(main())
