"""Lessons: what a network is made of, one step at a time."""
