"""Two processes on the CPU: one voice, one folder, the same network in both, at every unfreeze."""

from __future__ import annotations

import json
import subprocess

import pytest
import torch

from convlens.rundir.read import read_run
from support.apart import differences, ends, train
from support.lively import COMMAND
from support.same import assert_same
from support.tiny import RANDOM_ATTENTION, TINY, TINY_VIT, TWO_UNFREEZES

EXACT = [*TWO_UNFREEZES, "precision=64", "callbacks=none", "data.augment.rotation_degrees=20"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "base", [[*TINY, "model.batch_norm=false"], TINY_VIT], ids=["convolutions", "attention"]
)
def test_ddp_of_two_equals_one_process_with_the_same_global_batch(tmp_path, base):
    """Every batch of 4 is shared out as 2 + 2; without batch norm and dropout that is the same."""
    words = ["training.epochs=2", "precision=64", "training.batch_size=4"]
    words += ["data.augment.rotation_degrees=20", "callbacks.filter_visuals=null"]
    one = train(tmp_path / "one", *words, base=base)
    two = train(tmp_path / "two", *words, "trainer=ddp_cpu", base=base)
    assert one.count("epoch 2/2") == two.count("epoch 2/2") == 1
    assert two.count("run folder") == 1
    summary = json.loads((tmp_path / "two" / "run" / "summary.json").read_text())
    assert summary["processes"] == 2
    (alone,), (first, second) = ends(tmp_path / "one"), ends(tmp_path / "two")
    assert not differences(first["state"], second["state"])
    assert alone["state"]["model.head.logits.weight"].dtype == torch.float64
    assert max(differences(alone["state"], first["state"]).values(), default=0) < 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("weights", ["null", "balanced"])
def test_ddp_across_two_unfreezes_equals_one_process(tmp_path, weights):
    """Frozen batch norm, stored features in the first phase, batches that do not divide evenly."""
    words = [*EXACT, "finetune.batch_norm=eval", "training.batch_size=7"]
    words += [f"training.class_weights={weights}"]
    one = train(tmp_path / "one", *words)
    two = train(tmp_path / "two", *words, "trainer=ddp_cpu")
    assert "at block2" in one and "at block2" in two
    (alone,), (first, second) = ends(tmp_path / "one"), ends(tmp_path / "two")
    assert not differences(first["state"], second["state"])
    found = differences(alone["state"], first["state"])
    assert max(found.values()) < 1e-9, found
    # all three groups were trained, so the equality is not one of frozen parameters
    start = torch.load(tmp_path / "one" / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    moved = start["optimizer_states"][0]["state"]
    assert len(moved) == len(list(start["optimizer_states"][0]["param_groups"][0]["params"])) + sum(
        len(group["params"]) for group in start["optimizer_states"][0]["param_groups"][1:]
    )


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [("cpu", "ddp_cpu"), ("ddp_cpu", "cpu")])
def test_ddp_continues_with_another_number_of_processes(tmp_path, before, after):
    """Across an unfreeze, with batches that do not divide evenly; nothing random acts."""
    words = [*EXACT[:-1], "finetune.batch_norm=eval", "training.batch_size=7"]
    words += ["data.augment.horizontal_flip=false", "data.augment.vertical_flip=false"]
    train(tmp_path / "whole", *words)
    train(tmp_path / "stopped", *words, "training.epochs=2", f"trainer={before}")
    home = tmp_path / "stopped" / "run"
    again = ["resume", f"run={home}", "training.epochs=null", f"trainer={after}"]
    done = subprocess.run([*COMMAND, *again], capture_output=True, text=True, check=True)
    assert "no longer bit-identical" in done.stdout
    whole, stopped = (read_run(folder).rows for folder in (tmp_path / "whole" / "run", home))
    assert len(whole) == len(stopped) > 4
    for one, other in zip(whole, stopped, strict=True):
        assert one.keys() == other.keys()
        for name in one:  # metrics are kept in float32
            assert other[name] == pytest.approx(one[name], rel=1e-6), name
    ours, theirs = (
        torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for folder in (tmp_path / "whole" / "run", home)
    )
    assert max(differences(ours, theirs).values(), default=0) < 1e-9


@pytest.mark.slow
def test_ddp_of_accumulated_batches_equals_one_process_with_their_images_in_one(tmp_path):
    """Batches of 7 over two processes, three to a move, against batches of 21."""
    words = [*EXACT[:-1], "finetune.batch_norm=eval"]
    words += ["data.augment.horizontal_flip=false", "data.augment.vertical_flip=false"]
    train(tmp_path / "one", *words, "training.batch_size=21")
    more = ["training.batch_size=7", "training.accumulate=3", "trainer=ddp_cpu"]
    train(tmp_path / "two", *words, *more)
    (alone,), (first, second) = ends(tmp_path / "one"), ends(tmp_path / "two")
    assert not differences(first["state"], second["state"])
    assert max(differences(alone["state"], first["state"]).values(), default=0) < 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("more", [[], ["training.accumulate=2"]], ids=["plain", "accumulated"])
def test_ddp_replicas_are_identical_with_batch_norm_in_training(tmp_path, more):
    train(tmp_path, *TWO_UNFREEZES, "callbacks=none", "precision=32", "trainer=ddp_cpu", *more)
    first, second = ends(tmp_path)
    for name, value in first["state"].items():
        assert torch.equal(value, second["state"][name]), name
    assert "model.backbone.block2.norm.running_mean" in first["state"]
    fresh = torch.zeros_like(first["state"]["model.backbone.block2.norm.running_mean"])
    assert not torch.equal(first["state"]["model.backbone.block2.norm.running_mean"], fresh)


@pytest.mark.slow
def test_ddp_replicas_are_identical_with_dropout_of_attention_and_paths(tmp_path):
    """Each process draws its own, a function of seed, epoch, batch and process."""
    words = ["training.epochs=2", "callbacks=none", "trainer=ddp_cpu", "training.ema=0.9"]
    train(tmp_path, *RANDOM_ATTENTION, *words, base=TINY_VIT)
    first, second = ends(tmp_path)
    assert not differences(first["state"], second["state"])
    assert_same(first["optimizer"], second["optimizer"])


def test_a_batch_without_a_row_for_every_process_is_no_nan():
    """34 pictures in batches of 8: the last batch is two pictures, the third process has none."""
    import numpy as np

    from convlens.data.loader import TrainingLoader
    from convlens.data.order import TrainingOrder
    from convlens.data.pixels.dataset import Images

    pictures = Images(np.zeros((34, 8, 8, 3), np.uint8), np.arange(34) % 2, ["x"] * 34)
    order = TrainingOrder(34, 8, 0)
    parts = [list(TrainingLoader(pictures, order, 0, rank, 3)) for rank in range(3)]
    assert [len(batch["label"]) for batch in parts[2]] == [2, 2, 2, 2, 1]
    assert [batch["counted"] for batch in parts[2]] == [2, 2, 2, 2, 0]
    assert [batch["counted"] for batch in parts[0]] == [3, 3, 3, 3, 1]
    for shares in zip(*parts, strict=True):
        together = [int(label) for one in shares for label in one["label"][: one["counted"]]]
        assert all(together == one["window"].tolist() for one in shares)


RECIPE = [
    "data.augment.policy=rand_augment", "data.augment.erasing=0.3", "data.augment.mixup=0.4",
    "data.augment.cutmix=1", "training.ema=0.9", "training.class_weights=balanced",
    "training.label_smoothing=0.1", "training.sampler=balanced",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("more", [[], ["training.accumulate=2"]], ids=["plain", "accumulated"])
def test_ddp_of_two_mixes_and_averages_what_one_process_does(tmp_path, more):
    """Batches of 7 are divided into 4 and 3; the partner of the fourth image is in the other."""
    words = ["training.epochs=2", "precision=64", "model.batch_norm=false", "callbacks=none"]
    words += ["training.batch_size=7", *RECIPE, *more]
    train(tmp_path / "one", *words)
    train(tmp_path / "two", *words, "trainer=ddp_cpu")
    (alone,), (first, second) = ends(tmp_path / "one"), ends(tmp_path / "two")
    assert not differences(first["state"], second["state"])
    assert max(differences(alone["state"], first["state"]).values(), default=0) < 1e-9
    one, two = (
        torch.load(tmp_path / name / "run" / "checkpoints" / "last.ckpt", weights_only=True)
        for name in ("one", "two")
    )
    weights = [each["convlens_average"]["weights"] for each in (one, two)]
    assert max(differences(*weights).values(), default=0) < 1e-9
    # losses of weighted classes are means over the batches of each process
    for key in ("train/accuracy", "val/accuracy"):
        found = [[row[key] for row in each["convlens_record"].values()] for each in (one, two)]
        assert found[0] == pytest.approx(found[1], abs=1e-6), key


@pytest.mark.slow
def test_ddp_replicas_of_an_average_are_identical_with_batch_norm_in_training(tmp_path):
    words = [*TWO_UNFREEZES, *RECIPE, "callbacks=none", "precision=32"]
    train(tmp_path, *words, "trainer=ddp_cpu")
    first, second = ends(tmp_path)
    for name, value in first["state"].items():
        assert torch.equal(value, second["state"][name]), name
