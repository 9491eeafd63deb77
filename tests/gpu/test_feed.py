"""On a GPU: batches are the same in every mode, also if the device lags behind the host."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from pytorch_lightning.utilities import move_data_to_device

from convlens.cli.main import main
from convlens.config.compose import compose
from convlens.data.datamodule import PictureData
from convlens.data.feed import Feed
from support.tiny import TINY

CUDA = torch.device("cuda", 0)
AUGMENT = ["data.augment.rotation_degrees=20", "data.augment.brightness=0.3"]
LAG = 20_000_000  # cycles: about ten milliseconds


def build(cache: str, *words: str, ahead: bool = True) -> PictureData:
    """The data of a run on the GPU; not ahead, batches are gathered and moved when due."""
    config = compose([*TINY, *AUGMENT, "data.size=64", f"data.cache={cache}", *words])
    data = PictureData(config.data, seed=3, batch_size=16, eval_batch_size=7)
    data.trainer = SimpleNamespace(
        global_rank=0, world_size=1, accumulate_grad_batches=2, num_training_batches=float("inf")
    )
    data.serve(CUDA)
    if not ahead:
        data.feed = Feed()
    return data


def collect(data: PictureData, loader) -> list[dict]:
    """The finished batches, as the training's stream sees them; that stream lags behind."""
    found = []
    for batch in loader:
        batch = data.finish(move_data_to_device(batch, CUDA))
        torch.cuda._sleep(LAG)
        found.append({k: v + 0 if torch.is_tensor(v) else v for k, v in batch.items()})
        del batch  # its memory may serve a later batch
    torch.cuda.synchronize()
    return found


@pytest.mark.parametrize(("cache", "ahead"), [("disk", True), ("ram", True), ("device", True),
                                              ("device", False)])  # fmt: skip
def test_batches_are_the_same_in_every_mode(cache, ahead):
    words = ["data.pictures=400"]
    host, data = build("disk", *words, ahead=False), build(cache, *words, ahead=ahead)
    pairs = [(host.train_dataloader(), data.train_dataloader())]
    pairs += [(host.val_dataloader(), data.val_dataloader())]
    for expected, loader in pairs:
        one, other = collect(host, expected), collect(data, loader)
        assert len(one) == len(other) > 3
        for first, second in zip(one, other, strict=True):
            assert first.keys() == second.keys()
            for key, value in first.items():
                same = torch.equal(value, second[key]) if torch.is_tensor(value) else True
                assert same, key
                assert not torch.is_tensor(value) or second[key].device == CUDA


def test_small_data_sets_are_kept_on_the_device():
    data = build("auto")
    assert data.residence == "device"
    next(iter(data.train_dataloader()))
    assert data._resident["train"].device == CUDA


def test_a_full_device_is_reported_and_the_images_stay_on_the_host(said):
    data = build("device", "data.pictures=4000")  # 37 MB for training
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(CUDA).total_memory
    torch.cuda.set_per_process_memory_fraction(20e6 / total, CUDA)
    try:
        next(iter(data.evaluation_loader("train")))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, CUDA)
    assert data.residence == "disk"
    (line,) = said
    assert line.startswith("images are read from the disk cache, not from the device: ")


def test_runs_end_with_the_same_weights_in_every_mode(tmp_path):
    words = [
        *TINY,
        *AUGMENT,
        "trainer=gpu",
        "training.epochs=3",
        "callbacks=none",
        "model.dropout=0.2",
    ]
    ends = []
    for cache in ("disk", "ram", "device", "auto"):
        home = tmp_path / cache
        assert main(["train", f"run_dir={home}", *words, f"data.cache={cache}"]) == 0
        last = torch.load(home / "checkpoints" / "last.ckpt", weights_only=True)
        ends.append(last["state_dict"])
    for end in ends[1:]:
        assert not [name for name in ends[0] if not torch.equal(ends[0][name], end[name])]
