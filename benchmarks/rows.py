"""The rows of `make bench`: which script measures each row, and how its results are read."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import NamedTuple

from budget_figures import find_problems, limit
from table import Rounds, Row

PICTURES = "photographs"
WEIGHTS = "VGG16's weights"
HOST_MS = 0.5  # milliseconds of the host's time that a step may take above bare Lightning's
SLOWER = 1.2  # times as long as a plain script that a start may take
SHARE, SECONDS = 0.05, 1.0  # allowed per epoch: `callbacks.budget`, `looking.seconds`


class Job(NamedTuple):
    """One run of one script, which measures one row or several.

    Attributes:
        name: name of its log and result file.
        command: script in this folder, with its arguments.
        quick: arguments for a trial run: one round of a few steps.
        rows: rows that the script measures.
        read: takes the script's result; returns the rounds of each row, in the order of ``rows``.
        needs: ``PICTURES``, ``WEIGHTS`` or both; checked before the script starts.
        peers: peers whose environments the script uses.
        rounds: option that sets the number of rounds; empty for a script without rounds.
        limit: seconds after which the script is stopped.
    """

    name: str
    command: list[str]
    quick: list[str]
    rows: list[Row]
    read: Callable[[dict], list[Rounds | None]]
    needs: tuple[str, ...] = ()
    peers: tuple[str, ...] = ()
    rounds: str = "--rounds"
    limit: int = 1800


def sides(result: dict, *, cost: bool = False) -> list[Rounds]:
    """Read images per second and, if measured, peak memory from a result of `throughput.py`.

    Args:
        result: the script's result.
        cost: whether the ratio is the time of convlens divided by that of the peer; memory is then
            left out.
    """
    ours, peer = result["sides"]
    lines = result["rounds"]
    note = precisions(result)
    speeds = [[line[side] for line in lines] for side in (ours, peer)]
    ratios = [b / a if cost else a / b for a, b in zip(*speeds, strict=True)]
    results = [Rounds(*speeds, ratios, note)]
    if not cost and lines[0].get("peak_mb"):
        memory = [[line["peak_mb"][side] for line in lines] for side in (ours, peer)]
        results.append(Rounds(*memory, [b / a for a, b in zip(*memory, strict=True)]))
    return results


def precisions(result: dict) -> str:
    """Return the precision of both sides, and their threads if they differ."""
    ours, peer = result["sides"].values()
    note = f"precision {ours['precision']}, peer {peer['precision']}"
    # TensorFlow reports 0 for one thread per core
    threads = [side["threads"]["intra_op"] or side["cores"] for side in (ours, peer)]
    if threads[0] != threads[1]:
        note += f"; {threads[0]} threads, peer {threads[1]}"
    return note


def tasks(result: dict, names: list[str], pairs: list[tuple[str, str]]) -> list[Rounds | None]:
    """Read the seconds of each task and each pair (ours, peer), in this order.

    Returns:
        The rounds of each pair; None for a peer that could not be run.
    """
    results = []
    for name in names:
        for ours, peer in pairs:
            if not all(peer in line for line in result["tasks"][name]["rounds"]):
                results.append(None)
                continue
            lines = result["tasks"][name]["rounds"]
            both = [[line[side] for line in lines] for side in (ours, peer)]
            results.append(Rounds(*both, [b / a for a, b in zip(*both, strict=True)]))
    return results


def looking(result: dict) -> list[Rounds]:
    """Read the seconds of each epoch with explanations, and the same seconds without their cost.

    The promise applies to all epochs together, because an epoch may use the budget that others have
    left: 5 % of the epochs, or one second per epoch if that is more.
    """
    epochs = [e for line in result["rounds"] for e in line["default"]["looking"]["by_epoch"]]
    alone = [epoch["seconds"] for epoch in epochs]
    whole = [epoch["seconds"] + epoch["looking"] for epoch in epochs]
    return [
        Rounds(
            whole, alone, [a / b for a, b in zip(whole, alone, strict=True)],
            f"of all {len(epochs)} epochs together; at most 5 % or one second per epoch",
            whole=sum(whole) / sum(alone),
            at_most=1 + max(SHARE, SECONDS * len(alone) / sum(alone)),
        )
    ]  # fmt: skip


def budget(result: dict) -> list[Rounds]:
    """Read what each look took and was allowed, from the records of `budget.py`.

    The ratio of the row is that of the worst look to its limit: a tenth more than its allowance,
    and the pass of one image.
    """
    records = result["runs"].values()
    looks = [look for record in records for look in record["looks"]]
    kept = sum(not find_problems(record) for record in records)
    return [
        Rounds(
            [look["spent"] for look in looks], [look["allowed"] for look in looks],
            [look["spent"] / limit(look) for look in looks if limit(look)],
            f"{kept} of {len(records)} runs kept to their budget; see `budget.json`",
            whole=max(look["spent"] / limit(look) for look in looks if limit(look)), at_most=1.0,
        )
    ]  # fmt: skip


def host_step(result: dict) -> list[Rounds]:
    """Read the host's milliseconds per step: beside bare Lightning, and beside a plain loop.

    What convlens may add to Lightning is a time, so the target of the ratio depends on it.
    """
    ours, lightning, plain = (
        [line[side] for line in result["rounds"]] for side in ("convlens", "lightning", "plain")
    )
    found = []
    for peer in (lightning, plain):
        ratios = [a / b for a, b in zip(ours, peer, strict=True)]
        added = statistics.median(a - b for a, b in zip(ours, peer, strict=True))
        found.append(Rounds(ours, peer, ratios, f"{added:.2f} ms more"))
    return [found[0]._replace(at_most=1 + HOST_MS / statistics.median(lightning)), found[1]]


def epochs(result: dict) -> list[Rounds]:
    """Read the seconds of an epoch from the task ``head_epoch`` of `throughput.py`."""
    both = [[line["seconds"][side] for line in result["rounds"]] for side in result["sides"]]
    ratios = [b / a for a, b in zip(*both, strict=True)]
    return [Rounds(*both, ratios, precisions(result))]


def separate(result: dict, task: str) -> str:
    """Return how the peer's torch version and threads differ, or an empty string."""
    peer = result["tasks"][task].get("peer")
    if peer is None:
        return ""
    pairs = {
        "torch": (result["versions"]["torch"], peer["torch"]),
        "threads": (result["threads"], peer["threads"]),
    }
    return "; ".join(f"{word} {a}, peer {b}" for word, (a, b) in pairs.items() if a != b)


def cams(result: dict) -> list[Rounds]:
    """Read the seconds from `cams.py`, with the correlation of the maps as a note."""
    names = [
        f"{library}_{layers}" for library in ("pytorch-grad-cam", "torch-cam") for layers in (1, 3)
    ]
    results = tasks(result, names, [("ours", "peer")])
    notes = [
        f"correlation of the maps at least {result['tasks'][name]['correlation']:.4f}"
        for name in names
    ]
    differing = [separate(result, name) for name in names]
    return [
        rounds._replace(note="; ".join(filter(None, both)))
        for rounds, *both in zip(results, notes, differing, strict=True)
    ]


def filters(result: dict) -> list[Rounds | None]:
    """Read the seconds per filter from `filters.py`: early and deep, for both peers."""
    pairs = [("plain", "one by one"), ("robust", "lucent")]
    results = tasks(result, ["early", "deep"], pairs)
    notes = [note for task in ("early", "deep") for note in ("", separate(result, task))]
    return [
        rounds and rounds._replace(note=note) for rounds, note in zip(results, notes, strict=True)
    ]


def plain(task: str, what: str, at_most: float) -> Job:
    row = Row(task, f"{what} [images/s]", "a plain torch loop", at_most=at_most)
    quick = ["--warmup-steps", "1", "--steps", "2"]
    command = ["throughput.py", "--task", task]
    return Job(task, command, quick, [row], lambda result: sides(result, cost=True), (PICTURES,))


def throughput(task: str, what: str, at_least: float | None) -> Job:
    keras = "Keras, same recipe"
    rows = [
        Row(task, f"{what} [images/s]", keras, at_least=at_least),
        Row(f"{task}_memory", f"{what}: peak memory [MB]", keras),
    ]
    quick = ["--warmup-steps", "1", "--steps", "2"]
    command = ["throughput.py", "--task", task]
    return Job(task, command, quick, rows, sides, (PICTURES,), ("keras",))


JOBS = [
    throughput("scratch", "training from scratch, augmented", 2.0),
    throughput("vgg16_extract", "VGG16 features of JPEG files", 1.7),
    throughput("vgg16_frozen", "VGG16 frozen, a head on it, augmented", None),
    throughput("vgg16_finetune", "VGG16, last block and head, augmented", 1.6),
    Job(
        "head_epoch", ["throughput.py", "--task", "head_epoch"],
        ["--warmup-steps", "1", "--steps", "2"],
        [
            Row(
                "head_epoch", "an epoch of the head on stored features [s]",
                "Keras, frozen, end to end", at_least=50.0,
            )
        ],
        epochs, (PICTURES,), ("keras",),
    ),
    plain("plain_scratch", "training from scratch, augmented", 1.035),
    plain("plain_last_block", "VGG16, last block and head, augmented", 1.015),
    Job(
        "host_step", ["host_step.py"], ["--warmup-steps", "5", "--steps", "20"],
        [
            Row("host_step", "the host's time per step [ms]", "bare Lightning"),
            Row("host_step_plain", "the host's time per step [ms]", "a plain torch loop"),
        ],
        host_step,
    ),
    Job(
        "startup", ["startup.py"], [],
        [
            Row("startup", "start to the first step [s]", "Keras, same recipe"),
            Row("startup_unjudged", "the same, untrained network not evaluated [s]", "Keras"),
            Row(
                "startup_torch", "the same, not evaluated [s]", "a plain torch script",
                at_least=round(1 / SLOWER, 3),
            ),
        ],
        lambda result: tasks(
            result, ["startup"],
            [("convlens", "keras"), ("unjudged", "keras"), ("unjudged", "torch")],
        ),
        (PICTURES,), ("keras",),
    ),
    Job(
        "cams", ["cams.py"], [],
        [
            Row("cam_1", "Grad-CAM, last layer, enlarged [s]", "pytorch-grad-cam"),
            Row("cam_3", "Grad-CAM, 3 layers, enlarged [s]", "pytorch-grad-cam"),
            Row("torch_cam_1", "Grad-CAM, last layer [s]", "torch-cam"),
            Row("torch_cam_3", "Grad-CAM, 3 layers [s]", "torch-cam"),
        ],
        cams, peers=("cam",),
    ),
    Job(
        "explanations", ["explanations.py"], [],
        [
            Row("grad_cam", "Grad-CAM at 3 layers [s]", "3 LayerGradCam calls", at_least=2.0),
            Row("occlusion", "occlusion, 49 windows [s]", "Captum's Occlusion"),
            Row(
                "grad_cam_vit", "Grad-CAM, ViT-S/16, 8 images [s]", "a training pass",
                at_least=1 / 1.5,
            ),
            Row("legrad", "LeGrad, ViT-S/16, 8 images [s]", "a training pass", at_least=1 / 3),
            Row("grad_cam_panel", "TensorBoard: Grad-CAM panel [s]", "add_figure", at_least=10.0),
            Row("activation_grid", "TensorBoard: 512 channels [s]", "add_figure", at_least=10.0),
        ],
        lambda result: tasks(
            result,
            ["grad_cam", "occlusion", "grad_cam_vit", "legrad", "grad_cam_panel",
             "activation_grid"],
            [("ours", "peer")],
        ),
    ),
    Job(
        "filters", ["filters.py"], ["--steps", "2"],
        [
            Row("filters_early", "filter pictures, early layer [s each]", "one by one"),
            Row("filters_early_lucent", "the same, robust [s each]", "lucent", at_least=10.0),
            Row("filters_deep", "filter pictures, deep layer [s each]", "one by one"),
            Row("filters_deep_lucent", "the same, robust [s each]", "lucent", at_least=1.1),
        ],
        filters, peers=("lucent",),
    ),
    Job(
        "looking", ["looking.py", "--only-default"], ["--steps", "3"],
        [
            Row(
                "looking", "an epoch of fine-tuning with all default pictures [s]",
                "the same without looking", at_most=1 + SHARE,
            )
        ],
        looking, (PICTURES, WEIGHTS), rounds="--epochs",
    ),
    Job(
        "budget", ["budget.py"], ["--quick"],
        [Row("looking_budget", "a look [s]", "what it was allowed", at_most=1.0)],
        budget, (PICTURES,), rounds="", limit=4 * 3600,
    ),
]  # fmt: skip
ROWS = {row.name: job for job in JOBS for row in job.rows}
