"""The rows of `make bench`: which script measures each, how long, and how its file is read."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from table import Rounds, Row

PICTURES = "photographs"
WEIGHTS = "VGG16's weights"
SHARE, SECONDS = 0.05, 2.0  # of an epoch for looking: `callbacks.budget`, `looking.seconds`


class Job(NamedTuple):
    """One run of one script, which measures one row or several.

    Attributes:
        name: of its log and its result.
        command: the script in this folder with its words.
        quick: words for a trial run: one round of a few steps.
        rows: measured by it.
        read: from the script's result to the rounds of each row, in the order of ``rows``.
        needs: ``PICTURES``, ``WEIGHTS``; they are looked for before it starts.
        peers: whose environments it uses.
        rounds: the word before the number of rounds.
    """

    name: str
    command: list[str]
    quick: list[str]
    rows: list[Row]
    read: Callable[[dict], list[Rounds | None]]
    needs: tuple[str, ...] = ()
    peers: tuple[str, ...] = ()
    rounds: str = "--rounds"


def sides(told: dict, *, cost: bool = False) -> list[Rounds]:
    """Of `throughput.py`: pictures a second and peak memory; of `plain_loop.py` the speed alone.

    With ``cost`` the ratio says how much longer ours takes.
    """
    ours, peer = told["sides"]
    lines = told["rounds"]
    note = precisions(told)
    speeds = [[line[side] for line in lines] for side in (ours, peer)]
    ratios = [b / a if cost else a / b for a, b in zip(*speeds, strict=True)]
    found = [Rounds(*speeds, ratios, note)]
    if not cost and lines[0].get("peak_mb"):
        memory = [[line["peak_mb"][side] for line in lines] for side in (ours, peer)]
        found.append(Rounds(*memory, [b / a for a, b in zip(*memory, strict=True)]))
    return found


def precisions(told: dict) -> str:
    """The precision of both sides of `throughput.py`, and the threads where they differ."""
    ours, peer = told["sides"].values()
    note = f"in {ours['precision']}, peer {peer['precision']}"
    # 0 is TensorFlow's word for one thread for each core
    threads = [side["threads"]["intra_op"] or side["cores"] for side in (ours, peer)]
    if threads[0] != threads[1]:
        note += f"; {threads[0]} threads, peer {threads[1]}"
    return note


def tasks(told: dict, names: list[str], pairs: list[tuple[str, str]]) -> list[Rounds | None]:
    """Of scripts that write seconds by task: for each task and each pair (ours, peer), in turn.

    None where the rounds are without a peer: it could not be run.
    """
    found = []
    for name in names:
        for ours, peer in pairs:
            if not all(peer in line for line in told["tasks"][name]["rounds"]):
                found.append(None)
                continue
            both = [[line[side] for line in told["tasks"][name]["rounds"]] for side in (ours, peer)]
            found.append(Rounds(*both, [b / a for a, b in zip(*both, strict=True)]))
    return found


def looking(told: dict) -> list[Rounds]:
    """Epochs of the runs that looked: seconds with looking, and without what looking took.

    The promise is about all of them together, for an epoch may use what others have left: 5 % of
    the epochs, or two seconds of each where that is more.
    """
    epochs = [e for line in told["rounds"] for e in line["default"]["looking"]["by_epoch"]]
    alone = [epoch["seconds"] for epoch in epochs]
    whole = [epoch["seconds"] + epoch["looking"] for epoch in epochs]
    return [
        Rounds(
            whole, alone, [a / b for a, b in zip(whole, alone, strict=True)],
            f"of all {len(epochs)} epochs together; allowed are 5 % or two seconds an epoch",
            whole=sum(whole) / sum(alone),
            at_most=1 + max(SHARE, SECONDS * len(alone) / sum(alone)),
        )
    ]  # fmt: skip


def epochs(told: dict) -> list[Rounds]:
    """Of `throughput.py`'s ``head_epoch``: seconds of an epoch."""
    both = [[line["seconds"][side] for line in told["rounds"]] for side in told["sides"]]
    ratios = [b / a for a, b in zip(*both, strict=True)]
    return [Rounds(*both, ratios, precisions(told))]


def separate(told: dict, task: str) -> str:
    """Of a task whose peer is a process of its own: torch and threads of both where they differ."""
    peer = told["tasks"][task].get("peer")
    if peer is None:
        return ""
    pairs = {
        "torch": (told["versions"]["torch"], peer["torch"]),
        "threads": (told["threads"], peer["threads"]),
    }
    return "; ".join(f"{word} {a}, peer {b}" for word, (a, b) in pairs.items() if a != b)


def cams(told: dict) -> list[Rounds]:
    """Of `cams.py`: seconds, with how alike the maps were."""
    names = [
        f"{library}_{layers}" for library in ("pytorch-grad-cam", "torch-cam") for layers in (1, 3)
    ]
    found = tasks(told, names, [("ours", "peer")])
    notes = [
        f"correlation of the maps {told['tasks'][name]['correlation']:.4f} at least"
        for name in names
    ]
    differing = [separate(told, name) for name in names]
    return [
        rounds._replace(note="; ".join(filter(None, both)))
        for rounds, *both in zip(found, notes, differing, strict=True)
    ]


def filters(told: dict) -> list[Rounds | None]:
    """Of `filters.py`: seconds a filter, early and deep, beside one by one and beside lucent."""
    pairs = [("plain", "one by one"), ("robust", "lucent")]
    found = tasks(told, ["early", "deep"], pairs)
    notes = [note for task in ("early", "deep") for note in ("", separate(told, task))]
    return [
        rounds and rounds._replace(note=note) for rounds, note in zip(found, notes, strict=True)
    ]


def plain(task: str, what: str) -> Job:
    row = Row(task, f"{what} [images/s]", "a plain torch loop", at_most=1.03)
    quick = ["--warmup-steps", "1", "--steps", "2"]
    command = ["throughput.py", "--task", task]
    return Job(task, command, quick, [row], lambda told: sides(told, cost=True), (PICTURES,))


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
    plain("plain_scratch", "training from scratch, augmented"),
    plain("plain_last_block", "VGG16, last block and head, augmented"),
    Job(
        "startup", ["startup.py"], [],
        [
            Row("startup", "start to the first step [s]", "Keras, same recipe"),
            Row("startup_unjudged", "the same, untrained network not judged [s]", "Keras"),
            Row("startup_torch", "the same, not judged [s]", "a plain torch script"),
        ],
        lambda told: tasks(
            told, ["startup"],
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
            Row("grad_cam_panel", "TensorBoard: Grad-CAM panel [s]", "add_figure", at_least=10.0),
            Row("activation_grid", "TensorBoard: 512 channels [s]", "add_figure", at_least=10.0),
        ],
        lambda told: tasks(
            told, ["grad_cam", "occlusion", "grad_cam_panel", "activation_grid"],
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
]  # fmt: skip
ROWS = {row.name: job for job in JOBS for row in job.rows}
