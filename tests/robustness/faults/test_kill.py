"""``kill -9`` anywhere, and resume: six random moments, and those that these seldom hit.

``make kill`` draws twenty, or any number.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from convlens.cli.main import main
from support.kill import Reference, command, kill_and_resume, left_alone, moments
from support.lively import WORDS, differences, files, kill_group, logged, start, wait_for

MOMENTS, SEED = 6, 0
QUICK = [word for word in WORDS if not word.startswith("finetune.phases")]
QUICK += ["finetune.phases=[{epochs: 1, train: [head], lr: 0.01, augment: false},"
          "{epochs: 1, train: [head, last, base], lr: 0.003}]"]  # fmt: skip


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Reference:
    return left_alone(tmp_path_factory.mktemp("alone"))


@pytest.mark.slow
@pytest.mark.parametrize("number", range(MOMENTS))
def test_killed_at_a_random_moment(alone, tmp_path, number):
    share = moments(MOMENTS, SEED)[number]
    case = kill_and_resume(alone, share, tmp_path, by_make=number % 7 == 3)
    print(f"killed at {case.at:.1f} s ({case.reached})")
    assert not case.found


def signs(home: Path) -> dict[str, object]:
    """Moments that are over in a few milliseconds, by name."""
    checkpoints, looks = home / "checkpoints", home / "explanations"
    return {
        "amid a checkpoint": lambda: any(checkpoints.glob(".*.tmp")),
        "between best and last": lambda: (
            (checkpoints / "best.ckpt").exists() and not (checkpoints / "last.ckpt").exists()
        ),
        "amid the first look": lambda: (looks / "epoch_000").is_dir(),
        "amid a later look": lambda: (looks / "epoch_003").is_dir(),
        "amid the last looks": lambda: (
            logged(home, "epoch 6/")() and any((looks / "epoch_006" / "layers" / "depth").glob("*"))
        ),
        "before the report": lambda: (home / "summary.json").exists(),
    }


@pytest.mark.slow
@pytest.mark.parametrize("moment", signs(Path()))
def test_killed_at_a_chosen_moment(alone, tmp_path, moment):
    home, cache = tmp_path / "run", tmp_path / "cache"
    process = start(["train", f"run_dir={home}", f"data.dir={alone.data}", *WORDS], cache)
    sign, deadline = signs(home)[moment], time.monotonic() + 120
    while not sign():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.001)
    kill_group(process)
    status, said = command(["resume", f"run={home}"], cache, by_make=False)
    assert status == 0, said
    assert not differences(alone.home, home)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pixels", "features"])
def test_killed_while_a_cache_is_built(alone, tmp_path, name):
    home, cache = tmp_path / "run", tmp_path / "cache"
    words = ["train", f"run_dir={home}", f"data.dir={alone.data}", *WORDS]
    process = start(words, cache)
    wait_for(process, lambda: any(cache.glob(f"{name}-*.npy*")))
    kill_group(process)
    began = (home / "config.yaml").exists()
    assert began == (name == "features")
    again = ["resume", f"run={home}"] if began else words
    status, said = command(again, cache, by_make=False)
    assert status == 0, said
    assert not differences(alone.home, home)
    assert not list(cache.glob("*.tmp"))


def test_a_run_that_lacks_its_last_looks_has_them_made_up(tmp_path, monkeypatch):
    """As killed behind the last checkpoint: the pictures of the end, and the alarms, come again."""
    from support.lively import pictures

    monkeypatch.setenv("CONVLENS_CACHE", str(tmp_path / "cache"))
    home, data = tmp_path / "run", pictures(tmp_path / "pictures")
    assert main(["train", f"run_dir={home}", f"data.dir={data}", *QUICK]) == 0
    whole = shutil.copytree(home, tmp_path / "whole")
    shutil.rmtree(home / "explanations" / "epoch_002" / "layers" / "filters")
    (home / "explanations" / "epoch_002" / "learning_curves.jpg").unlink()
    (home / "summary.json").unlink()
    (home / "report.html").unlink()
    assert files(home) != files(whole)
    assert main(["resume", f"run={home}"]) == 0
    assert not differences(whole, home)
