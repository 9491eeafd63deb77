"""Scalars, pictures and hyperparameters into files and TensorBoard."""
