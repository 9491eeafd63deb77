"""Data and models to learning: the LightningModule and what it is made of."""

from convlens.training.module import ClassifierModule

__all__ = ["ClassifierModule"]
