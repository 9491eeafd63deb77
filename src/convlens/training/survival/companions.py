"""Several processes live and die together, and say why.

Without this a run of which one process was killed waits for it for ever, or is killed itself
without a word, and the others go on holding memory and devices.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytorch_lightning as L
import torch

EACH = 0.5  # seconds between two looks
GRACE = 20.0  # seconds in which the first process may end by itself after another one has


class Companions(L.Callback):
    """Watches the processes that this one started, or the one that started this.

    Takes the place of Lightning's observer, which kills the first process without a line.

    Args:
        way_out: what the line says after what happened.
    """

    def __init__(self, way_out: str):
        self.way_out = way_out
        self._watched = False

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if self._watched or trainer.world_size == 1:
            return
        self._watched = True
        self.children = list(getattr(trainer.strategy.launcher, "procs", ()))
        if self.children:
            _retire_observer()
            watch = self._watch_children
        elif os.environ.get("LOCAL_RANK", "0") != "0" and "TORCHELASTIC_RUN_ID" not in os.environ:
            watch = _follow_parent
        else:
            return  # torchrun and srun watch over theirs
        threading.Thread(target=watch, daemon=True, name="companions").start()

    def describe_failure(self) -> str:
        """Which process has died, in a line; nothing while all live or ended well."""
        for number, child in enumerate(getattr(self, "children", ()), 1):
            if child.poll():
                which = f"process {number + 1} of {len(self.children) + 1}"
                return f"{which} {_how(child)}; {self.way_out}"
        return ""

    def end(self) -> None:
        """Kill those that are left."""
        for child in getattr(self, "children", ()):
            if child.poll() is None:
                child.kill()
                child.wait()

    def _watch_children(self) -> None:
        while not (line := self.describe_failure()):
            time.sleep(EACH)
        # what waits for the dead one in a collective mostly notices, and says it itself
        time.sleep(GRACE)
        self.end()
        print(f"convlens: {line}", file=sys.stderr, flush=True)
        os._exit(1)


def is_process_lost(error: BaseException) -> bool:
    """Whether an error says that another process is no longer there."""
    return isinstance(error, torch.distributed.DistError) or "gloo" in str(error)


def _how(child: subprocess.Popen) -> str:
    if child.returncode < 0:
        return f"was ended by {signal.Signals(-child.returncode).name}"
    return f"ended with status {child.returncode}"


def _follow_parent() -> None:
    """End this process when the one that started it is gone."""
    parent = os.getppid()
    while os.getppid() == parent:
        time.sleep(EACH)
    time.sleep(GRACE / 4)  # in a collective it notices by itself
    os._exit(1)


def _retire_observer() -> None:
    for thread in threading.enumerate():
        if thread.name == "child-process-observer":
            thread._child_processes = []  # none left to look after: it ends
