"""Writes scalars, pictures and hyperparameters to files and TensorBoard."""
