"""Masks of the objects in images."""
