"""Two processes measured in turns: the protocol, both ends of it.

A *side* (ours, the peer) is a script that gets itself ready, prints one JSON line that says what
it is, and then, for every round, waits for the line ``go`` on its standard input, measures, and
prints one JSON line. While it waits it computes nothing, so a driver can hold several sides ready
and let them run one after the other: A, B, B, A, A, B, ... A drift of the machine's speed then
meets both alike, and the ratio within a round is worth more than the two speeds.

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

# Settings of the caller's shell that would give one side more or fewer threads than the other.
THREAD_SETTINGS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
)


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
    parser.add_argument("--repeats", type=int, default=5, help="rounds")
    return parser


def claim_stdout():
    """Keep standard output for the protocol; what libraries print goes to standard error."""
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    return out


def serve(out, about: dict, measure: Callable[[], tuple[int, float]], repeats: int) -> None:
    """Say what this side is, then measure once for every ``go``; the end of input ends it.

    ``measure`` runs one whole round and returns (pictures counted, seconds they took).
    """
    print(json.dumps({"cores": len(available_cores()), **about}), file=out)
    for number in range(1, repeats + 1):
        if sys.stdin.readline().strip() != "go":
            return
        images, seconds = measure()
        line = {
            "round": number, "images": images, "seconds": round(seconds, 4),
            "images_per_second": round(images / seconds, 2), "peak_mb": peak_megabytes(),
        }  # fmt: skip
        print(json.dumps(line), file=out)


# ---------------------------------------------------------------- the driver's end


class Side:
    """A side as a child process, pinned to ``cores``; ``about`` is what it said of itself."""

    def __init__(self, name: str, command: list[str], cores: list[int], log: Path):
        self.name, self.log = name, log
        environment = {k: v for k, v in os.environ.items() if k not in THREAD_SETTINGS}

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
                env=environment,
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
        before, start = self._busy(), time.perf_counter()
        try:
            self.process.stdin.write("go\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # it has died; _line says how
        figure = self._line()
        after, seconds = self._busy(), time.perf_counter() - start
        if before is not None and after is not None:
            figure["others"] = round(max(0.0, (after - before) / seconds), 2)
        return figure

    def _busy(self) -> float | None:
        """Processor seconds the machine has spent on anything but this side."""
        try:
            with open("/proc/stat") as file:
                user, nice, system, _idle, _wait, *rest = map(int, file.readline().split()[1:9])
            with open(f"/proc/{self.process.pid}/stat") as file:
                mine = file.read().rpartition(")")[2].split()
        except (OSError, ValueError):
            return None
        ticks = user + nice + system + sum(rest) - int(mine[11]) - int(mine[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        """Let it end; one that does not is stopped."""
        self.process.stdin.close()
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
