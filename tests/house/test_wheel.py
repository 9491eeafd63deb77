"""The built wheel, installed elsewhere, trains from an empty folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(*command, **options) -> str:
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False, **options
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_wheel_trains_from_an_empty_folder(tmp_path):
    # a copy, because building leaves build/ and egg-info behind
    source = tmp_path / "source"
    source.mkdir()
    tracked = run("git", "-C", ROOT, "ls-files", "--cached", "--others", "--exclude-standard")
    for name in tracked.splitlines():
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    uv = [sys.executable, "-m", "uv"]
    run(*uv, "build", "--wheel", "--no-build-isolation", "--python", sys.executable,
        "--out-dir", tmp_path / "dist", source)  # fmt: skip
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    elsewhere, empty = tmp_path / "elsewhere", tmp_path / "empty"
    empty.mkdir()
    run(*uv, "pip", "install", "--no-deps", "--target", elsewhere, wheel)
    environment = {**os.environ, "PYTHONPATH": str(elsewhere)}
    where = run(
        sys.executable, "-c", "import convlens, convlens.callbacks, convlens.configs as c;"
        "print(convlens.__file__, convlens.callbacks.__file__, c.__file__)",
        cwd=empty, env=environment,
    )  # fmt: skip
    assert all(path.startswith(str(elsewhere)) for path in where.split())
    printed = run(
        sys.executable, "-m", "convlens", "train", "training.epochs=1", "trainer=cpu",
        "precision=32", "data.pictures=60", "looking.first_seconds=1", "looking.last_seconds=1",
        cwd=empty, env=environment,
    )  # fmt: skip
    assert "test, epoch 1" in printed
    # templates and the example network are in it too
    printed = run(
        sys.executable, "-m", "convlens", "explain", "only=grad_cam", "run_dir=explained",
        cwd=empty, env=environment,
    )  # fmt: skip
    assert "star.png: star" in printed and (empty / "explained" / "index.html").exists()
