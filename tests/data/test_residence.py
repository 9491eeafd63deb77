"""Images on the host, prepared ahead, or on the device: the batches are equal to the bit."""

from __future__ import annotations

import threading
from collections.abc import Callable
from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from convlens.config.compose import compose
from convlens.data import datamodule, residence
from convlens.data.augment import DRAWS, Augmentation
from convlens.data.datamodule import PictureData
from convlens.data.feed import Batch, Feed, Stream
from convlens.data.index.generators import make_generator
from convlens.data.loader import Input, TrainingLoader
from convlens.data.pixels.dataset import copy_rows
from convlens.data.residence import choose_residence
from convlens.training.finetune.features import Features
from support.tiny import TINY

MODES = ("host", "ahead", "device", "device, ahead")
PLAIN = ["data.augment.rotation_degrees=0", "data.augment.horizontal_flip=false"]
PLAIN += ["data.augment.vertical_flip=false"]
CPU = torch.device("cpu")


def build(
    mode: str, *words: str, rank: int = 0, world: int = 1, accumulate: int = 1
) -> PictureData:
    """The data of one process in one of the modes; the main memory stands for a device's."""
    cache = "device" if mode.startswith("device") else "disk"
    config = compose([*TINY, f"data.cache={cache}", "data.augment.brightness=0.3", *words])
    data = PictureData(config.data, seed=3, batch_size=7, eval_batch_size=5)
    if mode.endswith("ahead"):
        data.feed = Feed(Stream(), data.finish)
    data.trainer = SimpleNamespace(
        global_rank=rank, world_size=world, accumulate_grad_batches=accumulate,
        num_training_batches=float("inf"),
    )  # fmt: skip
    return data


def finished(data: PictureData, loader) -> list[Batch]:
    return [data.finish(batch) for batch in loader]


def assert_equal(found: list[Batch], expected: list[Batch]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        for key, value in other.items():
            if isinstance(value, torch.Tensor):
                assert torch.equal(one[key], value) and one[key].dtype == value.dtype, key
                assert key != "image" or one[key].stride() == value.stride()
            else:
                assert one[key] == value


def by_hand(data: PictureData, epoch: int, rank: int, world: int, accumulate: int) -> list[Batch]:
    """What the batches of an epoch are, image by image."""
    images, order = data.dataset.splits["train"], list(data.order(world).batches(epoch))
    augmentation = Augmentation(data.spec.augment)
    batches = []
    for number, rows in enumerate(order):
        mine = np.array_split(np.arange(len(rows)), world)[rank]
        counted, mine = len(mine), mine if len(mine) else np.array([0])
        pixels = np.stack([images.pixels(rows[i : i + 1])[0] for i in mine])
        image = torch.from_numpy(pixels.transpose(0, 3, 1, 2)).float() / 255
        if augmentation.active:
            draws = make_generator(3, 1, epoch, number).random((len(rows), DRAWS))[mine]
            image = augmentation(image, torch.tensor(draws, dtype=torch.float32))
        labels, own = torch.tensor(images.labels), torch.tensor(rows[mine])
        batch = {"image": image, "label": labels[own], "row": own}
        if world > 1 or accumulate > 1:
            first = number - number % accumulate
            window = np.concatenate(order[first : first + accumulate])
            batch |= {"window": labels[torch.tensor(window)], "counted": counted}
        batches.append(batch)
    return batches


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("rank", "world", "accumulate", "words"),
    [
        (0, 1, 1, []), (0, 1, 1, PLAIN), (0, 1, 3, []), (0, 2, 1, []), (1, 2, 2, PLAIN),
        (2, 3, 1, []),
    ],
)  # fmt: skip
def test_training_batches(mode, rank, world, accumulate, words):
    data = build(mode, *words, rank=rank, world=world, accumulate=accumulate)
    loader = data.train_dataloader()
    for epoch in (0, 2):
        loader.set_epoch(epoch)
        found = finished(data, loader)
        for one, other in zip(found, by_hand(data, epoch, rank, world, accumulate), strict=True):
            assert one.keys() == other.keys() and one.get("counted") == other.get("counted")
            for key in one.keys() - {"counted"}:
                assert torch.equal(one[key], other[key]), key
    host = build("host", *words, rank=rank, world=world, accumulate=accumulate)
    expected = host.train_dataloader()
    expected.set_epoch(2)
    assert_equal(found, finished(host, expected))  # the layout in memory, too


@pytest.mark.parametrize("mode", MODES[1:])
@pytest.mark.parametrize(("rank", "world"), [(0, 1), (1, 2)])
def test_evaluation_batches(mode, rank, world):
    host = build("host", rank=rank, world=world)
    data = build(mode, rank=rank, world=world)
    for split, count in (("validation", None), ("test", None), ("train", 9)):
        found = finished(data, data.evaluation_loader(split, count))
        assert_equal(found, finished(host, host.evaluation_loader(split, count)))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("done", [1, 3, 6])
def test_an_epoch_continues_behind_the_last_batch_that_was_handed_on(mode, done):
    """Not behind the last one that was prepared."""
    data = build(mode, accumulate=2)
    loader = data.train_dataloader()
    loader.set_epoch(1)
    expected = finished(data, loader)
    prepared = threading.Semaphore(0)

    class Counting(Stream):
        def launch(self, work):
            prepared.release()
            return super().launch(work)

    if mode.endswith("ahead"):
        data.feed = Feed(Counting(), data.finish)
    stopped = data.train_dataloader()
    stopped.set_epoch(1)
    batches = iter(stopped)
    list(islice(batches, done))
    for _ in range(min(done + 3, len(expected)) if mode.endswith("ahead") else 0):
        assert prepared.acquire(timeout=60)
    state = stopped.state_dict()
    assert state == {"epoch": 1, "batch": done}
    batches.close()
    again = build(mode, accumulate=2).train_dataloader()
    again.load_state_dict(state)
    again.set_epoch(1)
    assert_equal(finished(data, again), expected[done:])
    assert again.state_dict()["batch"] == len(expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("mode", MODES[1:])
def test_stored_features(mode, dtype):
    """They replace images that lie on the device."""
    data = build(mode)
    values = torch.randn(44, 3, 2, generator=torch.Generator().manual_seed(0)).to(dtype)
    numbers = values.view(torch.uint16) if dtype == torch.bfloat16 else values
    data.stored = {"train": Features(numbers.numpy(), dtype, 5, True, 0.0)}
    for batch in finished(data, data.train_dataloader()):
        assert batch.keys() == {"features", "cut", "label", "row"} and batch["cut"] == 5
        assert torch.equal(batch["features"], values[batch["row"]])
        assert batch["features"].dtype == dtype
    assert not data._resident


@pytest.mark.parametrize("mode", MODES)
def test_an_epoch_that_is_cut_short(mode):
    data = build(mode)
    data.trainer.num_training_batches = 2
    whole = finished(build("host"), build("host").train_dataloader())
    assert_equal(finished(data, data.train_dataloader()), whole[:2])


def free(count: float) -> Callable:
    return lambda device: count


@pytest.mark.parametrize(
    ("cache", "device", "memory", "chosen"),
    [
        ("auto", "cuda", 400, "device"),
        ("auto", "cuda", 399, "disk"),
        ("auto", "cpu", 1e12, "disk"),
        ("auto", "mps", 1e12, "disk"),
        ("device", "cuda", 0, "device"),
        ("disk", "cuda", 1e12, "disk"),
        ("ram", "cuda", 1e12, "ram"),
    ],
)
def test_auto_takes_a_quarter_of_the_free_memory_of_a_gpu(
    monkeypatch, cache, device, memory, chosen
):
    monkeypatch.setattr(residence, "read_free_memory", free(memory))
    assert choose_residence(cache, 100, torch.device(device)) == chosen


def test_images_that_do_not_fit_on_the_device_are_read_from_the_disk(monkeypatch, said):
    """One line says so; the batches stay the same."""
    host, data = build("host"), build("device")
    assert data.residence == "device"
    monkeypatch.setattr(residence, "read_free_memory", free(30_000))  # the training images need 34
    assert_equal(finished(data, data.val_dataloader()), finished(host, host.val_dataloader()))
    assert data.residence == "device" and not said
    assert_equal(finished(data, data.train_dataloader()), finished(host, host.train_dataloader()))
    assert data.residence == "disk" and not data._resident
    (line,) = said
    assert line.startswith("images are read from the disk cache, not from the device: 0.00 GB")


def test_an_error_of_the_device_itself_is_one_line(monkeypatch, said):
    def fail(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB\nand more")

    monkeypatch.setattr(datamodule, "copy_images", fail)
    data = build("device")
    next(iter(data.train_dataloader()))
    assert said[0].endswith("CUDA out of memory. Tried to allocate 9 GiB")


def test_images_are_copied_once(monkeypatch):
    copied = []
    real = datamodule.copy_images
    monkeypatch.setattr(
        datamodule, "copy_images", lambda i, *more: copied.append(i) or real(i, *more)
    )
    data = build("device")
    for _ in range(2):
        list(data.train_dataloader())
        list(data.val_dataloader())
    assert copied == [data.dataset.splits["train"], data.dataset.splits["validation"]]
    data.serve(CPU)
    assert data._resident  # the same device


@pytest.mark.parametrize("step", [1, 7 * 768, 10**9])
def test_images_are_copied_in_chunks(monkeypatch, step):
    monkeypatch.setattr(residence, "_CHUNK", step)
    images = build("host").dataset.splits["train"]
    copied = residence.copy_images(images, CPU, "copying")
    assert np.array_equal(copied.numpy(), images.pixels(np.arange(len(images))))


def test_rows_that_do_not_exist_are_refused():
    array, out = np.arange(12).reshape(4, 3), np.empty((1, 3), int)
    assert np.array_equal(copy_rows(array, np.array([3]), out), array[[3]])
    for row in (-1, 4):
        with pytest.raises(IndexError):
            copy_rows(array, np.array([row]), out)


def test_images_on_a_device_are_selected_there():
    """Also where Lightning moves the batches: rows are moved first."""
    images = build("host").dataset.splits["train"]
    there = torch.empty(len(images), 16, 16, 3, dtype=torch.uint8, device="meta")
    batch = Input(images, resident=there).select({"row": torch.tensor([3, 1])})
    assert batch["image"].device == there.device and batch["image"].shape == (2, 3, 16, 16)


def test_a_process_without_a_share_gets_one_image_that_does_not_count():
    data = build("device, ahead", rank=2, world=3)
    last = finished(data, data.train_dataloader())[-1]  # 44 images in batches of 7: two remain
    assert last["counted"] == 0 and len(last["label"]) == 1
    assert isinstance(data.train_dataloader(), TrainingLoader)
