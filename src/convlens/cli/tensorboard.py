"""``make tensorboard [dir=outputs] [port=6006] [host=localhost]``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from convlens.cli.words import take
from convlens.core.errors import UserError


def run(words: list[str]) -> int:
    asked = take(words, "tensorboard", {"dir": "outputs", "port": "6006", "host": "localhost"})
    folder = Path(asked["dir"]).expanduser()
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}; `make train` writes runs into outputs/")
    # TensorBoard keeps ten random steps of a picture by default, and loses step 0
    command = [
        sys.executable, "-m", "tensorboard.main", f"--logdir={folder}",
        "--samples_per_plugin=images=1000,text=1000", f"--port={asked['port']}",
        f"--host={asked['host']}",
    ]  # fmt: skip
    os.execv(sys.executable, command)
