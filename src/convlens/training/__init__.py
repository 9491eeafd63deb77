"""Training: the LightningModule, its loss, metrics, optimizers and schedule."""

from convlens.training.module import ClassifierModule

__all__ = ["ClassifierModule"]
