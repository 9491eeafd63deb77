"""Calibration against torchmetrics, SciPy and brute force."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import multiclass_calibration_error

from convlens.training.calibration import (
    FEWEST,
    KEY,
    bin_confidences,
    calibrate,
    compute_ece,
    count_needed,
    describe_calibration,
    expand_logits,
    fit_temperature,
    measure,
    read_calibration,
)
from convlens.training.calibrator import Calibrator, LogitRecord


def make_answers(
    images: int = 2000, classes: int = 5, scale: float = 3.0, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return logits that are ``scale`` times too large, with labels drawn from the true ones."""
    drawn = torch.Generator().manual_seed(seed)
    true = torch.randn(images, classes, generator=drawn, dtype=torch.float64) * 2
    shares = true.softmax(1) if classes > 1 else expand_logits(true).softmax(1)
    labels = torch.multinomial(shares, 1, generator=drawn)[:, 0]
    return (true * scale).float(), labels


@pytest.mark.parametrize("scale", [0.4, 1.0, 3.0])
@pytest.mark.parametrize("classes", [1, 2, 5])
def test_the_temperature_is_that_of_a_search_and_repairs_what_was_wrong(classes: int, scale: float):
    logits, labels = make_answers(classes=classes, scale=scale)
    full = expand_logits(logits)

    def loss(temperature: float) -> float:
        return float(torch.nn.functional.cross_entropy(full / temperature, labels))

    low, high = 0.05, 20.0  # the loss has one minimum: it is convex in 1 / temperature
    for _ in range(100):
        third = (high - low) / 3
        if loss(low + third) < loss(high - third):
            high -= third
        else:
            low += third
    fitted = fit_temperature(logits, labels)
    assert fitted == pytest.approx(low, rel=1e-4)
    assert loss(fitted) <= loss(low) + 1e-12
    assert fitted == pytest.approx(scale, rel=0.15)


def test_no_temperature_where_validation_does_not_determine_one():
    logits, labels = make_answers()
    assert fit_temperature(logits[: FEWEST - 1], labels[: FEWEST - 1]) is None
    assert fit_temperature(logits, logits.argmax(1)) is None  # no mistake
    assert fit_temperature(-logits, logits.argmax(1)) is None  # worse than chance
    logits[3, 1] = torch.nan
    assert fit_temperature(logits, labels) is None and calibrate(logits, labels) is None


@pytest.mark.parametrize("classes", [1, 2, 5])
def test_the_error_is_that_of_torchmetrics_and_falls(classes: int):
    logits, labels = make_answers(classes=classes)
    found, full = calibrate(logits, labels), expand_logits(logits)
    for temperature, ece in ((1.0, found.ece), (found.temperature, found.ece_calibrated)):
        shares = (full / temperature).softmax(1)
        expected = multiclass_calibration_error(shares, labels, full.shape[1], n_bins=15)
        assert ece == pytest.approx(float(expected), abs=1e-6)
    assert found.ece_calibrated < 0.5 * found.ece


def test_the_predicted_class_never_changes():
    logits, labels = make_answers()
    found = calibrate(logits, labels)
    assert torch.equal((logits / found.temperature).argmax(1), logits.argmax(1))
    assert found.correct.sum() == (logits.argmax(1) == labels).sum()


@pytest.mark.parametrize("precision", [0.6, 0.9, 0.95, 0.99])
def test_coverage_is_that_of_brute_force(precision: float):
    logits, labels = make_answers(scale=1.0)
    logits = logits.round()  # many equal confidences
    found = calibrate(logits, labels)
    best = 0
    for threshold in np.unique(found.confidences):
        answered = found.confidences >= threshold
        enough = answered.sum() >= 3 / (1 - precision) - 1e-9
        if enough and found.correct[answered].mean() >= precision:
            best = max(best, int(answered.sum()))
    threshold = found.find_threshold(precision)
    assert (threshold is None) == (best == 0)
    if threshold is not None:
        coverage, reached = found.answer(threshold)
        assert coverage == best / len(labels) and reached >= precision


def test_the_summary_tells_what_the_threshold_of_validation_gives_on_the_test():
    validation = calibrate(*make_answers())
    test = measure(*make_answers(seed=1, images=500), validation.temperature)
    found = describe_calibration(validation, test)
    assert found["images"] == 2000 and "uncalibrated" not in found
    row = found["abstain"]["0.95"]
    answered = test.confidences >= validation.find_threshold(0.95)
    assert row["test_coverage"] == answered.mean() and 0 < row["coverage"] < 1
    assert row["test_precision"] == test.correct[answered].mean()
    few = describe_calibration(calibrate(*make_answers(images=50)), test)
    assert few["uncalibrated"] == "it takes 100 validation images, there are 50"
    assert few["temperature"] == 1 and few["abstain"]["0.99"] is None
    assert test.answer(1.1) == (0.0, None)


def test_too_few_images_cannot_support_a_precision():
    labels = torch.zeros(299, dtype=torch.long)
    perfect = torch.tensor([[4.0, 0.0]]).expand(299, 2)
    assert count_needed(0.99) == 300
    assert calibrate(perfect, labels).find_threshold(0.99) is None
    assert calibrate(perfect, labels).find_threshold(0.98) == pytest.approx(1 / (1 + np.exp(-4)))


def test_a_checkpoint_holds_it_as_plain_data(tmp_path):
    found = calibrate(*make_answers())
    torch.save({KEY: found.to_state()}, tmp_path / "x.ckpt")
    again = read_calibration(torch.load(tmp_path / "x.ckpt", weights_only=True))
    assert describe_calibration(again, again) == describe_calibration(found, found)
    assert read_calibration({}) is None
    state = found.to_state()
    for damage in (
        {}, 3, "x", [1], {**state, "temperature": 0.0}, {**state, "raw": "x"},
        {**state, "raw": state["raw"] + 1}, {**state, "confidences": state["raw"] * torch.nan},
        {**state, "correct": torch.zeros(2, 2)},
        {"temperature": 1.0, **{key: torch.zeros(0) for key in ("raw", "confidences", "correct")}},
    ):  # fmt: skip
        with pytest.raises(ValueError, match="calibration"):
            read_calibration({KEY: damage})


def test_each_image_counts_once_whatever_the_order_of_processes():
    logits, labels = make_answers(images=150)
    whole, parts = LogitRecord(), LogitRecord()
    rows = torch.arange(150)
    whole.update(logits, labels, rows)
    for part in (rows[1::2], rows[::2], rows[:7]):
        parts.update(logits[part], labels[part], part)
    for one, other in zip(whole.compute(), parts.compute(), strict=True):
        assert torch.equal(one, other)


def test_of_too_many_logits_a_fixed_part_is_kept_whatever_the_processes():
    logits, labels = make_answers(images=1000)
    rows = torch.arange(1000)
    found = []
    for parts in ([rows], rows.split(64), (rows[1::2], rows[::2])):
        record = LogitRecord(numbers=2000)  # 400 images of 5 classes
        for part in parts:
            record.update(logits[part], labels[part], part)
            assert sum(each.numel() for each in record.logits) <= 3000
        found.append(record.compute())
        record.reset()
        assert not record.update_called and not record.rows
    for each in found[1:]:
        assert torch.equal(each[0], found[0][0]) and torch.equal(each[1], found[0][1])
    assert len(found[0][0]) == pytest.approx(250, abs=10)


def test_of_too_many_images_a_fixed_part_is_kept_too():
    logits, labels = make_answers(images=1000)
    record = LogitRecord(images=300)
    record.update(logits, labels, torch.arange(1000))
    assert len(record.compute()[0]) == pytest.approx(250, abs=10)


@pytest.mark.parametrize("kind", [torch.float64, torch.float32, torch.bfloat16])
def test_logits_keep_the_bits_of_their_training(kind):
    record = LogitRecord()
    logits = make_answers(images=4)[0].to(kind) / 3
    record.update(logits, torch.arange(4), torch.arange(4))
    found, _ = record.compute()
    assert found.dtype == max(kind, torch.float32, key=lambda each: each.itemsize)
    assert torch.equal(found, logits.to(found.dtype))


def test_a_step_outside_a_run_needs_no_rows():
    logits, labels = make_answers(images=8)
    calibrator = Calibrator(active=True)
    assert calibrator.take(logits, {"label": labels}) is logits
    assert calibrator.end_validation() == {} and calibrator.validation is None
    calibrator.end_test()
    assert calibrator.test is None and calibrator.temperature == 1


def test_the_calibration_is_that_of_the_last_pass_and_of_numbers_only():
    calibrator = Calibrator(active=True)
    for scale in (3.0, 0.5):
        logits, labels = make_answers(scale=scale)
        calibrator.take(logits, {"label": labels, "row": torch.arange(len(labels))})
        assert calibrator.end_validation() == {"val/ece": calibrate(logits, labels).ece}
        assert calibrator.temperature == fit_temperature(logits, labels)
    calibrator.take(logits * torch.nan, {"label": labels, "row": torch.arange(len(labels))})
    assert np.isnan(calibrator.end_validation()["val/ece"])  # not the error of an earlier epoch
    assert calibrator.validation is None and calibrator.temperature == 1


def test_the_error_of_a_hand_made_example_and_of_its_bins():
    confidences, correct = np.array([0.95, 0.95, 0.55, 0.55]), np.array([1, 1, 1, 0], bool)
    assert compute_ece(confidences, correct) == pytest.approx(0.5 * 0.05 + 0.5 * 0.05)
    found = calibrate(*make_answers())
    counts, means, accuracies = bin_confidences(found.raw, found.correct)
    wanted = 0.0
    for number in range(15):
        inside = [n for n, each in enumerate(found.raw) if int(each * 15) == number]
        assert counts[number] == len(inside)
        if inside:
            assert means[number] == pytest.approx(found.raw[inside].mean())
            assert accuracies[number] == pytest.approx(found.correct[inside].mean())
            wanted += abs(found.correct[inside].mean() - found.raw[inside].mean()) * len(inside)
        else:
            assert np.isnan(means[number]) and np.isnan(accuracies[number])
    assert found.ece == pytest.approx(wanted / len(found.raw), abs=1e-12)
