"""Batches of one image: folded into their neighbour, or refused in a line where they cannot be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from convlens.cli.main import main
from convlens.config.compose import compose
from convlens.core.errors import UserError
from convlens.data.order import TrainingOrder
from convlens.experiment.assemble import assemble
from convlens.experiment.data import build_data
from convlens.training.batches import check_batches
from support.tiny import TINY, TWO_UNFREEZES, draw_folder

# one pixel is left before the last batch normalisation: torch refuses one image there
SEVENTEEN = ["data=image_folder", "data.size=8", "model.filters=[4,4]", "model.padding=valid"]
SEVENTEEN += ["model.kernel_size=3", "model.pooling=[max,none]"]
SEVENTEEN += ["model.batch_norm=true", "precision=32", "trainer=cpu", "callbacks=none"]
SEVENTEEN += ["training.batch_size=16", "probes.count=2", "logger.tensorboard=false"]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    counts = {"train/cat": 9, "train/dog": 8}
    counts |= {f"{split}/{name}": 2 for split in ("validation", "test") for name in ("cat", "dog")}
    return draw_folder(tmp_path_factory.mktemp("pictures"), counts, size=8)


def weights(home: Path) -> dict:
    return torch.load(home / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def test_the_seventeenth_image_joins_the_sixteen_and_so_after_a_resume(tmp_path, data):
    words = [f"data.dir={data}", *SEVENTEEN, "scheduler=constant"]
    assert main(["train", f"run_dir={tmp_path / 'alone'}", *words, "training.epochs=3"]) == 0
    assert main(["train", f"run_dir={tmp_path / 'run'}", *words, "training.epochs=2"]) == 0
    assert main(["resume", f"run={tmp_path / 'run'}", "training.epochs=3"]) == 0
    alone, resumed = weights(tmp_path / "alone"), weights(tmp_path / "run")
    assert all(torch.equal(alone[name], resumed[name]) for name in alone)


@pytest.mark.parametrize("batch", [1, 2, 3, 7, 16])
@pytest.mark.parametrize("least", [2, 4])
def test_a_pass_is_whole_and_only_the_last_batch_differs(batch, least):
    for count in range(1, 40):
        order = TrainingOrder(count, batch, seed=1, least=least)
        sizes = [len(rows) for rows in order.batches(0)]
        assert sorted(np.concatenate(list(order.batches(0)))) == list(range(count))
        assert len(sizes) == len(order) and min(sizes) == order.smallest
        assert all(size == batch for size in sizes[:-1])
        assert sizes[-1] < batch + min(least, batch)
        assert len(sizes) == 1 or sizes[-1] >= min(least, batch)


def test_fixed_steps_have_full_batches_only():
    order = TrainingOrder(17, 16, seed=0, steps=5)
    assert [len(rows) for rows in order.batches(1)] == [16] * 5 and order.smallest == 16


def test_shares_are_counted_by_process_where_the_batch_is_normalised(data):
    """17 in batches of 14: the last 3 would be 2 + 1 for two processes; else as for one."""
    found = build_data(compose([f"data.dir={data}", *SEVENTEEN, "training.batch_size=14"]))
    for normalised, sizes in ((True, [17]), (False, [14, 3])):
        found.batch_statistics = normalised
        assert [len(rows) for rows in found.order(2).batches(0)] == sizes
        assert [len(rows) for rows in found.order(1).batches(0)] == [14, 3]


@pytest.mark.parametrize(
    ("words", "processes"),
    [
        (["training.batch_size=1"], 1),
        (["training.batch_size=1", "training.batch_size_is=per_device"], 2),
        (["training.batch_size=2"], 2),  # each process's share is one image
        (["training.batch_size=9"], 16),  # some have none, and take one that does not count
    ],
)
def test_one_image_alone_is_refused_in_a_line_where_torch_refuses_it(data, words, processes):
    config = compose([f"data.dir={data}", *SEVENTEEN, *words])
    with pytest.raises(UserError, match=r"norm .*one image .*17 images.*batch_size"):
        check_batches((run := assemble(config)).module, run.data, processes)


def test_one_training_image_in_all_is_refused_by_every_command_that_trains(tmp_path, capsys):
    counts = {"train/cat": 1, "train/dog": 1, "validation/cat": 1, "validation/dog": 1}
    counts |= {"test/cat": 1, "test/dog": 1}
    data = draw_folder(tmp_path / "pictures", counts, size=8)
    words = [f"data.dir={data}", *SEVENTEEN, "training.batch_size=1", "precision=auto"]
    for command in ("train", "plan", "lr-find"):
        given = [f"run_dir={tmp_path / 'run'}"] if command == "train" else []
        assert main([command, *given, *words]) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert "(2 images, batches of 1, one process)" in line
    assert not (tmp_path / "run").exists()


def test_what_torch_accepts_is_not_refused():
    """Maps of several pixels have statistics of one image; frozen layers need none."""
    assemble(compose([*TINY, "model.batch_norm=true", "training.batch_size=1"]))
    frozen = [*TWO_UNFREEZES, "finetune.batch_norm=eval", "training.batch_size=1"]
    assemble(compose([*TINY, *frozen]))
