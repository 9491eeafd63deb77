"""The libraries convlens is measured against, each run in an environment of its own."""
