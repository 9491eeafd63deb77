"""Tools that every package uses: errors, processes, files, locks, downloads, progress, evaluation.

Only ``convlens.core.evaluation`` needs torch.
"""
