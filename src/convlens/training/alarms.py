"""What a run's numbers say when something is wrong."""

from __future__ import annotations

from statistics import fmean


def overfitting(
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

    >>> overfitting([1, 0.8, 0.6, 0.4, 0.2], [1, 0.8, 0.9, 1.0, 1.1], epochs=3, rise=0.15)
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
    return (
        f"overfitting: validation loss was lowest ({lowest:.3f}) after epoch {best + 1} and "
        f"{higher:.0%} above it on average over the last {epochs} epochs, while training loss "
        f"fell from {train_losses[best]:.3f} to {train_losses[-1]:.3f}; stop at epoch {best + 1}, "
        f"or regularise (dropout, augmentation, weight decay, a smaller network)"
    )
