"""Signals, failures and checkpoints: a run ends without loss and can be resumed."""
