"""Lessons that show, step by step, what a network is made of."""
