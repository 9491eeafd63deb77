"""What a run's numbers say when something is wrong.

Every alarm is one line that says what was found, in which numbers, and what to look at.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean

import numpy as np

DIGITS = 12  # behind the point, at most, to tell two numbers apart
NAMED = 4  # classes that one line names
MISTAKEN = 10  # classes that have a line of their own


def format_distinct(one: float, other: float, kind: str) -> tuple[str, str]:
    """Two unequal numbers with as many digits as it takes to see that they differ.

    Args:
        kind: how they are written where they do differ: ``.3f`` or ``.0%``.

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


def check_evidence_outside(scores: Mapping[str, float], *, lift: float) -> str | None:
    """The evidence lies mostly outside the objects, or None.

    Raised when the share of the Grad-CAM evidence that falls on the objects is below ``lift``
    times the objects' share of the picture: 1 is what a map that knows nothing gets.

    Args:
        scores: with ``explain/energy_inside`` and ``explain/object_share``; None without them.

    >>> scores = {"explain/energy_inside": 0.1, "explain/object_share": 0.2}
    >>> check_evidence_outside(scores, lift=1.0)
    'evidence mostly outside the object: 10% of it lies on the objects, which take up 20% of the \
picture; look at grad_cam/… and class_means: what stands where the maps are bright?'
    """
    inside = scores.get("explain/energy_inside")
    share = scores.get("explain/object_share")
    if inside is None or share is None or inside >= lift * share:
        return None
    found, wanted = format_distinct(inside, share, ".0%")
    return (
        f"evidence mostly outside the object: {found} of it lies on the objects, which take "
        f"up {wanted} of the picture; look at grad_cam/… and class_means: what stands where "
        f"the maps are bright?"
    )


def check_evidence_place(scores: Mapping[str, float], *, share: float) -> str | None:
    """The classes whose evidence peaks in one and the same place near the border, or None.

    Args:
        scores: with ``explain/same_place/<class>``, see
            :func:`convlens.explain.scores.same_border_place`.
        share: of a class's pictures, from which on it is said.

    >>> check_evidence_place({"explain/same_place/cat": 0.9, "explain/same_place/dog": 0.1}, \
share=0.7)
    'evidence for one class in the same place at the border: cat in 90% of its pictures; look at \
class_means and grad_cam/…: a mark, a frame, a date may give it away'
    """
    start = "explain/same_place/"
    found = {
        tag.removeprefix(start): value
        for tag, value in scores.items()
        if tag.startswith(start) and value >= share
    }
    if not found:
        return None
    worst = sorted(found, key=lambda name: -found[name])
    named = ", ".join(f"{name} in {found[name]:.0%}" for name in worst[:NAMED])
    more = f" and {len(worst) - NAMED} more" if len(worst) > NAMED else ""
    classes = "one class" if len(worst) == 1 else f"{len(worst)} classes, each"
    return (
        f"evidence for {classes} in the same place at the border: {named}{more} of its pictures; "
        f"look at class_means and grad_cam/…: a mark, a frame, a date may give it away"
    )


def find_dead_layers(
    scores: Mapping[str, float], before: Mapping[str, float], *, share: float
) -> dict[str, str]:
    """The layers of which nearly all channels answer none of the probes, and did before training.

    Args:
        scores, before: with ``explain/dead/<layer>``, now and before training.
        share: of a layer's channels, from which on it is said.

    Returns:
        Lines by what they are about.
    """
    start = "explain/dead/"
    return {
        f"layer {tag.removeprefix(start)} died": (
            f"layer {tag.removeprefix(start)} died: {value:.0%} of its channels answer none of the "
            f"probes (before training: {before.get(tag, 0.0):.0%}); look at activations/…, and "
            f"lower the learning rate"
        )
        for tag, value in scores.items()
        if tag.startswith(start) and value >= share and value > before.get(tag, 0.0)
    }


def find_mistaken_classes(
    labels: np.ndarray, answers: np.ndarray, class_names: Sequence[str], *,
    share: float, pictures: int,
) -> dict[str, str]:  # fmt: skip
    """The classes that are mostly taken for one other class; or that all are taken for one.

    Args:
        labels, answers: (N,) true and predicted classes of a validation pass.
        share: of a class's pictures that go to one other class, from which on it is said.
        pictures: of a class, below which nothing is said about it.

    Returns:
        Lines by what they are about.
    """
    known = answers[labels >= 0]
    if len(np.unique(labels[labels >= 0])) > 1 and len(known) >= pictures and np.ptp(known) == 0:
        return {
            "one answer to everything": (
                f"every validation picture is called {class_names[known[0]]}: the network tells "
                f"nothing apart; train longer, try another learning rate, or start from trained "
                f"weights (exp=finetune_vgg16)"
            )
        }
    kept, classes = labels >= 0, len(class_names)
    flat = np.bincount(labels[kept] * classes + known, minlength=classes * classes)
    counts = flat.reshape(classes, classes)
    totals = counts.sum(axis=1)
    np.fill_diagonal(counts, 0)
    others = counts.argmax(axis=1)
    most = counts.max(axis=1)
    found = np.flatnonzero((totals >= pictures) & (most > 0) & (most >= share * totals))
    # of hundreds the worst are named, the others counted
    worst = np.sort(found[np.argsort(-most[found] / totals[found], kind="stable")[:MISTAKEN]])
    lines = {
        f"{class_names[truth]} is mistaken": (
            f"{class_names[truth]} is taken for {class_names[others[truth]]} in {most[truth]} of "
            f"{totals[truth]} pictures; look at predictions/mistakes and confusion_matrix: are the "
            f"two alike, or labelled alike?"
        )
        for truth in worst
    }
    if len(found) > len(worst):
        lines["more classes"] = (
            f"{len(found) - len(worst)} more classes are mostly taken for one other class each; "
            f"look at confusion_matrix"
        )
    return lines


def check_against_untrained(losses: list[float]) -> str | None:
    """The validation loss never fell below that of the network before training, or None.

    Args:
        losses: of epochs 0, 1, 2, …; epoch 0 is the network before training.

    >>> check_against_untrained([0.7, 0.9, 0.8]).partition(";")[0]
    'the best epoch is worse than the network before training: validation loss 0.800, not 0.700'
    >>> check_against_untrained([0.7, 0.6])
    """
    if len(losses) < 2 or min(losses[1:]) <= losses[0]:
        return None
    best, untrained = format_distinct(min(losses[1:]), losses[0], ".3f")
    return (
        f"the best epoch is worse than the network before training: validation loss "
        f"{best} against {untrained}; nothing was learnt that holds for other "
        f"pictures: try a lower learning rate, or more pictures"
    )


def check_generalisation_gap(
    train_accuracies: Sequence[float], val_accuracies: Sequence[float], *,
    pictures: int, epochs: int, gap: float,
) -> str | None:  # fmt: skip
    """The network is right far more often about training pictures than about others, or None.

    Raised when training accuracy stood above that of validation by at least ``gap`` on average
    over the last ``epochs`` epochs, and by more than so few validation pictures leave to chance
    (two standard errors of their accuracy). Dropout and augmentation lower training accuracy as it
    is measured, so the gap may be larger than it looks.

    Args:
        train_accuracies, val_accuracies: of epochs 1, 2, …, in [0, 1].
        pictures: of validation.
        epochs: how many last epochs count.
        gap: from which on it is said.

    >>> check_generalisation_gap([0.9, 0.97, 0.98, 0.98], [0.7, 0.71, 0.72, 0.73], pictures=400,
    ...                    epochs=3, gap=0.15).partition(";")[0]
    'training and validation are far apart: accuracy 0.977 on training pictures and 0.720 on \
validation, over the last 3 epochs (alarms.gap=0.15)'
    """
    if len(train_accuracies) < epochs or len(val_accuracies) < epochs or pictures < 1:
        return None
    seen, others = fmean(train_accuracies[-epochs:]), fmean(val_accuracies[-epochs:])
    chance = 2 * math.sqrt(others * (1 - others) / pictures)
    if seen - others < max(gap, chance):
        return None
    over = f"over the last {epochs} epochs" if epochs > 1 else "in the last epoch"
    return (
        f"training and validation are far apart: accuracy {seen:.3f} on training pictures and "
        f"{others:.3f} on validation, {over} (alarms.gap={gap:g}); the network memorises pictures "
        f"rather than classes: look at predictions/mistakes, and whether validation is like "
        f"training; more pictures, augmentation, dropout or fewer trained layers help"
    )


def check_overfitting(
    train_losses: list[float], val_losses: list[float], *, epochs: int, rise: float
) -> str | None:
    """The overfitting notice, or None.

    Raised when, in each of the last ``epochs`` epochs, the validation loss stood above its
    minimum, on average by at least the share ``rise`` of it, while the training loss fell
    below what it was at that minimum. Averaging keeps a noisy but level curve from being
    called overfitted.

    Args:
        train_losses: of epochs 1, 2, …
        val_losses: of the same epochs.
        epochs: how many last epochs must agree.
        rise: share of the minimum, 0.15 is 15 %.

    Returns:
        One line that names the epoch to stop at.

    >>> check_overfitting([1, 0.8, 0.6, 0.4, 0.2], [1, 0.8, 0.9, 1.0, 1.1], epochs=3, rise=0.15)
    'overfitting: validation loss was lowest (0.800) after epoch 2 and 25% above it on average \
over the last 3 epochs, while training loss fell from 0.800 to 0.200; stop at epoch 2, or \
regularise (dropout, augmentation, weight decay, a smaller network)'
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
        f"overfitting: validation loss was lowest ({lowest:.3f}) after epoch {best + 1} and "
        f"{higher:.0%} above it on average over the last {epochs} epochs, while training loss "
        f"fell from {before} to {now}; stop at epoch {best + 1}, "
        f"or regularise (dropout, augmentation, weight decay, a smaller network)"
    )
