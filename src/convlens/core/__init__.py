"""Tools for every package: errors, processes, files, locks, downloads, progress, evaluation.

Only ``convlens.core.evaluation`` needs torch.
"""
