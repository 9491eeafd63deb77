"""Exported networks: how the files are written, what they state, how they are read."""
