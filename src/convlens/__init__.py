"""convlens: train an image classifier and watch what it learns while it learns it."""

__version__ = "0.1.0"
