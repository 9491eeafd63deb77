"""The overfitting notice: raised for curves that overfit, and for no others."""

from __future__ import annotations

from convlens.training.alarms import overfitting

RULE = {"epochs": 5, "rise": 0.15}


def test_raised_and_names_the_epoch_to_stop_at():
    val = [1.0, 0.8, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1]
    train = [1.0, 0.8, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]
    assert "stop at epoch 3," in overfitting(train, val, **RULE)


def test_not_raised_while_validation_still_falls():
    falling = [1 / (i + 1) for i in range(12)]
    assert overfitting(falling, falling, **RULE) is None


def test_not_raised_for_noise_on_a_level_curve():
    val = [0.8, 0.6, 0.5, 0.48, 0.53, 0.49, 0.55, 0.5, 0.52, 0.51]
    train = [0.9 - 0.05 * i for i in range(10)]
    assert overfitting(train, val, **RULE) is None


def test_not_raised_when_training_loss_rose_too():
    val = [0.5, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2]
    assert overfitting(val, val, **RULE) is None


def test_not_raised_before_enough_epochs_agree():
    train = [0.5, 0.4, 0.3, 0.2, 0.1]
    assert overfitting(train, [0.5, 0.9, 0.9, 0.9, 0.9], **RULE) is None
    assert overfitting([], [], **RULE) is None
