"""The built wheel, and an environment that has nothing but it and the installed libraries."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from support.places import ROOT

UV = [Path(sys.executable).parent / "uv"]


def run(*command, **options) -> str:
    """Run a command that must succeed, and return what it printed."""
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False, **options
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def list_tracked() -> list[str]:
    """Return the files of this checkout that git tracks, or would."""
    names = run("git", "-C", ROOT, "ls-files", "--cached", "--others", "--exclude-standard")
    return [name for name in names.splitlines() if (ROOT / name).is_file()]


def copy_files(names: list[str], folder: Path) -> Path:
    """Copy files of this checkout: building leaves ``build/`` and ``egg-info`` behind."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes((ROOT / name).read_bytes())
    return folder


def build_wheel(source: Path, folder: Path) -> Path:
    """Build the wheel of a copy of this checkout."""
    run(*UV, "build", "--wheel", "--no-build-isolation", "--python", sys.executable,
        "--out-dir", folder, source)  # fmt: skip
    (wheel,) = folder.glob("*.whl")
    return wheel


def create_environment(folder: Path) -> Path:
    """Create an empty environment, and return its folder of programs."""
    run(*UV, "venv", "--python", sys.executable, folder)
    return folder / ("Scripts" if os.name == "nt" else "bin")


def find_packages(programs: Path) -> Path:
    """Return the folder into which an environment's packages are installed."""
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    return Path(run(programs / "python", "-c", code).strip())


def make_environment(folder: Path, wheel: Path) -> Path:
    """Make an environment of the wheel, and return its folder of programs.

    It sees this environment's libraries through a ``.pth`` file, because installing torch takes
    gigabytes. This checkout's own package, which is installed there in editable form, is not seen.
    """
    programs = create_environment(folder)
    run(*UV, "pip", "install", "--no-deps", "--python", programs / "python", wheel)
    libraries = [path for path in sys.path if path.endswith("site-packages")]
    file = find_packages(programs) / "libraries.pth"
    file.write_text("\n".join(libraries) + "\n", encoding="utf-8")
    return programs


def make_whole_environment(folder: Path, wheel: Path) -> Path | None:
    """Make an environment of the wheel and all that it asks for; return its folder of programs.

    The packages are links into uv's cache, which ``make setup`` fills: nothing is downloaded, and
    no gigabytes are copied. None if the cache lacks a package.
    """
    programs = create_environment(folder)
    backend = ("--torch-backend", "cpu") if version("torch").endswith("+cpu") else ()
    command = [*UV, "pip", "install", "--offline", "--link-mode", "symlink", *backend,
               "--python", programs / "python", "--constraints", ROOT / "requirements.lock",
               wheel]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode and "disabled" in done.stderr:  # the network, by --offline
        return None
    assert done.returncode == 0, done.stderr
    return programs


def bare_environment(home: Path) -> dict[str, str]:
    """Return the variables of a person who has set none, with an empty home folder."""
    kept = ("PATH", "LANG", "LC_ALL", "OMP_NUM_THREADS", "SYSTEMROOT", "TEMP", "TMP", "TMPDIR")
    found = {name: os.environ[name] for name in kept if name in os.environ}
    return {**found, "HOME": str(home), "USERPROFILE": str(home)}
