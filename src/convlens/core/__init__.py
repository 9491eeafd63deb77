"""What every room may use: errors, processes, whole files, locks, downloads, progress, evaluation.

Only :mod:`convlens.core.evaluation` needs torch.
"""
