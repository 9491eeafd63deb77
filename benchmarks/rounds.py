"""Two processes measured in turns: the protocol, both ends of it.

A *side* (ours, the peer) is a script that gets itself ready, prints one JSON line that says what
it is, and then, for every round, waits for the line ``go`` on its standard input, measures, and
prints one JSON line. While it waits it computes nothing, so a driver can hold several sides ready
and let them run one after the other: A, B, B, A, A, B, ... A drift of the machine's speed then
meets both alike, and the ratio within a round is worth more than the two speeds.

A round in which anything else on the machine used more than ``BUSY`` cores is discarded and
repeated; where it stays so, the benchmark fails.

A round is ``warmup_steps`` training steps that are not counted (queues fill, caches warm) and then
``steps`` that are; its line is ``{"round", "images", "seconds", "images_per_second", "peak_mb"}``.

Nothing here needs more than the standard library: the peers run it in environments of their own.
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
BUSY = 0.1  # cores used by anything else, above which a round is not to be trusted
PATIENCE = 5  # rounds discarded one after the other, after which the machine counts as busy

# Settings of the caller's shell that would give one side more or fewer threads than the other.
THREAD_SETTINGS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
)
# Set, it makes every start of a side compile its libraries anew, where only some came compiled.
NO_BYTECODE = "PYTHONDONTWRITEBYTECODE"


def side_environment() -> dict[str, str]:
    """The environment of a side: the caller's without what would favour one of them."""
    unwanted = (*THREAD_SETTINGS, NO_BYTECODE)
    return {key: value for key, value in os.environ.items() if key not in unwanted}


def available_cores() -> list[int]:
    """The cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def peak_megabytes() -> float | None:
    """The most memory this process has held in RAM at once (10^6 bytes), since it was started.

    Files that are mapped count as far as they were read. Not ``ru_maxrss``: that also remembers
    the program which started this one. None where the system does not tell it (not Linux).
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    peak = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return round(int(peak[0]) * 1024 / 1e6, 1) if peak else None


# ------------------------------------------------------------------ the side's end


def arguments(description: str) -> argparse.ArgumentParser:
    """The command line every side understands; a side may add its own options."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--data", type=Path, help="folder with train/<class>/*.jpg")
    parser.add_argument("--warmup-steps", type=int, default=10, help="uncounted, in every round")
    parser.add_argument("--steps", type=int, default=80, help="counted steps a round")
    return parser


def claim_stdout():
    """Keep standard output for the protocol; what libraries print goes to standard error."""
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    return out


def serve(out, about: dict, measure: Callable[[], tuple[int, float]]) -> None:
    """Say what this side is, then measure once for every ``go``, until the end of input.

    No side ends before the driver has heard the last round of the other: one that has ended leaves
    the machine to the other, one that has not may still disturb it.

    ``measure`` runs one whole round and returns (pictures counted, seconds they took).
    """
    print(json.dumps({"cores": len(available_cores()), **about}), file=out)
    while sys.stdin.readline().strip() == "go":
        images, seconds = measure()
        line = {
            "images": images, "seconds": round(seconds, 4),
            "images_per_second": round(images / seconds, 2), "peak_mb": peak_megabytes(),
        }  # fmt: skip
        print(json.dumps(line), file=out)


# ---------------------------------------------------------------- the driver's end


class Watch:
    """What everything but one process, with its children that have ended, takes of the machine."""

    def __init__(self, pid: int):
        self.pid = pid
        self._start, self._before = time.perf_counter(), self._elsewhere()

    def others(self) -> float | None:
        """Cores used by anything else since the start; None where the system does not tell it."""
        after, seconds = self._elsewhere(), time.perf_counter() - self._start
        if self._before is None or after is None:
            return None
        return round(max(0.0, (after - self._before) / seconds), 2)

    def _elsewhere(self) -> float | None:
        """Processor seconds that the machine has spent on anything but the process (Linux)."""
        try:
            machine = Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
            own = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[11:15]
        except OSError:
            return None
        user, nice, system, _idle, _wait, *rest = map(int, machine)
        return (user + nice + system + sum(rest) - sum(map(int, own))) / os.sysconf("SC_CLK_TCK")


def watched(run: Callable[[], T], seen: list[float | None]) -> T:
    """What ``run`` returns, computed in this process or in children that have ended by then.

    ``seen`` gets what anything else used meanwhile, as `Watch.others` says it.
    """
    watch = Watch(os.getpid())
    found = run()
    seen.append(watch.others())
    return found


def take_rounds(count: int, measure: Callable[[int], tuple[dict, list[float | None]]]) -> list:
    """``count`` rounds during which the machine was left to whoever was measured.

    Args:
        measure: given the round's number from 0 on, which decides who goes first; returns the
            round and what anything else used while each side was measured. A round that was
            disturbed is discarded and repeated, under the same number.

    Returns:
        The rounds, each with ``others``: the most cores that anything else used, or None.

    Raises:
        SystemExit: ``PATIENCE`` rounds in turn were disturbed.
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
                f"rounds in turn; at most {BUSY} are allowed: repeat this when nothing else runs"
            )
    return rounds


class Side:
    """A side as a child process, pinned to ``cores``; ``about`` is what it said of itself."""

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
            raise SystemExit(f"{self.name} printed no figure but {line.strip()!r}") from None

    def round(self) -> dict:
        """Let it run one round and wait for the figure.

        ``others``: how many cores everything else on the machine used meanwhile (Linux only).
        """
        watch = Watch(self.process.pid)
        try:
            self.process.stdin.write("go\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # it has died; _line says how
        figure = self._line()
        figure["others"] = watch.others()
        return figure

    def close(self) -> None:
        """Let it end; one that does not is stopped."""
        self.process.stdin.close()
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
