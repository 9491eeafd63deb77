"""Create the environments of the peers in ``benchmarks/.peers/`` (ignored by git) at first use.

A peer's packages (TensorFlow, hundreds of megabytes) do not belong in the project's environment.
Exactly ``requirements-<peer>.txt`` is installed. To update it:

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
    """Return uv from the environment of the running Python, otherwise from PATH."""
    sibling = Path(sys.executable).with_name("uv")
    found = str(sibling) if sibling.exists() else shutil.which("uv")
    if not found:
        raise SystemExit("uv is missing: run this with the Python of the project's .venv")
    return found


def peer_python(name: str) -> Path:
    """Return the Python of peer ``name``; create or update its environment if necessary.

    A stamp file with the digest of the installed requirements is written last, so an interrupted
    installation is repeated and a finished one is not.
    """
    requirements = HERE / f"requirements-{name}.txt"
    folder = PEERS / name
    python = folder / "bin" / "python"
    stamp = folder / "installed"
    digest = hashlib.sha256(requirements.read_bytes() + b"compiled").hexdigest()
    if python.exists() and stamp.exists() and stamp.read_text() == digest:
        return python

    uv = find_uv()
    print(f"creating the environment of the peer {name} (once) …", file=sys.stderr)
    at = ["--python", str(python)]
    for command in (
        [uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)],
        # compiled, as in the project's environment, so no start of a peer has to compile it
        [uv, "pip", "sync", "--quiet", "--compile-bytecode", *at, str(requirements)],
    ):
        if subprocess.run(command).returncode:
            raise SystemExit(f"the environment of the peer {name} could not be created (see above)")
    stamp.write_text(digest)
    return python


def pinned(name: str) -> dict[str, str]:
    """Return the locked versions of the packages in ``requirements-<name>.in``."""
    lock = (HERE / f"requirements-{name}.txt").read_text().splitlines()
    locked = dict(line.split(";")[0].strip().split("==") for line in lock if "==" in line)
    requested = (HERE / f"requirements-{name}.in").read_text().splitlines()
    names = [line.split("==")[0].strip() for line in requested if line and not line.startswith("#")]
    return {package: locked[package] for package in names}


if __name__ == "__main__":
    print(peer_python(sys.argv[1] if len(sys.argv) > 1 else "keras"))
