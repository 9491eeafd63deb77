"""Share out long work among processes, part by part, so that a killed command loses little.

Parts are files in a folder beside the result. Each process computes every n-th part; a part that is
there is complete and is not computed again. The first process joins them in order, so that the
result is the same bytes however many processes there were and however often they were killed.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convlens.core import system
from convlens.core.errors import UserError
from convlens.core.files import open_atomic
from convlens.core.processes import SHARE, Share, share_device

_PLAN = "plan.json"
_POLL = 0.1  # seconds between two looks for parts and processes


@dataclass(frozen=True)
class Parts:
    """The parts of one result.

    Attributes:
        folder: where they are.
        count: how many there are.
        share: which of them this process computes.
    """

    folder: Path
    count: int
    share: Share

    def begin(self, plan: Any) -> None:
        """Write what the parts are of, or check that those that are there are of the same.

        Args:
            plan: plain values that decide the content of all parts.

        Raises:
            UserError: the folder contains parts of another plan.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        file, text = self.folder / _PLAN, json.dumps(plan)
        if file.exists():
            if file.read_text(encoding="utf-8") != text:
                raise UserError(
                    f"{self.folder} has parts of other work (other images, network or words): "
                    "remove it, or choose another run_dir"
                )
            return
        with open_atomic(file) as out:
            out.write(text)

    def file(self, number: int) -> Path:
        """Return the file of a part."""
        return self.folder / f"{number:06d}"

    def compute(self, write: Callable[[int, Path], None]) -> None:
        """Compute the parts of this process that are not there yet.

        Args:
            write: writes a part, by its number, into a file.
        """
        for number in range(self.share.number, self.count, self.share.total):
            if not self.file(number).exists():
                unfinished = self.file(number).with_suffix(f".{self.share.number}.tmp")
                write(number, unfinished)
                system.replace(unfinished, self.file(number))

    def wait(self, helpers: Sequence[subprocess.Popen] = ()) -> list[Path]:
        """Wait until all parts are there, and return their files in order.

        Args:
            helpers: processes that compute the others.

        Raises:
            UserError: one of them failed.
        """
        files = [self.file(number) for number in range(self.count)]
        while not all(file.exists() for file in files):
            for number, helper in enumerate(helpers, 1):
                if helper.poll():
                    raise UserError(
                        f"process {number + 1} of {self.share.total} ended with status "
                        f"{helper.returncode}; type the same again: finished parts are kept"
                    )
            time.sleep(_POLL)
        return files

    def remove(self) -> None:
        """Remove the folder, once the result is written."""
        shutil.rmtree(self.folder, ignore_errors=True)


@contextlib.contextmanager
def start_helpers(
    command: str, words: Sequence[str], count: int
) -> Iterator[list[subprocess.Popen]]:
    """Run the same command in further processes, which compute their shares and print errors only.

    Args:
        command: its name.
        words: its words, the same as those of this process.
        count: how many processes there are with this one, each on a device of its own.
    """
    helpers = [
        system.start_group(
            [sys.executable, "-m", "convlens", command, *words],
            environment={SHARE: f"{number}/{count}", **share_device(number, count)},
        )
        for number in range(1, count)
    ]
    try:
        yield helpers
        for helper in helpers:
            helper.wait()
    finally:
        for helper in helpers:
            if helper.poll() is None:
                system.interrupt_group(helper)
                helper.wait()
