"""Lesson: how a network learns, on one weight and on a small network; its functions as curves."""
