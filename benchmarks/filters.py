"""Filter pictures by gradient ascent: convlens beside one filter at a time, and beside lucent.

    .venv/bin/python benchmarks/filters.py

The first peer is the recipe of F. Chollet's book (*Deep Learning with Python*, 5.4.2) as it is
commonly written in PyTorch: for each filter a picture of 128×128 pixels, in every step a forward
pass through the whole network with a hook at the layer, the gradient of the channel's mean by the
picture alone, normalised, and a step. `convlens.explain.gradient_ascent` takes the same steps
(recipe `plain`) with a forward pass that ends at the layer, on a canvas as large as a unit sees;
what it spends on finding that canvas counts. Its pictures are smaller where the unit sees less.

The second is lucent (https://github.com/greentfrapp/lucent) as it comes, in an environment of its
own that the first use makes; its steps are like those of our recipe `robust`.

Where lucent cannot be installed or run, that is said, and the first peer is measured all the same.

All have the same weights (random: they cost the same) and threads, and run in turns, one at a time;
who goes first alternates. A filter costs a peer the same as the next one, so it climbs only some of
those that convlens climbs, and the times per filter are compared. Printed and written to
`benchmarks/results/filters.json`: seconds a filter, and the ratios peer / ours, formed within each
round: one by one / plain, and lucent / robust. Speeds change with the machine; the ratio of one run
is the result.
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
    """A layer, how many of its filters each side climbs in a round, and the ratio hoped for."""

    layer: str
    lucents: str  # name of the same layer
    filters: int
    of_peer: int
    target: float


TASKS = {
    "early": Task("backbone.block1.conv2", "features_2", 64, 3, 10.0),
    "deep": Task("backbone.block5.conv1", "features_24", 8, 3, 1.1),
}


def one_by_one(model, layer: str, filters: int, steps: int) -> list[float]:
    """The peer: the mean activation that each filter reaches on its own picture."""
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
    """Seconds a filter, and the mean activation reached."""
    start = time.perf_counter()
    reached = run()
    return (time.perf_counter() - start) / filters, sum(reached) / len(reached)


def lucent(task: Task, steps: int) -> Side:
    """The peer's process, ready."""
    command = [peer_python("lucent"), HERE / "peers" / "lucent_filters.py"]
    command += ["--layer", task.lucents, "--filters", task.of_peer, "--steps", steps]
    RESULTS.mkdir(parents=True, exist_ok=True)
    return Side("lucent", list(map(str, command)), available_cores(), RESULTS / "lucent.log")


def measure(task: Task, model, rounds: int, steps: int) -> dict:
    """All rounds of one task: seconds a filter of each side, and peer / ours."""
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
    for name in ("plain", "robust"):  # every side is warm when the first round begins
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
    told = {**task._asdict(), "rounds": lines, "ratio": spread([line["ratio"] for line in lines])}
    if peer is not None:
        peer.close()
        told["peer"] = peer.about
        told["ratio_lucent"] = spread([line["ratio_lucent"] for line in lines])
    return told


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--task", choices=[*TASKS, "both"], default="both")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10, help="of the ascent (default: 10)")
    parser.add_argument("--threads", type=int, help="of both sides (default: PyTorch's)")
    parser.add_argument("--check", action="store_true", help="exit status 1 below a task's target")
    parser.add_argument("--out", type=Path, default=RESULTS / "filters.json")
    args = parser.parse_args()
    if args.rounds < 1 or args.steps < 1:
        parser.error("rounds and steps are at least 1")

    if args.threads:  # one, where other programs use the machine: waiting threads blur the ratio
        torch.set_num_threads(args.threads)
    spec = compose(["experiment=finetune_vgg16", "model.weights=none"]).model
    model = build_model(spec, channels=3, size=SIZE, outputs=2, pretrained=False).eval()
    model.requires_grad_(False)  # the peer, too, pays for no gradient it does not use
    heads = [f"{name:>12}" for name in ("plain", "one by one", "robust", "lucent")]
    print(f"{'seconds a filter':>24}" + "".join(heads) + f"{'one/plain':>10}{'luc/robust':>11}")
    names = list(TASKS) if args.task == "both" else [args.task]
    tasks = {name: measure(TASKS[name], model, args.rounds, args.steps) for name in names}

    for name, told in tasks.items():
        beside = [
            f"{told[key]['median']:.2f} times as fast as {peer} "
            f"({told[key]['min']} to {told[key]['max']})"
            for key, peer in (("ratio", "one by one"), ("ratio_lucent", "lucent"))
            if key in told
        ]
        print(f"{name}: {told['filters']} filters of {told['layer']}, {', '.join(beside)}")
    print(f"{processor()}, {torch.get_num_threads()} threads")
    write_result(
        args.out, f"filter pictures of VGG16; the peers at {SIZE}x{SIZE} pixels",
        threads=torch.get_num_threads(), versions={"torch": torch.__version__}, steps=args.steps,
        tasks=tasks,
    )  # fmt: skip
    short = [
        name
        for name, told in tasks.items()
        if "ratio_lucent" not in told or told["ratio_lucent"]["median"] < told["target"]
    ]
    if short:
        print(f"below its target, or without lucent: {', '.join(short)}", file=sys.stderr)
    return int(args.check and bool(short))


if __name__ == "__main__":
    sys.exit(main())
