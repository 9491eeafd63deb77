"""Prove that looking keeps to its budget: short real runs, idle and with all cores busy.

    .venv/bin/python benchmarks/budget.py --data DIR     (DIR/train/<class>/*.jpg, …)
    .venv/bin/python benchmarks/budget.py --quick         (one network, 64 images)
    .venv/bin/python benchmarks/budget.py --only scratch,vgg16 --load busy

Six networks are trained for two epochs on 64 and on 2,000 photographs, with the default budget and
with a tiny one, on the idle machine and while as many other processes as there are cores compute.
The first epoch trains the head on stored features, the second one end to end (the scratch network:
both end to end). Of each look, the run itself records what it was allowed and what it took
(`summary.json`, `looking.looks`); a look may take a tenth more and the pass of one image. The
probes whose Grad-CAM was drawn are counted from the files.

The plan, with estimated minutes, is printed first. Every finished run is kept in `--out`, so that
a stopped measurement continues where it was; `--again` measures all again. A run on the idle
machine is measured again if anything else used the machine. Networks whose weights are not at hand
have random ones, which take the same time.
"""

import argparse
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from budget_figures import (
    compute_seconds_per_look,
    find_problems,
    is_idle,
    limit,
    make_table,
)
from results import RESULTS, processor, write_result
from rounds import available_cores, side_environment, watched

SIZES = {64: (20, 6, 6), 2000: (800, 100, 100)}  # images per class in train, validation and test
BUDGETS = {
    "default": [],
    "tiny": ["looking.seconds=0.2", "looking.first_seconds=0.5", "looking.last_seconds=1"],
}
LOADS = ("idle", "busy")
BURN = "import os\nwhile os.getppid() == {parent}:\n    sum(range(10**6))"
STEPS = 6  # of an epoch on 2,000 images; all images would take minutes
HEAD = (
    "{epochs: 1, train: [head], lr: {head: 1e-3}, augment: false, warmup_epochs: 0.0, until: null}"
)
WHOLE = "{epochs: 1, train: [head, NAME], lr: {head: 1e-4, NAME: 1e-5}, augment: true, "
WHOLE += "warmup_epochs: 0.0, until: null}"


class Network(NamedTuple):
    """A network, the words that train it, and about how many seconds a run on 64 images takes."""

    words: list[str]
    seconds: float


def finetune(exp: str, group: str, seconds: float, *words: str) -> Network:
    phases = f"finetune.phases=[{HEAD}, {WHOLE.replace('NAME', group)}]"
    return Network([f"exp={exp}", "data=image_folder", phases, *words], seconds)


def timm(name: str, seconds: float, size: int, weights: str) -> Network:
    words = (f"model.name={name}", f"model.weights={weights}", f"data.size={size}")
    return finetune("finetune_timm", "base", seconds, *words, "training.batch_size=16")


NETWORKS = {
    "scratch": Network(
        ["exp=scratch", "data=image_folder", "data.size=64", "training.epochs=2"], 25
    ),
    "vgg16": finetune("finetune_vgg16", "last_block", 60, "data.size=150"),
    "inception_v3": finetune("finetune_inception_v3", "top", 60, "data.size=150"),
    "tf_efficientnet_lite0": timm("tf_efficientnet_lite0", 50, 224, "auto"),
    "convnext_tiny": timm("convnext_tiny", 60, 128, "none"),
    "resnet50": timm("resnet50", 60, 128, "none"),
}


class Case(NamedTuple):
    """One run."""

    network: str
    images: int
    budget: str
    load: str

    @property
    def key(self) -> str:
        return " ".join(map(str, self))

    @property
    def seconds(self) -> float:
        """About how long it takes; storing the features of 2,000 images is done once."""
        once = 60 if self.images == 2000 and self.budget == "default" and self.load == "idle" else 0
        slower = 1.0 if self.load == "idle" else 2.0
        return slower * NETWORKS[self.network].seconds * (1.5 if self.images == 2000 else 1) + once


def link_images(source: Path, folder: Path, images: int) -> Path:
    """Make a folder of links to some of the photographs of each class, and return it."""
    home = folder / str(images)
    for split, count in zip(("train", "validation", "test"), SIZES[images], strict=True):
        for group in sorted(each for each in (source / split).iterdir() if each.is_dir()):
            files = sorted(each for each in group.iterdir() if each.is_file())[:count]
            (home / split / group.name).mkdir(parents=True)
            for file in files:
                (home / split / group.name / file.name).symlink_to(file.resolve())
    return home


@contextmanager
def burning(count: int) -> Iterator[None]:
    """Keep ``count`` cores busy; the processes end with this one, whatever happens to it."""
    script = BURN.format(parent=os.getpid())
    processes = [subprocess.Popen([sys.executable, "-c", script]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def list_grad_cam(home: Path, looks: list[dict]) -> dict[str, list[str]]:
    """Return the probes whose Grad-CAM was drawn, by the clock of each look, from the files."""
    clocks = sorted({look["clock"] for look in looks if look["moment"] != "test"})
    folders = {clock: home / "explanations" / f"epoch_{clock:03d}" / "grad_cam" for clock in clocks}
    return {
        str(clock): sorted(file.stem for file in folder.glob("*.jpg"))
        for clock, folder in folders.items()
    }


def count_bytes(home: Path) -> dict[str, dict[str, int]]:
    """Return the bytes of each kind of explanation, by clock."""
    found: dict[str, dict[str, int]] = {}
    for file in sorted((home / "explanations").rglob("*")):
        if file.is_file():
            epoch, kind = file.relative_to(home / "explanations").parts[:2]
            kinds = found.setdefault(str(int(epoch.removeprefix("epoch_"))), {})
            kinds[Path(kind).name] = kinds.get(Path(kind).name, 0) + file.stat().st_size
    return found


def train(case: Case, data: Path, home: Path) -> dict:
    """Run a case, and return its record."""
    words = [
        *NETWORKS[case.network].words, f"data.dir={data}", "precision=32", *BUDGETS[case.budget],
        *([f"training.steps_per_epoch={STEPS}"] if case.images == 2000 else []), f"run_dir={home}",
    ]  # fmt: skip
    command = [sys.executable, "-m", "convlens", "train", *words]
    log, began = home.with_suffix(".log"), time.perf_counter()
    with log.open("w") as out:
        done = subprocess.run(command, stdout=out, stderr=subprocess.STDOUT, env=side_environment())
    if done.returncode:
        raise SystemExit(f"{case.key} failed:\n{log.read_text()[-2000:]}")
    summary = json.loads((home / "summary.json").read_text())
    looks = summary["looking"]["looks"]
    probes = sorted(file.stem for file in (home / "probes").glob("*.png"))
    return {
        **case._asdict(), "took": round(time.perf_counter() - began), "probes": probes,
        "looks": looks, "grad_cam": list_grad_cam(home, looks),
        "bytes": count_bytes(home), "left_out": summary["left_out"],
        "failures": summary["failures"],
    }  # fmt: skip


def measure(case: Case, data: Path, home: Path) -> dict:
    """Run a case under its load, and record how many cores anything else used."""
    if case.load == "busy":
        with burning(len(available_cores())):
            return {**train(case, data, home), "others": None}
    seen: list[float | None] = []
    return {**watched(lambda: train(case, data, home), seen), "others": seen[0]}


def choose_cases(args: argparse.Namespace) -> list[Case]:
    names = args.only.split(",") if args.only else list(NETWORKS)
    sizes = [64] if args.quick else list(SIZES)
    if args.quick:
        names = names[:1]
    loads = args.load.split(",") if args.load else LOADS
    # all runs of one load together: those on the idle machine first
    return [
        Case(name, images, budget, load)
        for load, images, name, budget in itertools.product(loads, sizes, names, BUDGETS)
    ]


def print_plan(cases: list[Case], kept: dict[str, dict]) -> None:
    waiting = [case for case in cases if case.key not in kept]
    for case in cases:
        state = "kept" if case.key in kept else f"about {case.seconds:.0f} s"
        print(f"  {case.network:<22}{case.images:>6}  {case.budget:<8} {case.load:<5} {state}")
    minutes = sum(case.seconds for case in waiting) / 60
    print(f"{len(waiting)} runs, about {minutes:.0f} minutes on two cores", flush=True)


def main() -> int:
    root = os.environ.get("CONVLENS_DATA", "data")
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", type=Path, default=Path(root) / "cats_dogs", help="default: %(default)s")
    add("--only", help=f"networks, comma-separated: {', '.join(NETWORKS)}")
    add("--load", help="idle, busy; default: both")
    add("--quick", action="store_true", help="one network (the first of --only) on 64 images")
    add("--again", action="store_true", help="measure runs again that are kept")
    add("--plan", action="store_true", help="print the plan and stop")
    add("--check", action="store_true", help="exit status 1 if a look took too long")
    add("--out", type=Path, default=RESULTS / "budget.json")
    args = parser.parse_args()
    if unknown := [n for n in (args.only or "").split(",") if n and n not in NETWORKS]:
        parser.error(f"unknown network {unknown[0]}; choose from: {', '.join(NETWORKS)}")
    if unknown := [n for n in (args.load or "").split(",") if n and n not in LOADS]:
        parser.error(f"unknown load {unknown[0]}; choose from: {', '.join(LOADS)}")
    cases, known = choose_cases(args), {}
    if args.out.exists():
        known = json.loads(args.out.read_text())["runs"]
    kept = {
        case.key: known[case.key]
        for case in cases
        if case.key in known and not args.again
        and (case.load == "busy" or is_idle(known[case.key]))
    }  # fmt: skip
    print_plan(cases, kept)
    if args.plan:
        return 0
    with tempfile.TemporaryDirectory() as folder:
        data = {images: link_images(args.data, Path(folder), images) for images in SIZES}
        for case in cases:
            if case.key in kept:
                continue
            home = Path(folder) / "run"
            record = measure(case, data[case.images], home)
            shutil.rmtree(home)
            known[case.key] = record
            problems = "; ".join(find_problems(record)) or "kept"
            print(f"{case.key}: {record['took']} s, {problems}", flush=True)
            save(args.out, known)
    records = [known[case.key] for case in cases]
    print(make_table(records))
    methods = compute_seconds_per_look(records)
    print("seconds per look: " + ", ".join(f"{name} {value}" for name, value in methods.items()))
    print(f"{processor()}, {len(available_cores())} cores")
    broken = [record for record in records if find_problems(record)]
    print(f"{len(records) - len(broken)} of {len(records)} runs kept to their budget")
    return int(args.check and bool(broken))


def save(out: Path, runs: dict[str, dict]) -> None:
    """Write all runs measured so far, with the limit of each look."""
    for record in runs.values():
        for look in record["looks"]:
            look["limit"] = round(limit(look), 4)
    write_result(out, "what looks took, and what they were allowed", runs=runs)


if __name__ == "__main__":
    sys.exit(main())
