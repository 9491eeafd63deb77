"""Stored features: what they equal, when they are trusted, and when they would be wrong."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from convlens.cli.main import main
from convlens.data.pixels.dataset import Images
from convlens.training.finetune.features import compute_features
from support.tiny import TINY

SCHEDULE = [
    "model.batch_norm=true",
    "finetune.groups={head: head, last: backbone.block2, base: backbone}",
    "finetune.phases=[{epochs: 2, train: [head], lr: {head: 0.01}, augment: false},"
    "{epochs: 1, train: [head, last], lr: 0.001, augment: false},"
    "{epochs: 1, train: [head, last], lr: 0.001, augment: true}]",
    "training.epochs=null",
    "callbacks=none",
    "data.augment={horizontal_flip: false, vertical_flip: false}",
]


@pytest.fixture
def own_cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("CONVLENS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def lines(capsys) -> list[str]:
    """What was said of features, the first line of each split and cut."""
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("features of")]
    return list({line.partition(":")[0]: line for line in reversed(said)}.values())


def state(home: Path) -> dict[str, torch.Tensor]:
    return torch.load(home / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def folder_words(folder: Path) -> list[str]:
    words = [w for w in TINY if not w.startswith("data.pictures")]
    return ["data=image_folder", f"data.dir={folder}", *words, *SCHEDULE]


def test_the_second_run_hits_and_ends_with_the_same_bits(at, own_cache, folder_of_two, capsys):
    words = ["train", *folder_words(folder_of_two)]
    assert main([*words, "run_dir=one"]) == 0
    first = lines(capsys)
    # two cuts, each of training and validation, and the test pictures at the best epoch's
    assert all("cache miss" in line and "MB" in line for line in first) and len(first) >= 4
    assert any("at block1" in line for line in first)
    assert any("at block2" in line for line in first)
    assert main([*words, "run_dir=two"]) == 0
    second = lines(capsys)
    assert all("cache hit" in line for line in second) and second
    one, two = state(at / "one"), state(at / "two")
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_stored_features_give_what_training_end_to_end_gives(at, own_cache, folder_of_two):
    """In float64, where the order of sums does not show."""
    words = [w.replace("augment: true", "augment: false") for w in folder_words(folder_of_two)]
    words = ["train", *words, "precision=64"]
    assert main([*words, "run_dir=stored", "cache_features=always"]) == 0
    assert main([*words, "run_dir=whole", "cache_features=never"]) == 0
    stored, whole = state(at / "stored"), state(at / "whole")
    for name, value in stored.items():
        if value.is_floating_point():
            torch.testing.assert_close(value, whole[name], rtol=0, atol=1e-7)


@pytest.mark.parametrize("change", ["photograph", "touched", "weights", "size", "precision"])
def test_any_change_rebuilds(at, own_cache, folder_of_two, capsys, change):
    words = ["train", *folder_words(folder_of_two)]
    assert main([*words, "run_dir=one"]) == 0
    capsys.readouterr()
    picture = folder_of_two / "train" / "cats" / "3.png"
    if change == "photograph":
        Image.fromarray(np.zeros((24, 24, 3), np.uint8)).save(picture)
    elif change == "touched":
        os.utime(picture, ns=(1, 1))
    elif change == "weights":
        words.append("seed=1")
    elif change == "size":
        words.append("data.size=20")
    else:
        words.append("precision=64")
    assert main([*words, "run_dir=two"]) == 0
    found = [line for line in lines(capsys) if " train " in line]
    assert found and all("cache miss" in line for line in found)


def test_a_changed_photograph_rebuilds_only_its_split(at, own_cache, folder_of_two, capsys):
    words = ["train", *folder_words(folder_of_two)]
    assert main([*words, "run_dir=one"]) == 0
    os.utime(folder_of_two / "train" / "cats" / "3.png", ns=(1, 1))
    capsys.readouterr()
    assert main([*words, "run_dir=two"]) == 0
    for line in lines(capsys):
        assert ("cache miss" if " train " in line else "cache hit") in line


class Slow:
    """A network whose features take their time, so that it can be killed while computing them."""

    script = """
import sys, time
from convlens.models import Classifier
plain = Classifier.features
def features(self, pictures, cut):
    print("computing", flush=True)
    time.sleep(0.5)
    return plain(self, pictures, cut)
Classifier.features = features
from convlens.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_kill_9_while_building_leaves_nothing_to_trust(at, own_cache, capsys):
    words = ["train", *TINY, *SCHEDULE, "data.pictures=300", "run_dir=killed"]
    process = subprocess.Popen(
        [sys.executable, "-c", Slow.script, *words], stdout=subprocess.PIPE, text=True
    )
    seen = 0
    for line in process.stdout:
        seen += line.strip() == "computing"
        if seen == 4:
            process.send_signal(signal.SIGKILL)
            break
    process.wait()
    assert process.returncode == -signal.SIGKILL
    assert list(own_cache.glob("features-*.npy.tmp"))
    assert not list(own_cache.glob("features-*.json"))
    assert main([*words[:-1], "run_dir=after"]) == 0
    assert all("cache miss" in line for line in lines(capsys))
    assert not list(own_cache.glob("*.tmp"))
    assert main([*words[:-1], "run_dir=again", "cache_features=never"]) == 0


@pytest.mark.slow
def test_two_runs_at_once_build_it_once(at, own_cache):
    words = ["train", *TINY, *SCHEDULE, "data.pictures=300"]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", Slow.script, *words, f"run_dir=run{number}"],
            stdout=subprocess.PIPE, text=True,
        )
        for number in (1, 2)
    ]  # fmt: skip
    said = [process.communicate(timeout=200)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    for split in ("train", "validation"):
        start = f" {split} images at block1"
        first = [next(line for line in text.splitlines() if start in line) for text in said]
        assert sorted("hit" in line for line in first) == [False, True], said
    one, two = state(at / "run1"), state(at / "run2")
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize(
    ("word", "said"),
    [
        (
            "data.augment.rotation_degrees=10",
            "phase 3 cannot use stored features: the im",
        ),
        (
            "finetune.batch_norm=train",
            "phase 1 cannot use stored features: finet",
        ),
        (
            "finetune.phases=[{epochs: 1, train: [head, base], lr: 0.1}]",
            "no stage at the network's",
        ),
    ],
)
def test_always_where_it_would_be_wrong_says_why(at, own_cache, capsys, word, said):
    words = ["train", *TINY, *SCHEDULE, "cache_features=always", word]
    assert main(words) == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert said in told[-1]
    assert not (at / "outputs").exists()


def test_unknown_way_of_caching(at, capsys):
    assert main(["train", *TINY, "cache_features=often"]) == 2
    assert "cache_features=often" in capsys.readouterr().err


def test_auto_trains_without_where_there_is_no_room(at, own_cache, capsys, monkeypatch):
    from convlens.training.finetune import phases

    monkeypatch.setattr(phases, "ROOM", 1e-12)
    assert main(["train", *TINY, *SCHEDULE, "run_dir=one"]) == 0
    printed = capsys.readouterr().out
    assert "features are not stored" in printed and "free" in printed
    assert not list(own_cache.glob("features-*"))


def test_a_full_disk_is_one_line_and_leaves_nothing(at, own_cache, capsys, monkeypatch):
    """ENOSPC from the write itself; a really full disk is in the slow tests."""
    plain = os.pwrite

    def full(fd, data, place):
        if "features-" in os.readlink(f"/proc/self/fd/{fd}"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return plain(fd, data, place)

    monkeypatch.setattr(os, "pwrite", full)
    assert main(["train", *TINY, *SCHEDULE, "run_dir=one"]) == 2
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert "no space for the cache" in told and "cache_features=never" in told
    assert not list(own_cache.glob("features-*"))


@pytest.mark.slow
def test_a_really_full_disk(at, capsys, monkeypatch):
    """A file system of two megabytes, where this machine lets one be mounted."""
    small = at / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(small)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no right to mount a file system here")
    try:
        monkeypatch.setenv("CONVLENS_CACHE", str(small))
        words = ["train", *TINY, *SCHEDULE, "run_dir=one", "cache_features=always"]
        words += ["data.cache=ram", "data.pictures=400", "model.filters=[64,64]", "data.size=32"]
        words += ["finetune.phases=[{epochs: 1, train: [head, last], lr: 0.001, augment: false}]"]
        assert main(words) == 2
        told = capsys.readouterr().err.strip().splitlines()[-1]
        assert "no space for the cache" in told and "cache_features=never" in told
        assert not list(small.glob("features-*"))
    finally:
        subprocess.run(["umount", str(small)], check=False)


@pytest.mark.slow
def test_memory_stays_flat_as_the_data_grows(own_cache):
    """Features of ten times the pictures, far more than what may stay resident."""
    script = """
import contextlib, resource, sys
from pathlib import Path
import numpy as np, torch
from convlens.data.pixels.dataset import Images
from convlens.models import build_model
from convlens.config.compose import compose
from convlens.training.finetune.features import compute_features
spec = compose(["model.filters=[64]", "model.padding=same", "model.pooling=none"]).model
model = build_model(spec, channels=3, size=16, outputs=2)
def grown(count):
    images = np.zeros((1, 16, 16, 3), np.uint8)
    pictures = Images(images, np.zeros(count, int), [""] * count,
                        places=np.zeros(count, int), made_from=("a", str(count)))
    found = compute_features(model, 1, pictures, precision="32", context=contextlib.nullcontext,
                     device=torch.device("cpu"), directory=Path(sys.argv[1]), title="")
    assert found.array.shape == (count, 64, 16, 16)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
grown(200)
before = grown(300)
print(grown(3000) - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, own_cache], capture_output=True, text=True, check=True
    )
    assert float(done.stdout) < 40  # MB; the file has 197


def test_bfloat16_features_keep_their_bits(own_cache):
    from contextlib import nullcontext

    from convlens.config.compose import compose
    from convlens.models import build_model

    spec = compose(["model.filters=[4]", "model.padding=same"]).model
    model = build_model(spec, channels=3, size=8, outputs=2)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (5, 8, 8, 3), dtype=np.uint8)
    pictures = Images(images, np.zeros(5, int), [""] * 5)

    def made(context):
        return compute_features(
            model, 1, pictures, precision="bf16", context=context, device=torch.device("cpu"),
            directory=own_cache, title="",
        )  # fmt: skip

    found = made(lambda: torch.autocast("cpu", torch.bfloat16))
    assert found.dtype == torch.bfloat16
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        model.eval()
        wanted = model.features(torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255, 1)
    assert torch.equal(found.rows(np.array([3, 1])), wanted[[3, 1]])
    assert made(nullcontext).from_cache
