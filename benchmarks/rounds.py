"""The protocol that measures two processes in turns, with the code of both ends.

A *side* (convlens or the peer) is a script. It prepares itself and prints one JSON line that
describes it. For every round it then waits for the line ``go`` on its standard input, measures, and
prints one JSON line. It computes nothing while it waits, so a driver can prepare several sides and
let them run one after the other: A, B, B, A, A, B, ... A drift of the machine's speed then affects
both sides equally, so the ratio within a round is more reliable than the two speeds.

A round in which anything else on the machine used more than ``BUSY`` cores is discarded and
repeated. After ``PATIENCE`` such rounds in succession the benchmark fails.

A round has ``warmup_steps`` training steps that are not counted (queues fill, caches warm), then
``steps`` that are. Its line is ``{"images", "seconds", "images_per_second", "peak_mb"}``.

Only the standard library is used, because the peers run this module in their own environments.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
BUSY = 0.1  # cores used by anything else, above which a round is discarded
PATIENCE = 5  # discarded rounds in succession, after which the benchmark fails

# Settings of the shell that would give the two sides different numbers of threads.
THREAD_SETTINGS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
)
# If set, a side compiles its libraries again at every start, unless they are installed compiled.
NO_BYTECODE = "PYTHONDONTWRITEBYTECODE"


def side_environment() -> dict[str, str]:
    """Return the environment for a side, without variables that would favour one side.

    GPUs are hidden: the sides are compared on the processor.
    """
    unwanted = (*THREAD_SETTINGS, NO_BYTECODE)
    kept = {key: value for key, value in os.environ.items() if key not in unwanted}
    return {**kept, "CUDA_VISIBLE_DEVICES": ""}


def available_cores() -> list[int]:
    """Return the cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def peak_megabytes() -> float | None:
    """Return the peak resident memory of this process since its start, in 10^6 bytes.

    The pages of mapped files that were read count. ``ru_maxrss`` is not used, because it includes
    the program that started this process. None if the system does not report it (not Linux).
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    peak = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return round(int(peak[0]) * 1024 / 1e6, 1) if peak else None


# ------------------------------------------------------------------ the side


def arguments(description: str) -> argparse.ArgumentParser:
    """Return the argument parser of every side; a side may add options."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--data", type=Path, help="folder with train/<class>/*.jpg")
    parser.add_argument("--warmup-steps", type=int, default=10, help="uncounted steps per round")
    parser.add_argument("--steps", type=int, default=80, help="counted steps per round")
    return parser


def claim_stdout():
    """Return a stream for the protocol, and send what libraries print to standard error."""
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    return out


def serve(out, about: dict, measure: Callable[[], tuple[int, float]]) -> None:
    """Describe this side, then measure once for every ``go``, until the input ends.

    No side ends before the driver has received the last round of the other. If one side ended
    early, the other would have the machine to itself.

    Args:
        out: stream of the protocol.
        about: description of this side.
        measure: runs one whole round and returns the number of counted images and their seconds.
    """
    print(json.dumps({"cores": len(available_cores()), **about}), file=out)
    while sys.stdin.readline().strip() == "go":
        images, seconds = measure()
        line = {
            "images": images, "seconds": round(seconds, 4),
            "images_per_second": round(images / seconds, 2), "peak_mb": peak_megabytes(),
        }  # fmt: skip
        print(json.dumps(line), file=out)


# ---------------------------------------------------------------- the driver


class Watch:
    """Measures the cores used by anything except one process and its ended children."""

    def __init__(self, pid: int):
        self.pid = pid
        self._start, self._before = time.perf_counter(), self._elsewhere()

    def others(self) -> float | None:
        """Return the cores used by anything else since the start; None if unknown."""
        after, seconds = self._elsewhere(), time.perf_counter() - self._start
        if self._before is None or after is None:
            return None
        return round(max(0.0, (after - self._before) / seconds), 2)

    def _elsewhere(self) -> float | None:
        """Return the processor seconds spent on anything except the process (Linux)."""
        try:
            machine = Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
            own = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[11:15]
        except OSError:
            return None
        user, nice, system, _idle, _wait, *rest = map(int, machine)
        return (user + nice + system + sum(rest) - sum(map(int, own))) / os.sysconf("SC_CLK_TCK")


def watched(run: Callable[[], T], seen: list[float | None]) -> T:
    """Run a function while the machine is watched.

    Args:
        run: computes in this process, or in children that end before it returns.
        seen: gets the cores that anything else used meanwhile, as of ``Watch.others``.

    Returns:
        The result of ``run``.
    """
    watch = Watch(os.getpid())
    found = run()
    seen.append(watch.others())
    return found


def take_rounds(count: int, measure: Callable[[int], tuple[dict, list[float | None]]]) -> list:
    """Measure rounds, and repeat those in which the machine was busy with something else.

    Args:
        count: number of rounds.
        measure: takes the number of the round, from 0, which decides which side goes first. It
            returns the round and the cores that anything else used while each side was measured.
            A disturbed round is discarded and repeated with the same number.

    Returns:
        The rounds, each with ``others``: the most cores that anything else used, or None.

    Raises:
        SystemExit: ``PATIENCE`` rounds in succession were disturbed.
    """
    rounds: list[dict] = []
    disturbed: list[float] = []
    while len(rounds) < count:
        found, seen = measure(len(rounds))
        others = None if None in seen else max(seen)
        if others is None or others <= BUSY:
            rounds.append({**found, "others": others})
            disturbed = []
            continue
        disturbed.append(others)
        print(
            f"round {len(rounds) + 1} discarded: something else used {others} cores meanwhile",
            file=sys.stderr,
        )
        if len(disturbed) == PATIENCE:
            raise SystemExit(
                f"something else used {min(disturbed)} to {max(disturbed)} cores in {PATIENCE} "
                f"rounds in succession; at most {BUSY} are allowed: repeat when nothing else runs"
            )
    return rounds


class Side:
    """A side as a child process.

    Args:
        name: name of the side.
        command: command line of the side.
        cores: cores to which it is pinned.
        log: file for its standard error.

    Attributes:
        about: the side's description of itself.
    """

    def __init__(self, name: str, command: list[str], cores: list[int], log: Path):
        self.name, self.log = name, log

        def pin() -> None:
            if hasattr(os, "sched_setaffinity"):
                os.sched_setaffinity(0, cores)

        with log.open("w") as errors:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=side_environment(),
                preexec_fn=pin,
            )
        self.about = self._line()

    def _line(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            status = self.process.wait()
            tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-12:])
            raise SystemExit(f"{self.name} stopped with status {status}; {self.log} ends:\n{tail}")
        try:
            return json.loads(line)
        except json.JSONDecodeError:
            self.close()
            raise SystemExit(f"{self.name} printed no JSON line but {line.strip()!r}") from None

    def round(self) -> dict:
        """Run one round and return its figures.

        Their ``others`` is the number of cores that anything else used meanwhile (Linux only).
        """
        watch = Watch(self.process.pid)
        try:
            self.process.stdin.write("go\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # the side has ended; _line reports how
        figure = self._line()
        figure["others"] = watch.others()
        return figure

    def close(self) -> None:
        """Let the side end, and kill it if it does not end within 20 seconds."""
        self.process.stdin.close()
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
