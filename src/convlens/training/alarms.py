"""Alarms: warnings that follow from the numbers of a run.

Every alarm is one line: what is wrong, which numbers show it, and what to look at next.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean

import numpy as np

DIGITS = 12  # most decimals that are written to show that two numbers differ
MISTAKEN = 10  # classes that get a line each
_CHANCE = 1e-3  # of an alarm about a calibrated network, at most


def format_distinct(one: float, other: float, kind: str) -> tuple[str, str]:
    """Format two unequal numbers with enough digits to show that they differ.

    Args:
        one: the first number.
        other: the second number.
        kind: the format to start from, ``.3f`` or ``.0%``; decimals are added while needed.

    >>> format_distinct(0.7, 0.8, ".3f"), format_distinct(1.61201, 1.61204, ".3f")
    (('0.700', '0.800'), ('1.61201', '1.61204'))
    >>> format_distinct(0.2001, 0.2004, ".0%")
    ('20.01%', '20.04%')
    """
    for digits in range(int(kind[1]), DIGITS):
        texts = tuple(f"{value:.{digits}{kind[2]}}" for value in (one, other))
        if texts[0] != texts[1]:
            break
    return texts


def find_dead_layers(
    scores: Mapping[str, float], before: Mapping[str, float], *, share: float
) -> dict[str, str]:
    """Find layers that died: nearly all channels are zero for every probe, more than at the start.

    Args:
        scores: contains ``explain/dead/<layer>``, the fraction of dead channels.
        before: the same before training.
        share: threshold, as a fraction of the channels of a layer.

    Returns:
        Alarms by subject.
    """
    start = "explain/dead/"
    return {
        f"layer {tag.removeprefix(start)} died": (
            f"layer {tag.removeprefix(start)} died: {value:.0%} of its channels are zero for "
            f"every probe (before training: {before.get(tag, 0.0):.0%}); look at "
            f"layers/activations/… and lower the learning rate"
        )
        for tag, value in scores.items()
        if tag.startswith(start) and value >= share and value > before.get(tag, 0.0)
    }


def find_mistaken_classes(
    labels: np.ndarray, answers: np.ndarray, class_names: Sequence[str], *,
    share: float, images: float,
) -> dict[str, str]:  # fmt: skip
    """Find classes that are mostly predicted as one other class, or a single prediction for all.

    Args:
        labels: (N,) true classes of a validation pass; negative where unknown.
        answers: (N,) predicted classes.
        class_names: names of the K classes.
        share: threshold, as a fraction of the images of a class that go to one other class.
        images: the fewest images of a class that are enough to judge it.

    Returns:
        Alarms by subject.
    """
    known = answers[labels >= 0]
    if len(np.unique(labels[labels >= 0])) > 1 and len(known) >= images and np.ptp(known) == 0:
        return {
            "one answer to everything": (
                f"every validation image is classified as {class_names[known[0]]}; train longer, "
                f"change the learning rate, or start from trained weights (exp=finetune_vgg16)"
            )
        }
    kept, classes = labels >= 0, len(class_names)
    flat = np.bincount(labels[kept] * classes + known, minlength=classes * classes)
    counts = flat.reshape(classes, classes)
    totals = counts.sum(axis=1)
    np.fill_diagonal(counts, 0)
    others = counts.argmax(axis=1)
    most = counts.max(axis=1)
    mistaken = np.flatnonzero((totals >= images) & (most > 0) & (most >= share * totals))
    # of hundreds of classes, name only the worst and count the others
    order = np.argsort(-most[mistaken] / totals[mistaken], kind="stable")
    worst = np.sort(mistaken[order[:MISTAKEN]])
    lines = {
        f"{class_names[truth]} is mistaken": (
            f"{class_names[truth]} is taken for {class_names[others[truth]]} in {most[truth]} of "
            f"{totals[truth]} images; look at predictions/mistakes and "
            f"predictions/confusion_matrix: are they alike, or mislabelled?"
        )
        for truth in worst
    }
    if len(mistaken) > len(worst):
        lines["more classes"] = (
            f"{len(mistaken) - len(worst)} more classes are mostly taken for one other class each; "
            f"look at predictions/confusion_matrix"
        )
    return lines


def check_against_untrained(losses: list[float]) -> str | None:
    """Warn if the validation loss never fell below that of the network before training.

    Args:
        losses: validation losses of epochs 0, 1, 2, …; epoch 0 is the network before training.

    Returns:
        The alarm, or None.

    >>> check_against_untrained([0.7, 0.9, 0.8]).partition(";")[0]
    'the best epoch is worse than the network before training: validation loss 0.800 against 0.700'
    >>> check_against_untrained([0.7, 0.6])
    """
    if len(losses) < 2 or min(losses[1:]) <= losses[0]:
        return None
    best, untrained = format_distinct(min(losses[1:]), losses[0], ".3f")
    return (
        f"the best epoch is worse than the network before training: validation loss "
        f"{best} against {untrained}; nothing generalises: lower the learning rate, "
        f"or add images"
    )


def check_generalisation_gap(
    train_accuracies: Sequence[float], val_accuracies: Sequence[float], *,
    images: int, epochs: int, gap: float,
) -> str | None:  # fmt: skip
    """Warn if accuracy is far higher on training images than on validation images.

    The alarm is raised when training accuracy exceeds validation accuracy by at least ``gap`` on
    average over the last ``epochs`` epochs, and by more than chance explains (two standard errors
    of the validation accuracy). Dropout and augmentation lower the measured training accuracy, so
    the true gap may be larger.

    Args:
        train_accuracies: accuracies of epochs 1, 2, …, in [0, 1].
        val_accuracies: validation accuracies of the same epochs.
        images: number of validation images.
        epochs: number of last epochs to average.
        gap: threshold.

    Returns:
        The alarm, or None.

    >>> check_generalisation_gap([0.9, 0.97, 0.98, 0.98], [0.7, 0.71, 0.72, 0.73], images=400,
    ...                    epochs=3, gap=0.15).partition(";")[0]
    'training accuracy is far above validation: 0.977 against 0.720 over the last 3 epochs \
(alarms.gap=0.15)'
    """
    if len(train_accuracies) < epochs or len(val_accuracies) < epochs or images < 1:
        return None
    seen, others = fmean(train_accuracies[-epochs:]), fmean(val_accuracies[-epochs:])
    chance = 2 * math.sqrt(others * (1 - others) / images)
    if seen - others < max(gap, chance):
        return None
    over = f"over the last {epochs} epochs" if epochs > 1 else "in the last epoch"
    return (
        f"training accuracy is far above validation: {seen:.3f} against {others:.3f} {over} "
        f"(alarms.gap={gap:g}); add images, augmentation or dropout, or train fewer layers"
    )


def check_overconfidence(
    confidences: np.ndarray, correct: np.ndarray, *, gap: float | None
) -> str | None:
    """Warn if a network is surer than it is right.

    The alarm is raised when the mean confidence exceeds the accuracy by at least ``gap``, and by
    more than chance explains. A calibrated network is right with the probabilities p that it
    states. Then the sum of p - correct reaches t with a probability of at most
    exp(-t² / (2 (V + t/3))), where V = Σ p (1 - p) (Bernstein's inequality; it holds for any number
    of images): this bound must be below 0.001.

    Args:
        confidences: (N,) probabilities of the predicted classes on validation images.
        correct: (N,) bool.
        gap: threshold; None, in runs of earlier versions, for no alarm.

    Returns:
        The alarm, or None.

    >>> check_overconfidence(np.full(200, 0.95), np.arange(200) < 160, gap=0.1).partition(";")[0]
    'surer than right: confidence 0.950, accuracy 0.800 on 200 validation images \
(alarms.overconfidence=0.1)'
    >>> check_overconfidence(np.full(20, 0.95), np.arange(20) < 16, gap=0.1)  # too few images
    """
    count = len(correct)
    excess = float(confidences.sum() - correct.sum())
    if gap is None or not count or excess <= 0 or excess < gap * count:
        return None
    variance = float((confidences * (1 - confidences)).sum())
    if excess**2 / (2 * (variance + excess / 3)) < -math.log(_CHANCE):
        return None
    sure, right = format_distinct(float(confidences.mean()), float(correct.mean()), ".3f")
    return (
        f"surer than right: confidence {sure}, accuracy {right} on {count} validation images "
        f"(alarms.overconfidence={gap:g}); see predictions/reliability, predict with a temperature"
    )


def check_overfitting(
    train_losses: list[float], val_losses: list[float], *, epochs: int, rise: float
) -> str | None:
    """Warn if the network overfits, and name the epoch to stop at.

    The alarm is raised when the validation loss was above its minimum in each of the last
    ``epochs`` epochs, by at least the fraction ``rise`` on average, while the training loss fell
    below its value at that minimum. Averaging prevents alarms for a noisy but level curve.

    Args:
        train_losses: training losses of epochs 1, 2, …
        val_losses: validation losses of the same epochs.
        epochs: number of last epochs that must agree.
        rise: threshold, as a fraction of the minimum: 0.15 is 15 %.

    Returns:
        The alarm, or None.

    >>> check_overfitting([1, 0.8, 0.6, 0.4, 0.2], [1, 0.8, 0.9, 1.0, 1.1], epochs=3, rise=0.15)
    'overfitting: validation loss rose from 0.800 by 25% in the last 3 epochs, while training \
loss went from 0.800 to 0.200; stop at epoch 2, or regularise'
    """
    if not val_losses:
        return None
    best = min(range(len(val_losses)), key=val_losses.__getitem__)
    if len(val_losses) - best - 1 < epochs:
        return None
    lowest = val_losses[best]
    late = fmean(val_losses[-epochs:])
    higher = late / lowest - 1 if lowest > 0 else float("inf")
    if higher < rise or train_losses[-1] >= train_losses[best]:
        return None
    before, now = format_distinct(train_losses[best], train_losses[-1], ".3f")
    return (
        f"overfitting: validation loss rose from {lowest:.3f} by {higher:.0%} in the last {epochs} "
        f"epochs, while training loss went from {before} to {now}; stop at epoch {best + 1}, or "
        f"regularise"
    )
