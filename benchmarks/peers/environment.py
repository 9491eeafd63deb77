"""Environments of the peers: made when first needed, in ``benchmarks/.peers/`` (git-ignored).

A peer's packages (TensorFlow, hundreds of megabytes) have no business in the project's own
environment. What is installed is exactly ``requirements-<peer>.txt``; to renew it:

    uv pip compile --universal --python-version 3.11 \
        benchmarks/peers/requirements-keras.in -o benchmarks/peers/requirements-keras.txt --upgrade
"""

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
PEERS = HERE.parent / ".peers"


def find_uv() -> str:
    """uv from the environment of the running Python, otherwise from PATH."""
    beside = Path(sys.executable).with_name("uv")
    found = str(beside) if beside.exists() else shutil.which("uv")
    if not found:
        raise SystemExit("uv is missing: run this with the Python of the project's .venv")
    return found


def peer_python(name: str) -> Path:
    """The Python of peer ``name``, after making or renewing its environment where that is needed.

    A stamp holds the digest of the requirements that were installed and is written last: an
    interrupted installation is taken up again, a finished one costs nothing.
    """
    requirements = HERE / f"requirements-{name}.txt"
    folder = PEERS / name
    python = folder / "bin" / "python"
    stamp = folder / "installed"
    digest = hashlib.sha256(requirements.read_bytes() + b"compiled").hexdigest()
    if python.exists() and stamp.exists() and stamp.read_text() == digest:
        return python

    uv = find_uv()
    print(f"setting up the environment of the peer {name} (once) ...", file=sys.stderr)
    at = ["--python", str(python)]
    for command in (
        [uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)],
        # compiled as the project's own environment is: no start of a peer compiles it anew
        [uv, "pip", "sync", "--quiet", "--compile-bytecode", *at, str(requirements)],
    ):
        if subprocess.run(command).returncode:
            raise SystemExit(f"the environment of the peer {name} could not be made (see above)")
    stamp.write_text(digest)
    return python


def pinned(name: str) -> dict[str, str]:
    """Versions of the packages that peer ``name`` is asked to have, as they are locked."""
    lock = (HERE / f"requirements-{name}.txt").read_text().splitlines()
    locked = dict(line.split(";")[0].strip().split("==") for line in lock if "==" in line)
    asked = (HERE / f"requirements-{name}.in").read_text().splitlines()
    names = [line.split("==")[0].strip() for line in asked if line and not line.startswith("#")]
    return {package: locked[package] for package in names}


if __name__ == "__main__":
    print(peer_python(sys.argv[1] if len(sys.argv) > 1 else "keras"))
