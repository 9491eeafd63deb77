"""What a run has logged to its trackers, one JSON line per entry, in order."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any


class Journal:
    """A file of entries. A checkpoint keeps its size, so that a resumed run knows what came after.

    Args:
        file: the file; it is created if it does not exist.
        size: bytes to keep of it, as the checkpoint says; a partial line at the end is dropped.

    Attributes:
        entries: what was kept.
        size: bytes of all complete lines.

    Raises:
        OSError: the file cannot be written.
    """

    def __init__(self, file: Path, size: int):
        kept = file.read_bytes()[:size] if size and file.exists() else b""
        kept = kept[: kept.rfind(b"\n") + 1]  # after a power failure lines may be missing
        self.entries: list[dict[str, Any]] = [json.loads(line) for line in kept.splitlines()]
        self.size = len(kept)
        file.parent.mkdir(parents=True, exist_ok=True)
        # unbuffered: what was written before a kill is in the file
        file.touch()
        self._file = file.open("r+b", buffering=0)
        self._file.truncate(self.size)
        self._file.seek(self.size)

    def append(self, entry: dict[str, Any]) -> None:
        """Add an entry: JSON values by name.

        Raises:
            OSError: the disk is full.
        """
        line = json.dumps(entry).encode() + b"\n"
        if self._file.write(line) < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.size += len(line)

    def close(self) -> None:
        """Close the file."""
        self._file.close()
