"""MixUp and CutMix against torchvision's, on the whole global batch, whoever reads which part."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from convlens.config.compose import compose
from convlens.data.augment import DRAWS
from convlens.data.datamodule import PictureData
from convlens.data.feed import Batch, Feed, Stream
from convlens.data.index.generators import make_generator
from convlens.data.mixing import Mix, apply_mix, draw_mix
from support.tiny import TINY

SEED = 3
MIXES = {
    "mixup": ["data.augment.mixup=0.4"],
    "cutmix": ["data.augment.cutmix=1"],
    "both": ["data.augment.mixup=0.4", "data.augment.cutmix=1", "data.augment.mix_fraction=0.8"],
}
OTHERS = ["data.augment.policy=rand_augment", "data.augment.erasing=0.3"]
OTHERS += ["data.augment.brightness=0.3"]


def build(*words: str, rank: int = 0, world: int = 1, ahead: bool = False) -> PictureData:
    """The data of one process; ahead: a thread prepares its batches."""
    config = compose([*TINY, *OTHERS, *words])
    data = PictureData(config.data, seed=SEED, batch_size=7, eval_batch_size=5)
    if ahead:
        data.feed = Feed(Stream(), data.finish)
    data.trainer = SimpleNamespace(
        global_rank=rank, world_size=world, accumulate_grad_batches=1,
        num_training_batches=float("inf"),
    )  # fmt: skip
    return data


def batches(data: PictureData, epoch: int) -> list[Batch]:
    loader = data.train_dataloader()
    loader.set_epoch(epoch)
    return [data.finish(batch) for batch in loader]


def mix_by_torchvision(monkeypatch, data: PictureData, epoch: int) -> list[tuple]:
    """Images and targets of the global batches of an epoch, mixed by torchvision's classes."""
    images, ranges, classes = data.dataset.splits["train"], data.spec.augment, len(data.class_names)
    height, width = images.images.shape[1:3]
    mixed = []
    for number, rows in enumerate(data.order(1).batches(epoch)):
        image = torch.from_numpy(images.pixels(rows)).permute(0, 3, 1, 2).float() / 255
        draws = make_generator(SEED, 1, epoch, number).random((len(rows), DRAWS))
        choices = make_generator(SEED, 5, epoch, number).random(
            (len(rows), data.augmentation.policy.numbers)
        )
        image = data.augmentation(image, torch.from_numpy(draws).float(), choices)
        label = torch.from_numpy(images.targets[rows])
        if label.dtype == torch.bool:
            label = label.float()  # several classes: as torchvision takes shares
        rng = make_generator(SEED, 6, epoch, number)
        mixes, cuts, row, column = rng.random(4)
        if mixes >= ranges.mix_fraction:
            hot = label if label.dim() == 2 else torch.nn.functional.one_hot(label, classes)
            mixed.append((image, hot.float()))
            continue
        kind, alpha = v2.MixUp, ranges.mixup
        if not ranges.mixup or (ranges.cutmix and cuts >= 0.5):
            kind, alpha = v2.CutMix, ranges.cutmix
        transform, share = kind(alpha=alpha, num_classes=classes), rng.beta(alpha, alpha)
        places = iter([int(column * width), int(row * height)])
        with monkeypatch.context() as patch:
            share = torch.tensor(share, dtype=torch.float64)
            patch.setattr(transform._dist, "sample", lambda _, share=share: share)
            patch.setattr(
                torch, "randint", lambda _, size, places=places: torch.tensor([next(places)])
            )
            mixed.append(transform(image, label))
    return mixed


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("mode", ["disk", "device", "ahead"])
def test_all_processes_together_mix_what_torchvision_mixes(monkeypatch, mix, world, mode):
    words = [*MIXES[mix], f"data.cache={'device' if mode == 'device' else 'disk'}"]
    for epoch in (0, 2):
        parts = [
            batches(build(*words, rank=rank, world=world, ahead=mode == "ahead"), epoch)
            for rank in range(world)
        ]
        expected = mix_by_torchvision(monkeypatch, build(*words), epoch)
        rows = list(build().order(1).batches(epoch))
        assert len(parts[0]) == len(expected) > 1
        for number, (image, target) in enumerate(expected):
            kept = [dict(part[number]) for part in parts]
            for part in kept:
                for key in ("image", "label", "row", "target"):
                    part[key] = part[key][: part.get("counted")]
            together = {
                key: torch.cat([part[key] for part in kept]) for key in kept[0]
                if key in ("image", "label", "row", "target")
            }  # fmt: skip
            assert torch.equal(together["row"], torch.from_numpy(rows[number]))
            torch.testing.assert_close(together["image"], image, rtol=0, atol=1e-7)
            torch.testing.assert_close(together["target"], target, rtol=0, atol=1e-7)
            torch.testing.assert_close(target.sum(1), torch.ones(len(target)))


@pytest.mark.parametrize("world", [1, 2])
def test_several_classes_are_mixed_as_torchvision_mixes_shares(monkeypatch, world):
    words = [*MIXES["both"], "data.objects=2"]
    parts = [batches(build(*words, rank=rank, world=world), 1) for rank in range(world)]
    expected, seen = mix_by_torchvision(monkeypatch, build(*words), 1), set()
    for number, (image, target) in enumerate(expected):
        kept = [slice(part[number].get("counted")) for part in parts]
        for key, value in (("image", image), ("target", target)):
            found = torch.cat([p[number][key][k] for p, k in zip(parts, kept, strict=True)])
            torch.testing.assert_close(found, value, rtol=0, atol=1e-7)
        seen |= set(target.sum(1).round(decimals=4).tolist())
        assert all(part[number]["label"].dtype == torch.bool for part in parts)
    assert len(expected) > 1 and seen == {2.0}  # two objects in each image


@pytest.mark.parametrize("words", [[], ["data.objects=2"]], ids=["one class", "several"])
def test_processes_and_places_of_images_mix_to_the_bit(words):
    words = [*MIXES["both"], *words]
    whole = batches(build(*words), 1)
    for mode in (dict(ahead=True), {}):
        cache = ["data.cache=device"] if not mode else []
        for one, other in zip(whole, batches(build(*words, *cache, **mode), 1), strict=True):
            for key in ("image", "target", "label", "row"):
                assert torch.equal(one[key], other[key])
    parts = [batches(build(*words, rank=rank, world=2), 1) for rank in (0, 1)]
    for one, *shares in zip(whole, *parts, strict=True):
        for key in ("image", "target", "label", "row"):
            assert torch.equal(torch.cat([share[key] for share in shares]), one[key])


@pytest.mark.parametrize(("done", "words"), [(1, []), (4, []), (4, ["data.objects=2"])])
def test_an_epoch_continues_with_the_same_mixtures(done, words):
    data = build(*MIXES["both"], *words)
    expected = batches(data, 1)[done:]
    loader = data.train_dataloader()
    loader.set_epoch(1)
    loader.load_state_dict({"epoch": 1, "batch": done})
    for one, other in zip(map(data.finish, loader), expected, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_a_phase_without_augmentation_mixes_nothing():
    data = build(*MIXES["both"])
    data.augmenting = False
    for batch in batches(data, 0):
        assert "target" not in batch and len(batch["image"]) == len(batch["row"])
    for batch in map(data.finish, data.val_dataloader()):
        assert "target" not in batch


def test_batches_without_mixing_are_those_of_before():
    """The numbers of mixing and of operations come from generators of their own."""
    words = [f"data.augment.{key}" for key in ("policy=null", "erasing=0", "brightness=0.3")]
    plain, mixing = build(*words), build(*words, "data.augment.mixup=0.4")
    for one, other in zip(plain.train_dataloader(), mixing.train_dataloader(), strict=True):
        assert torch.equal(one["draws"], other["draws"][:-1])
        assert torch.equal(one["row"], other["row"][:-1]) and "choices" not in one


def test_shares_of_mixup_have_the_beta_distribution_and_those_of_cutmix_its_areas():
    ranges = compose([*TINY, *MIXES["both"]]).data.augment
    drawn = [draw_mix(ranges, np.random.default_rng(n), 64, 64) for n in range(6000)]
    whole = [mix for mix in drawn if mix == Mix(1.0)]
    averaged = np.array([mix.share for mix in drawn if not mix.box and mix != Mix(1.0)])
    cut = [mix for mix in drawn if mix.box]
    assert abs(len(whole) / len(drawn) - 0.2) < 0.02
    assert abs(len(averaged) - len(cut)) < 300
    # of Beta(a, a): mean 1/2, variance 1 / (4 (2a + 1))
    assert abs(averaged.mean() - 0.5) < 0.02 and abs(averaged.var() - 1 / 7.2) < 0.01
    for mix in cut:
        top, bottom, left, right = mix.box
        assert 0 <= top <= bottom <= 64 and 0 <= left <= right <= 64
        assert mix.share == pytest.approx(1 - (bottom - top) * (right - left) / 64**2)


def test_one_image_is_its_own_partner():
    batch = {
        "image": torch.rand(2, 3, 8, 8), "label": torch.tensor([1, 1]), "row": torch.tensor([5, 5])
    }  # fmt: skip
    batch["image"][1] = batch["image"][0]
    for mix in (Mix(0.3), Mix(0.75, (0, 4, 4, 8)), Mix(1.0)):
        found = apply_mix(batch, mix, 3)
        torch.testing.assert_close(found["image"], batch["image"][:1])
        torch.testing.assert_close(found["target"], torch.tensor([[0.0, 1.0, 0.0]]))
