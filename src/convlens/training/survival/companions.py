"""If one of several processes dies, end the others and report why.

Otherwise the run would wait forever for a killed process, or be killed without a message, and the
other processes would keep memory and devices.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial

import pytorch_lightning as L
import torch

from convlens.core.system import wait_for_parent

EACH = 0.5  # seconds between two checks
GRACE = 20.0  # seconds that the first process gets to end by itself after another one died


class Companions(L.Callback):
    """Watches the processes that this one started, or the one that started it.

    Replaces Lightning's observer, which kills the first process without a message.

    Args:
        way_out: end of the message: what the user can do.
    """

    def __init__(self, way_out: str):
        self.way_out = way_out
        self._is_watching = False

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if self._is_watching or trainer.world_size == 1:
            return
        self._is_watching = True
        self.children = list(getattr(trainer.strategy.launcher, "procs", ()))
        if self.children:
            _retire_observer()
            watch = self._watch_children
        elif os.environ.get("LOCAL_RANK", "0") != "0" and "TORCHELASTIC_RUN_ID" not in os.environ:
            watch = partial(_follow_parent, os.getppid())
        else:
            return  # torchrun and srun watch their own processes
        threading.Thread(target=watch, daemon=True, name="companions").start()

    def describe_failure(self, wait: float = 0.0) -> str:
        """Return one line about a process that failed; empty if none did.

        Args:
            wait: seconds to wait for it: its connections may end before it does.
        """
        until = time.monotonic() + wait
        while True:
            for number, child in enumerate(getattr(self, "children", ()), 1):
                if child.poll():
                    which = f"process {number + 1} of {len(self.children) + 1}"
                    return f"{which} {_describe_end(child)}; {self.way_out}"
            if time.monotonic() >= until:
                return ""
            time.sleep(EACH / 10)

    def end(self) -> None:
        """Kill the processes that are still running."""
        for child in getattr(self, "children", ()):
            if child.poll() is None:
                child.kill()
                child.wait()

    def _watch_children(self) -> None:
        while not (line := self.describe_failure()):
            time.sleep(EACH)
        # a process that waits for the dead one in a collective usually notices and reports it
        time.sleep(GRACE)
        self.end()
        print(f"convlens: {line}", file=sys.stderr, flush=True)
        os._exit(1)


def is_process_lost(error: BaseException) -> bool:
    """Return whether an error means that another process is gone."""
    return isinstance(error, torch.distributed.DistError) or "gloo" in str(error)


def _describe_end(child: subprocess.Popen) -> str:
    if child.returncode < 0:
        return f"was ended by {signal.Signals(-child.returncode).name}"
    return f"ended with status {child.returncode}"


def _follow_parent(parent: int) -> None:
    """End this process when the one that started it is gone."""
    wait_for_parent(parent)
    time.sleep(GRACE / 4)  # it usually notices by itself, in a collective operation
    os._exit(1)


def _retire_observer() -> None:
    for thread in threading.enumerate():
        if thread.name == "child-process-observer":
            thread._child_processes = []  # nothing left to watch: it ends
