"""Helpers shared by several tests. Scripts that are run by hand add ``tests/`` to their path."""
