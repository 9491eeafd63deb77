"""The run folder: its path, its lock, and the files that a run reads and writes there."""
