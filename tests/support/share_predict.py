"""Predict with one, two and four processes, kill some in the middle, and compare the tables' bytes.

python tests/support/share_predict.py --images 20000
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support.lively import COMMAND, environment
from support.tiny import draw_folder

BATCH = 4


def draw_images(folder: Path, count: int) -> Path:
    """Draw small images, and one file that is none."""
    draw_folder(folder, {"a": count // 2, "b": count - count // 2}, size=16)
    (folder / "a" / "7.png").write_bytes(b"no image")
    return folder


def start(images: Path, home: Path, words: list[str], *, torchrun: int = 0) -> subprocess.Popen:
    """Start ``convlens predict``, by itself or under torchrun, with one thread in each process."""
    command = COMMAND
    if torchrun:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone",
                   f"--nproc-per-node={torchrun}", "-m", "convlens"]  # fmt: skip
    words = [
        "predict",
        "ckpt=example",
        f"images={images}",
        f"run_dir={home}",
        f"batch={BATCH}",
        *words,
    ]
    return subprocess.Popen(
        [*command, *words], env={**environment(home.parent / "cache"), "OMP_NUM_THREADS": "1"},
        start_new_session=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def predict(images: Path, home: Path, words: list[str], *, torchrun: int = 0) -> bytes:
    """Return the bytes of the table."""
    process = start(images, home, words, torchrun=torchrun)
    said, _ = process.communicate(timeout=3600)
    assert process.returncode == 0, said
    assert [file.name for file in home.iterdir()] == ["predictions.csv"], said
    return (home / "predictions.csv").read_bytes()


def kill_in_the_middle(images: Path, home: Path, words: list[str]) -> int:
    """Kill all processes once there are parts; return how many parts are complete."""
    process = start(images, home, words)
    parts = home / "predictions.csv.parts"

    def complete() -> list[Path]:
        return [file for file in parts.glob("*") if file.suffix == "" and file.name.isdecimal()]

    while len(complete()) < 3:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    # helpers are in groups of their own
    found = subprocess.run(["pgrep", "-f", str(home)], capture_output=True, text=True, check=True)
    for number in map(int, found.stdout.split()):
        if number != os.getpid():
            os.kill(number, signal.SIGKILL)
    process.communicate()
    assert not (home / "predictions.csv").exists()
    return len(complete())


def compare(folder: Path, count: int, processes: list[int]) -> list[str]:
    """Return what differs."""
    images, found = draw_images(folder / "images", count), []
    alone = predict(images, folder / "alone", [])
    assert len(alone.splitlines()) == count + 1
    for number in processes:
        home, words = folder / f"several_{number}", [f"processes={number}"]
        if predict(images, home, words) != alone:
            found.append(f"{number} processes")
        killed = folder / f"killed_{number}"
        print(f"{number} processes, killed after {kill_in_the_middle(images, killed, words)} parts")
        if predict(images, killed, words) != alone:
            found.append(f"{number} processes, killed and started again")
    if predict(images, folder / "torchrun", [], torchrun=2) != alone:
        found.append("torchrun")
    return found


def run() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=20_000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = compare(Path(folder), args.images, [2, 4])
    print(*found, f"{args.images} images, {len(found)} differences", sep="\n")
    sys.exit(bool(found))


if __name__ == "__main__":
    run()
