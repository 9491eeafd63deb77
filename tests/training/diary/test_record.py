"""The record against plain loops over logged logits."""

from __future__ import annotations

import csv
import math

import numpy as np
import pytest
import torch

from convlens.training.diary.diary import Diary
from convlens.training.diary.extremes import KINDS, list_extremes
from convlens.training.diary.presentations import OpenEpoch, join
from convlens.training.diary.record import Record
from convlens.training.diary.table import write_table

IMAGES, CLASSES, EPOCHS, BATCH = 23, 4, 5, 6


def log_steps(kind: str, *, mixed: bool, seed: int = 0, repeats: bool = False):
    """Return labels, and by epoch the steps: rows, logits, labels and the mixed target or None."""
    rng = np.random.default_rng(seed)
    columns = 1 if kind == "binary" else CLASSES
    labels = rng.integers(0, 2 if kind == "binary" else CLASSES, IMAGES)
    if kind == "several":
        labels = rng.random((IMAGES, CLASSES)) < 0.4
    epochs = []
    for _ in range(EPOCHS):
        order = rng.integers(0, IMAGES, IMAGES) if repeats else rng.permutation(IMAGES)
        steps = []
        for start in range(0, IMAGES, BATCH):
            rows = order[start : start + BATCH]
            logits = torch.from_numpy(2 * rng.standard_normal((len(rows), columns)))
            own, target = torch.from_numpy(labels[rows]), None
            if mixed:
                shares = own.double()
                if kind != "several":
                    shares = torch.nn.functional.one_hot(own, 2 if columns == 1 else CLASSES)
                share = rng.random()
                target = share * shares + (1 - share) * shares.roll(1, 0)
                target = target.float()
            steps.append((torch.from_numpy(rows), logits, own, target))
        epochs.append(steps)
    return labels, epochs


def as_batch(step, part: slice = slice(None)) -> tuple[torch.Tensor, dict]:
    rows, logits, labels, target = (None if each is None else each[part] for each in step)
    batch = {"row": rows, "label": labels}
    return logits, batch if target is None else batch | {"target": target}


def keep(labels, epochs, **options) -> Diary:
    names = [f"image {n}" for n in range(IMAGES)]
    diary = Diary(labels, names, ["cat", "dog", "owl", "yak"], double=True, **options)
    for epoch, steps in enumerate(epochs, start=1):
        for number, step in enumerate(steps):
            diary.take(*as_batch(step), number)
        diary.close_epoch(epoch)
    return diary


def loop(kind: str, epochs) -> dict:
    """Follow every image, or image and class, through all presentations, one number at a time."""
    kept: dict = {}
    for epoch, steps in enumerate(epochs, start=1):
        for rows, logits, labels, target in steps:
            for place, row in enumerate(rows.tolist()):
                z = logits[place].tolist()
                if kind == "several":
                    cases = {}
                    for k, value in enumerate(z):
                        yes = bool(labels[place, k])
                        cases[row, k] = [0.0, value], int(yes), None
                        if target is not None:
                            hit = float(target[place, k])
                            cases[row, k] = [0.0, value], int(yes), hit if yes else 1 - hit
                else:
                    z = [0.0, *z] if kind == "binary" else z
                    own = int(labels[place])
                    cases = {row: (z, own, None if target is None else float(target[place, own]))}
                for key, (both, own, share) in cases.items():
                    others = {k: v for k, v in enumerate(both) if k != own}
                    best = max(others, key=others.get)
                    total = sum(math.exp(v) for v in both)
                    seen = kept.setdefault(key, [])
                    seen.append({
                        "margin": both[own] - others[best], "p": math.exp(both[own]) / total,
                        "share": 1.0 if share is None else share, "epoch": epoch,
                        "right": both[own] > others[best], "other": best,
                    })  # fmt: skip
    return kept


@pytest.mark.parametrize("mixed", [False, True], ids=["plain", "mixed"])
@pytest.mark.parametrize("kind", ["softmax", "binary", "several", "repeated"])
def test_every_statistic_equals_a_loop_over_the_logits(kind, mixed):
    labels, epochs = log_steps(kind, mixed=mixed, repeats=kind == "repeated")
    record = keep(labels, epochs).record
    expected = loop(kind, epochs)
    found = record.arrays | {
        "aum": record.aum, "loss": record.mean("loss"), "confidence": record.confidence,
        "variability": record.variability,
    }  # fmt: skip
    assert np.isnan(record.aum).sum() == record.aum.size - len(expected)
    for key, seen in expected.items():
        weights, p = np.array([s["share"] for s in seen]), np.array([s["p"] for s in seen])
        clear = [s for s in seen if s["share"] >= 0.5]
        marks = "".join("r" if s["right"] else "w" for s in clear)
        wanted = {
            "aum": np.average([s["margin"] for s in seen], weights=weights),
            "loss": np.average(-np.log(p), weights=weights),
            "confidence": np.average(p, weights=weights),
            "variability": math.sqrt(np.cov(p, aweights=weights, ddof=0)),
            "weight": weights.sum(), "seen": len(seen), "right": marks.count("r"),
            "forgotten": marks.count("rw"),
            "learned": next((s["epoch"] for s in clear if s["right"]), 0),
        }  # fmt: skip
        for name, value in wanted.items():
            assert found[name][key] == pytest.approx(value, abs=1e-9), (key, name)
        if kind != "several" and clear:
            named = [s["other"] for s in clear]
            most = max(set(named), key=named.count)
            if 2 * named.count(most) > len(named):
                assert record.arrays["other"][key] == most


def assert_close(one: Record, other: Record) -> None:
    for name, array in one.arrays.items():
        np.testing.assert_allclose(other.arrays[name], array, rtol=0, atol=1e-9, err_msg=name)


def share_out(epochs, processes: int):
    """Take the steps as several processes do: consecutive parts of each batch; see the loader."""
    for epoch, steps in enumerate(epochs, start=1):
        parts = [OpenEpoch() for _ in range(processes)]
        for number, step in enumerate(steps):
            for part, mine in zip(
                parts, np.array_split(np.arange(len(step[0])), processes), strict=True
            ):
                counted = len(mine)
                logits, batch = as_batch(step, mine if counted else slice(0, 1))
                part.take(logits, batch | {"counted": counted}, number)
        yield epoch, parts


@pytest.mark.parametrize("kind", ["softmax", "several", "repeated"])
def test_several_processes_equal_one_and_rows_of_no_count_are_left_out(kind):
    """23 images in batches of 6 leave 5 for four processes, of which some get none that counts."""
    labels, epochs = log_steps(kind, mixed=False, repeats=kind == "repeated")
    alone = keep(labels, epochs).record
    together = Record(IMAGES, CLASSES, several=kind == "several", double=True)
    for epoch, parts in share_out(epochs, processes=4):
        read = [part.read() for part in parts]
        together.add(join([each for each in read if each is not None]), epoch)
    assert_close(alone, together)


@pytest.mark.parametrize("held", [1, 1 << 20], ids=["measured", "held"])
@pytest.mark.parametrize("kind", ["softmax", "several"])
def test_resumed_amid_an_epoch_it_ends_with_the_same_bits(kind, held, tmp_path, monkeypatch):
    monkeypatch.setattr("convlens.training.diary.presentations.HELD", held)
    labels, epochs = log_steps(kind, mixed=True)
    whole = keep(labels, epochs)
    first = keep(labels, epochs[:2])
    for number, step in enumerate(epochs[2][:2]):
        first.take(*as_batch(step), number)
    file = tmp_path / "state.pt"
    torch.save([first.state(), first.open_state()], file)
    state, open_state = torch.load(file, weights_only=True)
    again = keep(labels, [])
    assert again.load(state)
    again.reopen(open_state, torch.device("cpu"))
    for epoch, steps in enumerate(epochs[2:], start=3):
        for number, step in enumerate(steps):
            if epoch > 3 or number >= 2:
                again.take(*as_batch(step), number)
        again.close_epoch(epoch)
    for name, array in whole.record.arrays.items():
        assert np.array_equal(array, again.record.arrays[name]), name
    for name, diary in (("one", whole), ("two", again)):
        write_table(tmp_path / name, diary)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_a_record_of_other_images_is_not_taken_over():
    labels, epochs = log_steps("softmax", mixed=False)
    other = Diary(labels[:-1], ["x"] * (IMAGES - 1), ["cat", "dog", "owl", "yak"])
    assert not other.load(keep(labels, epochs).state())
    assert other.epoch == 0


@pytest.mark.parametrize(("classes", "several"), [(2, False), (1000, False), (80, True)])
def test_it_keeps_36_bytes_per_label_at_most(classes, several):
    record = Record(10, classes, several=several)
    assert sum(a.nbytes for a in record.arrays.values()) <= 36 * 10 * (classes if several else 1)
    assert record.bytes_per_label <= 36


def test_logits_are_measured_in_portions_with_the_same_result(monkeypatch):
    labels, epochs = log_steps("softmax", mixed=False)
    whole = keep(labels, epochs).record
    monkeypatch.setattr("convlens.training.diary.presentations.HELD", 2 * BATCH * CLASSES)
    parts = keep(labels, epochs).record
    assert_close(whole, parts)


@pytest.mark.parametrize("kind", ["classes", "binary", "several"])
@pytest.mark.parametrize("extreme", KINDS)
def test_images_at_an_extreme_are_those_of_the_table(kind, extreme, tmp_path):
    labels, epochs = log_steps(kind, mixed=False, seed=3)
    diary = keep(labels, epochs)
    write_table(tmp_path / "diary.csv", diary)
    with open(tmp_path / "diary.csv", encoding="utf-8", newline="") as table:
        rows = [row for row in csv.DictReader(table) if row.get("labelled") != "absent"]
    keys = {
        "hardest": lambda row: float(row["loss"]),
        "forgotten": lambda row: (int(row["forgotten"]), float(row["loss"])),
        "learned_last": lambda row: (int(row["learned"]) or math.inf, float(row["loss"])),
    }
    rows.sort(key=keys[extreme], reverse=True)
    if extreme == "forgotten":
        rows = [row for row in rows if row["forgotten"] != "0"]
    if extreme == "learned_last":
        rows = [row for row in rows if row["learned"] != "1"]
    assert len(rows) > 4
    expected = [(row["file"], row["class"]) for row in rows]
    names = ["cat", "dog", "owl", "yak"]
    found = list_extremes(diary, extreme, 100)
    assert [(each.name, names[each.label]) for each in found] == expected
    for count in range(len(found)):
        assert list_extremes(diary, extreme, count) == found[:count]
    first, second, *_ = found
    left = list_extremes(diary, extreme, 3, [(second.row, second.label)])
    assert [(each.row, each.label) for each in left] == [
        (each.row, each.label) for each in (first, *found[2:4])
    ]
    for each, row in zip(found, rows, strict=True):
        assert each.reason.endswith(f"right in {row['right']} of {row['seen']}")
        if kind == "classes":
            assert (names[each.named] if each.named is not None else "") == row["other"]
